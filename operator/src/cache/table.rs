//! A map that follows a watch: single changes, relists that replace everything at once, and answers to own writes.
//!
//! Owns: which of two versions of an object counts, and what really changed. Leaves to others: where changes come
//! from and what they cause.
//! Invariants: an older version never replaces a newer one, nor brings back a deleted object. Readers see the old contents until
//! a relist is complete. An unchanged value is no change, except the one that a watch shows after an answer did: the answer may
//! hold what others wrote meanwhile, and no Service was requeued for that. A complete relist counts even where its versions are
//! lower (an etcd that was restored from a backup), except for answers that came while it ran. If versions do not compare, the
//! watch counts, since it has an order of its own.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::cache::version::ResourceVersion;

/// Deleted objects whose versions are kept until the next relist, at most.
const LONGEST_MEMORY: usize = 4_096;

/// Values by key, as last received from the API server.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    current: BTreeMap<K, Versioned<V>>,
    relist: Option<Relist<K, V>>,
    gone: BTreeMap<K, ResourceVersion>,
    synced: bool,
}

#[derive(Debug)]
struct Relist<K, V> {
    listed: BTreeMap<K, Versioned<V>>,
    /// Answers to own writes since it began.
    answers: BTreeMap<K, Versioned<V>>,
}

#[derive(Clone, Debug)]
struct Versioned<V> {
    value: V,
    version: Option<ResourceVersion>,
    /// From an answer; no watch has shown it.
    ahead: bool,
}

impl<V> Versioned<V> {
    fn is_newer_than(&self, other: &Self) -> bool {
        is_older(other.version.as_ref(), self.version.as_ref())
    }
}

/// An object as it was received of.
#[derive(Debug)]
pub(crate) struct Received<K, V> {
    pub(crate) key: K,
    pub(crate) version: Option<ResourceVersion>,
    /// `None`: there is nothing in it worth keeping.
    pub(crate) value: Option<V>,
}

/// A key whose value is another one now.
#[derive(Debug, PartialEq)]
pub(crate) struct Changed<K, V> {
    pub(crate) key: K,
    pub(crate) before: Option<V>,
}

impl<K, V> Default for Relist<K, V> {
    fn default() -> Self {
        Self { listed: BTreeMap::new(), answers: BTreeMap::new() }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), relist: None, gone: BTreeMap::new(), synced: false }
    }
}

/// Whether `one` is certainly older.
fn is_older(one: Option<&ResourceVersion>, other: Option<&ResourceVersion>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one < other)
}

impl<K: Ord + Clone, V: PartialEq + Clone> Table<K, V> {
    /// Whether a whole list has arrived.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// One of them.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.current.get(key).map(|entry| &entry.value)
    }

    /// All of it, in the order of keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.current.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// Those from a key on.
    pub(crate) fn range<Q: Ord + ?Sized>(&self, from: &Q) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let from = (Bound::Included(from), Bound::Unbounded);
        self.current.range::<Q, _>(from).map(|(key, entry)| (key, &entry.value))
    }

    /// The watch shows one, added or changed; `None`: no change.
    pub(crate) fn put(&mut self, received: Received<K, V>) -> Option<Changed<K, V>> {
        let Received { key, version, value } = received;
        let Some(value) = value else { return self.remove(key, version) };
        let is_gone = is_older(version.as_ref(), self.gone.get(&key));
        let known = self.current.get(&key);
        if is_gone || known.is_some_and(|known| is_older(version.as_ref(), known.version.as_ref())) {
            return None;
        }
        self.gone.remove(&key);
        let same = known.is_some_and(|known| known.value == value && !known.ahead);
        let before = self.current.insert(key.clone(), Versioned { value, version, ahead: false });
        (!same).then(|| Changed { key, before: before.map(|before| before.value) })
    }

    /// The watch shows that one is gone; `None`: it was not there, or is another one by now.
    pub(crate) fn remove(&mut self, key: K, version: Option<ResourceVersion>) -> Option<Changed<K, V>> {
        let known = self.current.get(&key);
        if known.is_some_and(|known| is_older(version.as_ref(), known.version.as_ref())) {
            return None;
        }
        let before = self.current.remove(&key);
        if let Some(version) = version {
            let newest = self.gone.get(&key).is_none_or(|gone| *gone < version);
            if newest {
                self.gone.insert(key.clone(), version);
            }
            self.forget_oldest();
        }
        before.map(|before| Changed { key, before: Some(before.value) })
    }

    fn forget_oldest(&mut self) {
        if self.gone.len() > LONGEST_MEMORY {
            let oldest = self.gone.iter().min_by(|(_, one), (_, other)| one.cmp(other));
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.gone.remove(&key);
            }
        }
    }

    /// Takes in the answer to a write of a known object, if it is certainly newer than what is known.
    pub(crate) fn answered(&mut self, key: &K, version: Option<ResourceVersion>, value: V) {
        let Some(known) = self.current.get_mut(key) else { return };
        let answer = Versioned { value, version, ahead: true };
        if !answer.is_newer_than(known) {
            return;
        }
        if let Some(relist) = &mut self.relist {
            relist.answers.insert(key.clone(), answer.clone());
        }
        *known = answer;
    }

    /// A relist begins.
    pub(crate) fn begin(&mut self) {
        self.relist = Some(Relist::default());
    }

    /// One of a relist.
    pub(crate) fn stage(&mut self, received: Received<K, V>) {
        let Received { key, version, value } = received;
        if let Some(value) = value {
            let listed = &mut self.relist.get_or_insert_default().listed;
            listed.insert(key, Versioned { value, version, ahead: false });
        }
    }

    /// A relist is complete: what appeared, changed or vanished.
    pub(crate) fn finish(&mut self) -> Vec<Changed<K, V>> {
        self.synced = true;
        self.gone.clear();
        let Relist { mut listed, answers } = self.relist.take().unwrap_or_default();
        for (key, answer) in answers {
            if let Some(it) = listed.get_mut(&key).filter(|it| answer.is_newer_than(it)) {
                *it = answer;
            }
        }
        let mut old = std::mem::replace(&mut self.current, listed);
        let mut changed = Vec::new();
        for (key, entry) in &self.current {
            let before = old.remove(key);
            if before.as_ref().is_none_or(|before| before.ahead || before.value != entry.value) {
                changed.push(Changed { key: key.clone(), before: before.map(|before| before.value) });
            }
        }
        changed.extend(old.into_iter().map(|(key, before)| Changed { key, before: Some(before.value) }));
        changed
    }
}

#[cfg(test)]
mod tests;
