//! A map that follows a watch: single changes, and relists that replace everything at once.
//!
//! Owns: telling what really changed. Leaves to others: where changes come from and what they cause.
//! Invariant: readers see the old contents until a relist is complete; an unchanged value is no change.

use std::collections::BTreeMap;

/// Values by key, as last heard from the API server.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    current: BTreeMap<K, V>,
    relist: BTreeMap<K, V>,
    synced: bool,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), relist: BTreeMap::new(), synced: false }
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// Whether a whole list has arrived.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// All of it, by key.
    pub(crate) fn entries(&self) -> &BTreeMap<K, V> {
        &self.current
    }

    /// One was added or changed; whether that is a change.
    pub(crate) fn put(&mut self, key: K, value: V) -> bool {
        if self.current.get(&key) == Some(&value) {
            return false;
        }
        self.current.insert(key, value);
        true
    }

    /// One is gone; whether it was there.
    pub(crate) fn remove(&mut self, key: &K) -> bool {
        self.current.remove(key).is_some()
    }

    /// A relist begins.
    pub(crate) fn begin(&mut self) {
        self.relist.clear();
    }

    /// One of a relist.
    pub(crate) fn stage(&mut self, key: K, value: V) {
        self.relist.insert(key, value);
    }

    /// A relist is complete: the keys that appeared, changed or vanished.
    pub(crate) fn finish(&mut self) -> Vec<K> {
        self.synced = true;
        let old = std::mem::replace(&mut self.current, std::mem::take(&mut self.relist));
        let mut changed: Vec<K> = old.keys().filter(|key| !self.current.contains_key(key)).cloned().collect();
        changed.extend(
            self.current
                .iter()
                .filter(|(key, value)| old.get(key) != Some(value))
                .map(|(key, _)| key.clone()),
        );
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relist_shows_the_old_until_it_is_complete_and_then_says_what_changed() {
        let mut table = Table::default();
        assert!(table.put("a", 1) && table.put("b", 1) && table.put("c", 1));
        assert!(!table.put("a", 1), "the same again is no change");
        table.begin();
        table.stage("a", 1);
        table.stage("b", 2);
        table.stage("d", 1);
        assert_eq!(table.entries().get("c"), Some(&1));
        assert!(!table.is_synced());
        let mut changed = table.finish();
        changed.sort_unstable();
        assert_eq!(changed, ["b", "c", "d"]);
        assert!(table.is_synced() && !table.remove(&"c"));
    }
}
