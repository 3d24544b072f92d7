//! How much the collector may delete at a time (law 2).
//!
//! Owns: [`Allowance`]. Leaves to others: what is to be deleted.
//! Invariant: a fault that makes everything look unclaimed (a restored etcd, finalizers stripped by a script) costs a few load
//! balancers before an operator reads the warning, and not all of them. In the end all that is unclaimed is deleted.

use std::collections::VecDeque;
use std::time::Duration;

use portico_provider::ServiceUid;
use tokio::time::Instant;

/// So many may always be deleted, however few exist.
const FEWEST: usize = 3;

/// The deletion limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeletionLimits {
    /// At most so many.
    pub(crate) count: usize,
    /// And at most this share of all that exist, in percent, but three at least.
    pub(crate) share: u8,
    /// In so long.
    pub(crate) window: Duration,
}

/// The deletions of the current window.
#[derive(Debug)]
pub(crate) struct Allowance {
    limits: DeletionLimits,
    spent: VecDeque<(Instant, ServiceUid)>,
}

impl Allowance {
    pub(crate) fn new(limits: DeletionLimits) -> Self {
        Self { limits, spent: VecDeque::new() }
    }

    /// Whether this one may be deleted now, of `existing` load balancers. One that is being deleted already may.
    pub(crate) fn allows(&mut self, uid: &ServiceUid, existing: usize, now: Instant) -> bool {
        let left = self.left(existing, now);
        left > 0 || self.spent.iter().any(|(_, spent)| spent == uid)
    }

    fn left(&mut self, existing: usize, now: Instant) -> usize {
        let DeletionLimits { count, share, window } = self.limits;
        while self.spent.front().is_some_and(|(at, _)| now.duration_since(*at) >= window) {
            self.spent.pop_front();
        }
        // What went in this window existed at its beginning.
        let all = existing + self.spent.len();
        let most = count.min((all * usize::from(share) / 100).max(FEWEST));
        most.saturating_sub(self.spent.len())
    }

    /// Counts a deletion.
    pub(crate) fn spend(&mut self, uid: ServiceUid, now: Instant) {
        if self.spent.iter().all(|(_, spent)| *spent != uid) {
            self.spent.push_back((now, uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_window_allows_a_few_deletions_and_the_next_one_again() {
        let (start, window) = (Instant::now(), Duration::from_mins(10));
        for (count, share, existing, expected) in
            [(10, 10, 1_000, 10), (10, 10, 50, 5), (10, 10, 4, 3), (0, 100, 1_000, 0), (10, 100, 8, 8)]
        {
            let mut allowance = Allowance::new(DeletionLimits { count, share, window });
            let mut left = existing;
            let mut gone = 0;
            while allowance.left(left, start) > 0 && left > 0 {
                allowance.spend(format!("uid-{gone}").parse().unwrap(), start);
                left -= 1;
                gone += 1;
            }
            assert_eq!(gone, expected, "{count} {share} {existing}");
            assert_eq!(allowance.left(left, start + window / 2), 0);
            assert_eq!(allowance.left(left, start + window) > 0, count > 0);
        }
    }
}
