//! Who may have a go at what several Services share: one at a time.
//!
//! Owns: [`Lanes`]. Leaves to others: what is shared (a provider), how many goes there are at all (`gate`).
//! Invariants: two goes that have a name in common never overlap; names are taken in their order, and before the gate, so
//! that nobody waits in a circle; what nobody holds or waits for is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Lane, OwnedMutexGuard};

/// A lane for each name that somebody holds or waits for.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Mutex<BTreeMap<String, Weak<Lane<()>>>>,
}

/// Lanes that are taken; dropping it leaves them.
#[derive(Debug, Default)]
pub(crate) struct Held {
    names: BTreeSet<String>,
    _guards: Vec<OwnedMutexGuard<()>>,
}

impl Held {
    /// What is held.
    pub(crate) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
}

impl Lanes {
    /// Waits for all of them; first come, first served in each.
    pub(crate) async fn enter(&self, names: BTreeSet<String>) -> Held {
        let mut guards = Vec::with_capacity(names.len());
        for name in &names {
            guards.push(self.lane(name).lock_owned().await);
        }
        Held { names, _guards: guards }
    }

    fn lane(&self, name: &str) -> Arc<Lane<()>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| lane.strong_count() > 0);
        if let Some(lane) = lanes.get(name).and_then(Weak::upgrade) {
            return lane;
        }
        let lane = Arc::default();
        lanes.insert(name.to_owned(), Arc::downgrade(&lane));
        lane
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
        let lanes = Arc::new(Lanes::default());
        let first = lanes.enter(names(&["a", "b"])).await;
        let waits = tokio::spawn({
            let lanes = Arc::clone(&lanes);
            async move { lanes.enter(names(&["b", "c"])).await.names().clone() }
        });
        yield_now().await;
        assert!(!waits.is_finished());
        drop(lanes.enter(names(&["d"])).await);
        drop(lanes.enter(names(&[])).await);
        drop(first);
        assert_eq!(waits.await.unwrap(), names(&["b", "c"]));
        drop(lanes.enter(names(&["a"])).await);
        assert!(lanes.lanes.lock().unwrap().len() <= 1, "nothing is kept that nobody holds");
    }
}
