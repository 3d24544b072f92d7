//! How closely a provider has to look before something is planned.
//!
//! Owns: [`Look`], and which one a plan needs before it may be carried out. Leaves to others: reading (a provider's
//! `observe`), the loop (the operator's operation). Invariant: pure; what narrows is never carried out on less than
//! [`Look::Confirm`], and nothing counts as gone on less than [`Look::Fresh`].

use crate::plan::Plan;
use crate::provider::Desired;

/// How closely to look, from the least to the most. A provider may always look closer than it is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Look {
    /// What this process has read or written itself, and got answered, may be believed; what the cloud may have
    /// done by itself since then need not be read. For a plan right after own steps, and for plans that only widen.
    Own,
    /// As `Own`, but what the cloud does by itself and has not finished (provisioning, targets' health) is read.
    Poll,
    /// As `Poll`, and that the things are still there, ours, and as this process left them is read too: enough to
    /// take away from them (law 2).
    Confirm,
    /// Everything is read anew: the proof that nothing is left (law 4), an audit, the first look after a doubt.
    Fresh,
}

impl Look {
    /// The first look of a go, by the plan that was made from the inventory.
    pub fn first<S>(desired: Desired<'_>, plan: &Plan<S>) -> Self {
        match (plan.steps().is_empty(), plan.narrows(), desired) {
            (true, _, Desired::Absent(_)) if plan.waiting().is_none() => Self::Fresh,
            (true, ..) => Self::Poll,
            (false, true, _) => Self::Confirm,
            (false, false, _) => Self::Own,
        }
    }

    /// The look after the steps of a plan. After those of a deletion most likely nothing is left, which only a fresh
    /// one can tell.
    pub fn after(desired: Desired<'_>) -> Self {
        match desired {
            Desired::Present(_) => Self::Own,
            Desired::Absent(_) => Self::Fresh,
        }
    }

    /// The closer look that is needed before anything is concluded from `plan`, which was made from this one;
    /// `None`: this one is enough.
    pub fn before<S>(self, desired: Desired<'_>, exists: bool, plan: &Plan<S>) -> Option<Self> {
        let needed = match desired {
            _ if plan.narrows() => Self::Confirm,
            Desired::Absent(_) if !exists => Self::Fresh,
            Desired::Absent(_) | Desired::Present(_) => Self::Own,
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
    fn what_takes_away_is_confirmed_and_absence_is_read_afresh() {
        let owner = mk_owner();
        let absent = Desired::Absent(&owner);
        let nothing = Plan::<&str>::nothing("");
        let widens = Plan::nothing("").step("add", Effect::Widen, "new");
        let narrows = widens.clone().step("remove", Effect::Narrow, "old");
        let waits = nothing.clone().wait("somebody", std::time::Duration::from_secs(1));
        assert_eq!(Look::first(absent, &waits), Look::Poll);
        assert_eq!(Look::first(absent, &nothing), Look::Fresh);
        assert_eq!(Look::first(absent, &widens), Look::Own);
        assert_eq!(Look::first(absent, &narrows), Look::Confirm);
        assert_eq!(Look::Own.before(absent, true, &widens), None);
        assert_eq!(Look::Poll.before(absent, true, &narrows), Some(Look::Confirm));
        assert_eq!(Look::Confirm.before(absent, true, &narrows), None);
        assert_eq!(Look::Confirm.before(absent, false, &nothing), Some(Look::Fresh));
        assert_eq!(Look::Fresh.before(absent, false, &nothing), None);
    }
}
