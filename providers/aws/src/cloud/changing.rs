//! Resources that are being changed or deleted, and so are about to be marked synced or read.
//!
//! Owns: [`Changing`]. Leaves to others: whose call that is (`batches`). Invariant: it decides how long a caller waits,
//! and nothing else; a change that never ends is forgotten after a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Things whose change has begun and not ended.
#[derive(Debug)]
pub(super) struct Changing<K> {
    since: Mutex<BTreeMap<K, Instant>>,
    /// A change that takes longer has failed, or waits for something else than its turn.
    most: Duration,
}

impl<K: Ord + Clone> Changing<K> {
    pub(super) fn new(most: Duration) -> Self {
        Self { since: Mutex::default(), most }
    }

    pub(super) fn begins(&self, it: &K) {
        self.since().insert(it.clone(), Instant::now());
    }

    pub(super) fn ends(&self, it: &K) {
        self.since().remove(it);
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        let mut since = self.since();
        since.retain(|_, began| began.elapsed() < self.most);
        !since.is_empty()
    }

    fn since(&self) -> MutexGuard<'_, BTreeMap<K, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_until_it_ends_or_for_as_long_as_one_may_take() {
        let (changing, one, two) = (Changing::new(Duration::from_secs(10)), 1, 2);
        assert!(!changing.any());
        changing.begins(&one);
        changing.begins(&two);
        changing.ends(&one);
        advance(Duration::from_secs(9)).await;
        assert!(changing.any());
        changing.begins(&one);
        advance(Duration::from_secs(1)).await;
        changing.ends(&one);
        assert!(!changing.any(), "the other one takes too long");
    }
}
