//! Keyed locks: of the attempts that share something at the provider, one runs at a time.
//!
//! Owns: [`Locks`]. Leaves to others: what is shared (a provider), how many attempts run at all (`permits`).
//! Invariants: two attempts that have a name in common never overlap. Names are locked in their order, and before the permits, so
//! that no attempts wait in a circle. A lock that no attempt holds or waits for is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as KeyLock, OwnedMutexGuard};

/// A lock for each name that an attempt holds or waits for.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    locks: Mutex<BTreeMap<String, Weak<KeyLock<()>>>>,
}

/// Locks that are taken; dropping it leaves them.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks {
    names: BTreeSet<String>,
    _guards: Vec<OwnedMutexGuard<()>>,
}

impl HeldLocks {
    /// Names of the locks.
    pub(crate) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
}

impl Locks {
    /// Waits for all of them; first come, first served in each.
    pub(crate) async fn acquire(&self, names: BTreeSet<String>) -> HeldLocks {
        let mut guards = Vec::with_capacity(names.len());
        for name in &names {
            guards.push(self.lock(name).lock_owned().await);
        }
        HeldLocks { names, _guards: guards }
    }

    fn lock(&self, name: &str) -> Arc<KeyLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    fn names(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn who_shares_a_name_waits_and_who_shares_none_does_not() {
        let locks = Arc::new(Locks::default());
        let first = locks.acquire(names(&["a", "b"])).await;
        let waits = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { locks.acquire(names(&["b", "c"])).await.names().clone() }
        });
        yield_now().await;
        assert!(!waits.is_finished());
        drop(locks.acquire(names(&["d"])).await);
        drop(locks.acquire(names(&[])).await);
        drop(first);
        assert_eq!(waits.await.unwrap(), names(&["b", "c"]));
        drop(locks.acquire(names(&["a"])).await);
        assert!(locks.locks.lock().unwrap().len() <= 1, "nothing is kept that nobody holds");
    }
}
