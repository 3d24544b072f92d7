//! How many load balancers the account may have in the region, and whether the cluster's own are as many.
//!
//! Owns: [`Balancers`], counting, and when the quota is asked for. Leaves to others: asking (`observe`), what to do about it
//! (`plan`). Invariant: an unknown quota blocks nothing; AWS refuses then.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use portico_provider::Owner;
use tokio::time::Instant;

use super::Cache;
use crate::cloud::resources::Kind;

/// No account may have fewer, so that a cluster with fewer need not ask:
/// <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html>.
const LEAST: usize = 50;
/// How long an answer counts that says that there is no room.
const STAYS: Duration = Duration::from_mins(1);

/// The quota, as last read.
#[derive(Debug, Default)]
pub(super) struct Balancers {
    most: Option<usize>,
    asked: Option<Instant>,
}

impl Balancers {
    /// Whether to ask before another one is made beside so many.
    fn is_due(&self, present: usize) -> bool {
        let old = self.asked.is_none_or(|asked| asked.elapsed() >= STAYS);
        old && present >= self.most.unwrap_or(LEAST)
    }

    /// The account's answer; `None`: it has none.
    fn answered(&mut self, most: Option<usize>) {
        *self = Self { most, asked: Some(Instant::now()) };
    }

    /// The quota, if so many reach it.
    fn reached_by(&self, present: usize) -> Option<usize> {
        self.most.filter(|most| present >= *most)
    }

    /// Whether there is anything to compare with.
    fn is_known(&self) -> bool {
        self.most.is_some()
    }
}

impl Cache {
    fn balancers(&self) -> MutexGuard<'_, Balancers> {
        self.balancers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the quota is to be asked for before another load balancer is planned, `owner`'s.
    pub(crate) fn asks_for_quota(&self, owner: &Owner) -> bool {
        let present = self.present_balancers(Some(owner));
        self.balancers().is_due(present)
    }

    /// The quota was read; `None`: the account does not report it.
    pub(crate) fn saw_quota(&self, most: Option<usize>) {
        self.balancers().answered(most);
    }

    /// The quota, if the cluster's own load balancers reach it; not counting those of `but_for`.
    pub(crate) fn reached_quota(&self, but_for: Option<&Owner>) -> Option<usize> {
        if !self.balancers().is_known() {
            return None;
        }
        let present = self.present_balancers(but_for);
        self.balancers().reached_by(present)
    }

    /// Those that this process knows of. Not `but_for` the one that wants another: its own may be what has to be made again.
    fn present_balancers(&self, but_for: Option<&Owner>) -> usize {
        let services = self.services();
        let others = services.known.iter().filter(|(uid, _)| but_for.is_none_or(|own| own.service != **uid));
        let ids = others.flat_map(|(_, known)| known.ids.values());
        ids.filter(|id| id.kind() == Some(Kind::LoadBalancer)).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_for_where_it_may_be_reached_and_not_again_before_it_may_have_changed() {
        let mut quota = Balancers::default();
        assert!(!quota.is_due(LEAST - 1) && quota.is_due(LEAST));
        quota.answered(Some(60));
        assert!(!quota.is_due(59) && !quota.is_due(60), "it was just read");
        assert_eq!((quota.reached_by(59), quota.reached_by(60)), (None, Some(60)));
        advance(STAYS).await;
        assert!(!quota.is_due(59) && quota.is_due(60), "it may have been raised");
        quota.answered(None);
        assert!(!quota.is_due(60) && quota.reached_by(1_000).is_none(), "AWS refuses, if it may not be read");
    }
}
