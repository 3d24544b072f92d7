//! Which Events are worth a write: what client-go's `EventCorrelator` does, by its numbers.
//!
//! ```text
//! notice ─▶ ten others like it in ten minutes? one for all of them ─▶ sent before? counted up ─▶ more than 25 about one
//!           object? one in five minutes
//! ```
//! Owns: the decision, and what it is made from. Leaves to others: writing (`events`).
//! Invariant: memory is bounded, however many objects have Events: each kind of it keeps the [`CAPACITY`] that were
//! used last. Source: <https://pkg.go.dev/k8s.io/client-go/tools/record#EventCorrelator>

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::Instant;

use super::{Notice, Severity};

/// `maxLruCacheEntries`.
const CAPACITY: usize = 4_096;
/// `defaultAggregateMaxEvents`: so many different notes of one reason become one Event.
const SIMILAR: usize = 10;
/// `defaultAggregateIntervalInSeconds`: as long as they are not farther apart.
const SIMILAR_WITHIN: Duration = Duration::from_mins(10);
/// `defaultSpamBurst`: Events about one object at once.
const BURST: f64 = 25.0;
/// `defaultSpamQPS`: and then one in so much time.
const REFILL: Duration = Duration::from_mins(5);

/// The object, as far as Events distinguish it.
type Object = (String, String, String);
/// Notices that may be one Event.
type Similar = (Object, bool, String);
/// Notices that say the same; `None`: those that stand for all similar ones.
type Same = (Similar, Option<(String, String)>);

/// The write that a notice is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Correlated {
    /// Make an Event of this name.
    New(Notice, String),
    /// The Event of this name has occurred so often.
    Again { name: String, count: i32, notice: Notice },
    /// Nothing: that object has too many Events.
    Spam,
}

/// The Events that were sent.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    similar: Recent<Similar, (BTreeSet<String>, Instant)>,
    sent: Recent<Same, (String, i32)>,
    tokens: Recent<Object, (f64, Instant)>,
}

impl Correlator {
    /// Decides, and remembers. `name`: of a new Event.
    pub(super) fn correlate(
        &mut self,
        about: &ObjectReference,
        notice: Notice,
        name: String,
        now: Instant,
    ) -> Correlated {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let object = (part(&about.namespace), part(&about.name), part(&about.uid));
        let similar = (object.clone(), notice.severity == Severity::Warning, notice.reason.clone());
        let (notice, same) = self.aggregate(similar, notice, now);
        let (sent, count) = self.sent.get_or(same, || (name, 0));
        *count += 1;
        let (sent, count) = (sent.clone(), *count);
        if !self.allows(object, now) {
            return Correlated::Spam;
        }
        if count == 1 {
            Correlated::New(notice, sent)
        } else {
            Correlated::Again { name: sent, count, notice }
        }
    }

    /// The Event of that name is gone from the API server; its notice is sent under a new name.
    pub(super) fn renamed(&mut self, old: &str, name: &str) {
        for (sent, count) in self.sent.values_mut().filter(|(sent, _)| sent == old) {
            name.clone_into(sent);
            *count = 1;
        }
    }

    fn aggregate(&mut self, similar: Similar, notice: Notice, now: Instant) -> (Notice, Same) {
        let (notes, last) = self.similar.get_or(similar.clone(), || (BTreeSet::new(), now));
        if now.duration_since(*last) > SIMILAR_WITHIN {
            notes.clear();
        }
        *last = now;
        notes.insert(notice.note.clone());
        if notes.len() < SIMILAR {
            let own = Some((notice.action.clone(), notice.note.clone()));
            return (notice, (similar, own));
        }
        notes.pop_first();
        let note = format!("(combined from similar events): {}", notice.note);
        (Notice { note, ..notice }, (similar, None))
    }

