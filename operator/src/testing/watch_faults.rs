//! How a watch brings its events: at once, or as a bad day at the API server brings them.
//!
//! ```text
//! event ─┬─▶ late, in its object's order, and so in any order across objects
//!        ├─▶ and once more, after newer ones
//!        └─▶ not at all; a relist shows what became of it, some time later
//! ```
//! Owns: [`WatchFaults`], what happens to each event. Leaves to others: delivering it (`cluster`).
//! Invariants: the same seed and the same calls give the same faults. The last state of every object arrives, late by seconds at
//! most. A relist ends the watch before it, with all events that it has not delivered.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// The next moment that a timer tells from this one.
const TICK: Duration = Duration::from_millis(1);

/// The delivery of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Now,
    At(Instant),
    /// All objects of the kind are listed again instead: read at the first moment, shown at the second.
    Relist(Instant, Instant),
}

/// The faults on all watches of a cluster.
#[derive(Debug, Default)]
pub(crate) struct WatchFaults {
    /// `None`: calm.
    random: Option<Random>,
    /// All of it comes so late, and else as it happened.
    lag: Duration,
    /// When the last event of an object arrives.
    last: HashMap<(&'static str, String), Instant>,
    /// The last relist of a kind: when it is read and shown.
    relists: BTreeMap<&'static str, (Instant, Instant)>,
}

impl WatchFaults {
    /// Everything at once.
    pub(crate) fn calm() -> Self {
        Self::default()
    }

    /// Everything in order and so late.
    pub(crate) fn late(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// As bad as it gets. The seed is that of `PORTICO_WATCH_SEED`, where it is set.
    pub(crate) fn foul(seed: u64) -> Self {
        let asked = std::env::var("PORTICO_WATCH_SEED").ok().and_then(|seed| seed.parse().ok());
        Self { random: Some(Random(asked.unwrap_or(seed))), ..Self::default() }
    }

    /// Foul, with a seed that is this test's own.
    pub(crate) fn of_this_test() -> Self {
        let mut hasher = DefaultHasher::new();
        std::thread::current().name().hash(&mut hasher);
        Self::foul(hasher.finish())
    }

    /// Deliveries of an event of an object that happens now.
    pub(super) fn deliveries(&mut self, kind: &'static str, object: &str, now: Instant) -> Vec<Delivery> {
        let Some(random) = &mut self.random else {
            return vec![if self.lag.is_zero() { Delivery::Now } else { Delivery::At(now + self.lag) }];
        };
        if random.one_in(12) {
            return self.relist(kind, now).into_iter().collect();
        }
        let delay = if random.one_in(4) { random.up_to(400) } else { random.up_to(5) };
        let again = random.one_in(6).then(|| random.up_to(1_500));
        let last = self.last.entry((kind, object.to_owned())).or_insert(now);
        let shown = self.relists.get(kind).filter(|(read, _)| *read <= now).map(|(_, shown)| *shown + TICK);
        let due = (now + delay).max(*last + TICK).max(shown.unwrap_or(now));
        *last = due;
        let again = again.map(|later| Delivery::At(due + later));
        std::iter::once(Delivery::At(due)).chain(again).collect()
    }

    /// Other watches begin, of another process.
    pub(super) fn restart(&mut self) {
        self.last.clear();
        self.relists.clear();
    }

    /// Whether what was sent then is of a watch that a relist has ended since.
    pub(super) fn is_cut(&self, kind: &'static str, sent: Instant, now: Instant) -> bool {
        self.relists.get(kind).is_some_and(|(read, _)| sent < *read && *read <= now)
    }

    /// A relist that reads what is there now or later.
    fn relist(&mut self, kind: &'static str, now: Instant) -> Option<Delivery> {
        let before = self.relists.get(kind).copied();
        if before.is_some_and(|(read, _)| read > now) {
            return None;
        }
        let random = self.random.as_mut()?;
        let read = (now + TICK + random.up_to(800)).max(before.map_or(now, |(_, shown)| shown + TICK));
        let shown = read + TICK + random.up_to(50);
        self.relists.insert(kind, (read, shown));
        Some(Delivery::Relist(read, shown))
    }
}

/// `SplitMix64`: <https://prng.di.unimi.it/splitmix64.c>
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    fn up_to(&mut self, milliseconds: u64) -> Duration {
        Duration::from_millis(self.next() % (milliseconds + 1))
    }
}
