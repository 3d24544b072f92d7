//! Targets of one Service that AWS refused, and until when they are not offered again.
//!
//! Owns: counting refusals, forgetting them, and showing them among the targets. Leaves to others: how long
//! (`plan::Pace`). Invariants: a refused target is shown until it is due; then it is planned for like a new one. A
//! registered target is never shown as refused. Losing this state costs one more try.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::cloud::refusal::{Refusal, Unfit};
use crate::cloud::resources::{Health, Target};
use crate::observed::{Observed, Targets};

/// One that is due for so long is wanted no more.
const FORGOTTEN: Duration = Duration::from_hours(1);

#[derive(Clone, Debug)]
struct Note {
    refusal: Refusal,
    until: Instant,
}

/// By target group's name and target.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(BTreeMap<String, BTreeMap<Target, Note>>);

impl Refused {
    pub(super) fn knows(&self, group: &str, target: &Target) -> bool {
        self.0.get(group).is_some_and(|notes| notes.contains_key(target))
    }

    /// Takes in how an offer went. `again`: how long to wait after so many refusals.
    pub(super) fn offered(
        &mut self,
        group: &str,
        taken: &[Target],
        refused: Vec<(Target, Unfit, String)>,
        now: Instant,
        again: impl Fn(u32) -> Duration,
    ) {
        let notes = self.0.entry(group.to_owned()).or_default();
        notes.retain(|target, note| !taken.contains(target) && note.until + FORGOTTEN > now);
        for (target, why, words) in refused {
            let before = notes.get(&target).map_or(0, |note| note.refusal.tries);
            // One that never had its turn waits no longer for it.
            let tries = if why == Unfit::Unsorted { before.max(1) } else { before.saturating_add(1) };
            let until = now + again(tries);
            notes.insert(target, Note { refusal: Refusal { why, words, tries }, until });
        }
        self.0.retain(|_, notes| !notes.is_empty());
    }

    /// Shows those that are not due among the targets that were read or cached.
    pub(super) fn show(&self, observed: &mut Observed, now: Instant) {
        match observed {
            Observed::Full(view) => {
                for (name, group) in &mut view.target_groups {
                    self.show_in(name, &mut group.targets, now);
                }
            }
            Observed::Snapshot(snapshot) => {
                for (name, targets) in snapshot.targets.iter_mut().flatten() {
                    self.show_in(name, targets, now);
                }
            }
        }
    }

    fn show_in(&self, group: &str, targets: &mut Targets, now: Instant) {
        let notes = self.0.get(group).into_iter().flatten().filter(|(_, note)| note.until > now);
        for (target, Note { refusal, until: _ }) in notes {
            targets.entry(target.clone()).or_insert_with(|| Health::Refused(refusal.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Snapshot;

    fn mk_target(n: u16) -> Target {
        Target { id: format!("i-{n}"), port: 80 }
    }

    fn again(tries: u32) -> Duration {
        Duration::from_secs(30) * (1 << (tries - 1))
    }

    fn refuse(refused: &mut Refused, target: u16, why: Unfit, now: Instant) {
        let words = "no".to_owned();
        refused.offered("g", &[], vec![(mk_target(target), why, words)], now, again);
    }

    fn shown(refused: &Refused, now: Instant) -> Targets {
        let targets = BTreeMap::from([("g".to_owned(), Targets::from([(mk_target(1), Health::Healthy)]))]);
        let snapshot = Snapshot { targets: Some(targets), ..Snapshot::default() };
        let mut observed = Observed::Snapshot(snapshot);
        refused.show(&mut observed, now);
        let Observed::Snapshot(Snapshot { targets: Some(mut targets), .. }) = observed else { panic!() };
        targets.remove("g").unwrap()
    }

    #[test]
    fn a_refused_one_is_shown_until_it_is_due_and_each_time_longer() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        refuse(&mut refused, 2, Unfit::Gone, start);
        let after = |secs| start + Duration::from_secs(secs);
        assert!(shown(&refused, after(29)).contains_key(&mk_target(2)));
        assert!(!shown(&refused, after(30)).contains_key(&mk_target(2)));
        assert!(refused.knows("g", &mk_target(2)) && !refused.knows("h", &mk_target(2)));
        refuse(&mut refused, 2, Unfit::Gone, after(30));
        assert!(shown(&refused, after(89)).contains_key(&mk_target(2)), "a minute by now");
        assert!(!shown(&refused, after(90)).contains_key(&mk_target(2)));
        refuse(&mut refused, 3, Unfit::Unsorted, after(90));
        refuse(&mut refused, 3, Unfit::Unsorted, after(120));
        assert!(!shown(&refused, after(150)).contains_key(&mk_target(3)), "it never had its turn");
    }

    #[test]
    fn one_that_is_taken_is_forgotten_and_one_that_is_there_is_not_shown_as_refused() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        refuse(&mut refused, 1, Unfit::Gone, now);
        assert_eq!(shown(&refused, now)[&mk_target(1)], Health::Healthy);
        refused.offered("g", &[mk_target(1)], Vec::new(), now, again);
        assert!(!refused.knows("g", &mk_target(1)));
        refuse(&mut refused, 2, Unfit::Gone, now);
        refuse(&mut refused, 3, Unfit::Gone, now + FORGOTTEN + FORGOTTEN);
        assert!(!refused.knows("g", &mk_target(2)), "nobody asks for it any more");
    }
}
