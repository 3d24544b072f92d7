//! How much a provider reads from the cloud before a plan is made.
//!
//! Owns: [`ReadMode`], and which one a plan needs before its steps are executed. Leaves to others: reading (a provider's
//! `observe`), the loop (the operator's operation). Invariant: pure; a destructive step is never executed on less than
//! [`ReadMode::Verify`], and nothing counts as deleted on less than [`ReadMode::Full`].

use crate::desired::Desired;
use crate::plan::Plan;

/// How much is read, from the least to the most. A provider may always read more than it is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadMode {
    /// The provider may answer from its cache: what this process read, or wrote and got an answer for. What the cloud
    /// changes by itself need not be read. For a plan right after own steps, and for plans that only add.
    Cached,
    /// As `Cached`, and what the cloud is still working on (provisioning, targets' health) is read.
    Pending,
    /// As `Pending`, and the provider reads that the resources still exist, are ours, and are as this process left
    /// them: enough to delete from them (law 2).
    Verify,
    /// Everything is read: the proof that nothing is left (law 4), an audit, the first read after the cache was
    /// invalidated.
    Full,
}

impl ReadMode {
    /// The first read of a provisioning attempt, by the plan that was made from the inventory.
    pub fn first<S>(desired: Desired<'_>, plan: &Plan<S>) -> Self {
        match (plan.steps().is_empty(), plan.is_destructive(), desired) {
            (true, _, Desired::Absent(_)) if plan.waiting().is_none() => Self::Full,
            (true, ..) => Self::Pending,
            (false, true, _) => Self::Verify,
            (false, false, _) => Self::Cached,
        }
    }

    /// The read after the steps of a plan. After a deletion most likely nothing is left, which only a full read can
    /// prove.
    pub fn after(desired: Desired<'_>) -> Self {
        match desired {
            Desired::Present(_) => Self::Cached,
            Desired::Absent(_) => Self::Full,
        }
    }

    /// The read that is needed before anything is concluded from `plan`, which was made from this one; `None`: this one
    /// is enough.
    pub fn before<S>(self, desired: Desired<'_>, exists: bool, plan: &Plan<S>) -> Option<Self> {
        let needed = match desired {
            _ if plan.is_destructive() => Self::Verify,
            Desired::Absent(_) if !exists => Self::Full,
            Desired::Absent(_) | Desired::Present(_) => Self::Cached,
        };
        (self < needed).then_some(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Owner, ServiceName};
    use crate::plan::Effect;

    fn mk_owner() -> Owner {
        Owner {
            cluster: "c".parse().unwrap(),
            service: "s".parse().unwrap(),
            name: ServiceName::new("ns", "s").unwrap(),
        }
    }

    #[test]
    fn destructive_steps_are_verified_and_absence_needs_a_full_read() {
        let owner = mk_owner();
        let absent = Desired::Absent(&owner);
        let nothing = Plan::<&str>::nothing("");
        let additive = Plan::nothing("").step("add", Effect::Additive, "new");
        let destructive = additive.clone().step("remove", Effect::Destructive, "old");
        let waits = nothing.clone().wait("somebody", std::time::Duration::from_secs(1));
        assert_eq!(ReadMode::first(absent, &waits), ReadMode::Pending);
        assert_eq!(ReadMode::first(absent, &nothing), ReadMode::Full);
        assert_eq!(ReadMode::first(absent, &additive), ReadMode::Cached);
        assert_eq!(ReadMode::first(absent, &destructive), ReadMode::Verify);
        assert_eq!(ReadMode::Cached.before(absent, true, &additive), None);
        assert_eq!(ReadMode::Pending.before(absent, true, &destructive), Some(ReadMode::Verify));
        assert_eq!(ReadMode::Verify.before(absent, true, &destructive), None);
        assert_eq!(ReadMode::Verify.before(absent, false, &nothing), Some(ReadMode::Full));
        assert_eq!(ReadMode::Full.before(absent, false, &nothing), None);
    }
}