    fn allows(&mut self, object: Object, now: Instant) -> bool {
        let (tokens, last) = self.tokens.get_or(object, || (BURST, now));
        let refilled = now.duration_since(*last).as_secs_f64() / REFILL.as_secs_f64();
        *tokens = (*tokens + refilled).min(BURST);
        *last = now;
        let allowed = *tokens >= 1.0;
        if allowed {
            *tokens -= 1.0;
        }
        allowed
    }
}

/// A map that keeps what was used last.
#[derive(Debug)]
struct Recent<K, V> {
    values: HashMap<K, (u64, V)>,
    uses: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), uses: 0 }
    }
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    fn get_or(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if self.values.len() >= CAPACITY && !self.values.contains_key(&key) {
            let oldest = self.values.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.values.remove(&key));
        }
        let (used, value) = self.values.entry(key).or_insert_with(|| (0, new()));
        *used = self.uses;
        value
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.values_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> ObjectReference {
        ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() }
    }

    fn notice(note: &str) -> Notice {
        Notice {
            severity: Severity::Normal,
            reason: "Executed".to_owned(),
            action: "Execute".to_owned(),
            note: note.to_owned(),
        }
    }

    /// A correlator that names Events by numbers.
    #[derive(Default)]
    struct Notifier {
        correlator: Correlator,
        number: u32,
    }

    impl Notifier {
        fn notify(&mut self, name: &str, note: &str, now: Instant) -> Correlated {
            self.number += 1;
            self.correlator.correlate(&object(name), notice(note), self.number.to_string(), now)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_again_is_counted_and_ten_that_are_similar_become_one() {
        let (mut notifier, now) = (Notifier::default(), Instant::now());
        assert_eq!(notifier.notify("web", "a", now), Correlated::New(notice("a"), "1".to_owned()));
        let again = Correlated::Again { name: "1".to_owned(), count: 2, notice: notice("a") };
        assert_eq!(notifier.notify("web", "a", now), again);
        for note in ["b", "c", "d", "e", "f", "g", "h", "i"] {
            assert!(matches!(notifier.notify("web", note, now), Correlated::New(..)), "{note}");
        }
        let Correlated::New(combined, name) = notifier.notify("web", "j", now) else { panic!("the tenth") };
        assert_eq!(combined.note, "(combined from similar events): j");
        let Correlated::Again { name: same, count: 2, .. } = notifier.notify("web", "k", now) else {
            panic!("eleventh")
        };
        assert_eq!(same, name);
        assert!(matches!(notifier.notify("other", "k", now), Correlated::New(..)), "another object");
        let later = now + SIMILAR_WITHIN * 2;
        assert!(
            matches!(notifier.notify("web", "l", later), Correlated::New(it, _) if it.note == "l"),
            "a new row"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_object_with_events_all_the_time_25_are_written_and_then_one_in_five_minutes() {
        let (mut notifier, start) = (Notifier::default(), Instant::now());
        let written = |notifier: &mut Notifier, now| {
            (0..100).filter(|_| notifier.notify("web", "a", now) != Correlated::Spam).count()
        };
        assert_eq!(written(&mut notifier, start), 25);
        assert_eq!(written(&mut notifier, start + REFILL), 1);
        assert_eq!(written(&mut notifier, start + REFILL * 100), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_changes_all_day_costs_each_service_less_than_one_event_a_change() {
        let (mut notifier, start) = (Notifier::default(), Instant::now());
        let mut written = 0;
        for change in 0..1_000_u32 {
            let now = start + Duration::from_mins(1) * change;
            for step in ["register", "deregister", "update rules"] {
                let note = format!("{step} node-{change}");
                written += usize::from(notifier.notify("web", &note, now) != Correlated::Spam);
            }
        }
        assert!(written <= 25 + 1_000 / 5 + 1, "{written}");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let (mut notifier, now) = (Notifier::default(), Instant::now());
        for number in 0..3 * CAPACITY {
            notifier.notify(&format!("web-{number}"), "a", now);
        }
        let Correlator { similar, sent, tokens } = &notifier.correlator;
        assert_eq!([similar.values.len(), sent.values.len(), tokens.values.len()], [CAPACITY; 3]);
    }
}
