//! Chains and maps: the missing ones, and the surplus ones.
//!
//! Owns the number of users of each, and the age of surplus ones. A namespace may have chains and maps of its
//! own, so a change costs its own size, not that of all objects.
//!
//! Invariants: `missing` has the objects that are needed and not programmed, `surplus` those that are
//! programmed and not needed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

use super::Moment;

/// Objects of one kind.
#[derive(Debug)]
pub(super) struct Objects<K> {
    users: HashMap<K, usize>,
    missing: BTreeSet<K>,
    /// With the time since when nothing leads there, as far as it is known.
    surplus: BTreeMap<K, Option<Moment>>,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self { users: HashMap::new(), missing: BTreeSet::new(), surplus: BTreeMap::new() }
    }
}

impl<K: Copy + Ord + Hash> Objects<K> {
    /// Adds a user; whether it is the first.
    pub(super) fn need(&mut self, object: K) -> bool {
        let users = self.users.entry(object).or_default();
        *users += 1;
        let first = *users == 1;
        if first && self.surplus.remove(&object).is_none() {
            self.missing.insert(object);
        }
        first
    }

    /// Removes a user; whether it was the last.
    pub(super) fn release(&mut self, object: &K) -> bool {
        let Some(users) = self.users.get_mut(object) else { return false };
        *users -= 1;
        let last = *users == 0;
        if last {
            self.users.remove(object);
            if !self.missing.remove(object) {
                self.surplus.insert(*object, None);
            }
        }
        last
    }

    /// Records the programmed objects.
    pub(super) fn observe(&mut self, found: &BTreeSet<K>) {
        self.missing = self.users.keys().filter(|object| !found.contains(object)).copied().collect();
        let surplus = found.iter().filter(|object| !self.users.contains_key(object));
        self.surplus = surplus.map(|object| (*object, None)).collect();
    }

    /// Records objects that were added and removed.
    pub(super) fn applied(&mut self, added: &[K], removed: &[K]) {
        for object in added {
            self.missing.remove(object);
            if !self.users.contains_key(object) {
                self.surplus.insert(*object, None);
            }
        }
        for object in removed {
            self.surplus.remove(object);
            if self.users.contains_key(object) {
                self.missing.insert(*object);
            }
        }
    }

    /// Marks surplus objects as unreachable from `now` on.
    pub(super) fn retire(&mut self, now: Moment) {
        for retired in self.surplus.values_mut() {
            retired.get_or_insert(now);
        }
    }

    /// Objects to create.
    pub(super) fn missing(&self) -> Vec<K> {
        self.missing.iter().copied().collect()
    }

    /// Objects to delete.
    pub(super) fn surplus(&self, may_go: impl Fn(&Option<Moment>) -> bool) -> Vec<K> {
        self.surplus.iter().filter(|(_, retired)| may_go(retired)).map(|(object, _)| *object).collect()
    }

    /// Whether exactly the needed objects are programmed.
    pub(super) fn is_settled(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty()
    }
}
