//! The nodes behind a synced hash: those read for one Service hold for all others with the same hash.
//!
//! Owns: [`Nodes`]. Leaves to others: reading, and checking the read nodes against the hash (`observe/behind`).
//! Invariant: there are few, as Services mostly have the same nodes; when there are many, all are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use tokio::sync::OnceCell;

use super::Cache;

/// With a thousand nodes each is twenty kilobytes.
const MOST: usize = 64;

/// Nodes by the digest of them; who reads first fills it in.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_hash: BTreeMap<String, Arc<OnceCell<BTreeSet<String>>>>,
}

impl Nodes {
    fn of(&mut self, synced: &str) -> Arc<OnceCell<BTreeSet<String>>> {
        if self.by_hash.len() >= MOST && !self.by_hash.contains_key(synced) {
            self.by_hash.clear();
        }
        Arc::clone(self.by_hash.entry(synced.to_owned()).or_default())
    }
}

impl Cache {
    /// The cell that holds the nodes of a synced hash.
    pub(crate) fn nodes_of_hash(&self, synced: &str) -> Arc<OnceCell<BTreeSet<String>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).of(synced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_is_known_and_it_never_grows_without_bound() {
        let (mut all, of) = (Nodes::default(), |n: usize| BTreeSet::from([format!("i-{n}")]));
        for n in 0..1_000 {
            all.of(&format!("hash-{n}")).set(of(n)).unwrap();
            assert_eq!(all.of(&format!("hash-{n}")).get(), Some(&of(n)));
            assert!(all.by_hash.len() <= MOST);
        }
        assert_eq!(all.of("hash-0").get(), None, "forgotten");
    }
}
