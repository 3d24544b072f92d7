//! The trigger of a provisioning attempt, and what follows from it: priority, drift, and whether it executes.
//!
//! Owns: [`Trigger`], [`Drift`], [`Mode`]. Leaves to others: the decision to start an attempt (`track`).
//! Invariant: only an attempt that no change triggered can find drift.

use clap::ValueEnum;

use crate::provision::permits::AttemptPriority;
use crate::provision::want::Want;

/// The trigger of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trigger {
    /// The Service, its class's parameters or its targets changed, or the last attempt failed.
    Change,
    /// This process sees the Service for the first time, and its status says that all was well.
    Restart,
    /// A listing, or a read of targets' health, showed something else than the last attempt had left.
    Resync,
    /// The audit reads it.
    Audit,
}

impl Trigger {
    /// Whether a difference is drift: the want has not changed since the load balancer matched it.
    pub(crate) fn is_drift(self) -> bool {
        match self {
            Self::Resync | Self::Audit => true,
            // While nobody ran, targets may have changed, too.
            Self::Change | Self::Restart => false,
        }
    }

    /// The subject of a sentence in logs and Events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Change => "a change",
            Self::Restart => "the first reconcile after a start",
            Self::Resync => "a listing",
            Self::Audit => "the audit",
        }
    }
}

/// The reaction to drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Drift {
    /// Report and repair it.
    #[default]
    Repair,
    /// Only report it; the next change of the Service or its targets repairs it.
    Report,
}

/// Whether an attempt executes its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It executes its plan.
    Execute,
    /// It reads and plans, and executes nothing.
    Plan,
}

/// The priority of an attempt. `exists`: the inventory shows a load balancer.
pub(crate) fn priority(want: &Want, exists: bool, trigger: Trigger) -> AttemptPriority {
    match (want.load_balancer(), trigger) {
        (None, _) => AttemptPriority::Serving,
        (Some(_), Trigger::Resync | Trigger::Audit) => AttemptPriority::Auditing,
        (Some(_), Trigger::Change) if exists => AttemptPriority::Serving,
        (Some(_), Trigger::Restart) if exists => AttemptPriority::CatchingUp,
        (Some(_), Trigger::Change | Trigger::Restart) => AttemptPriority::Creating,
    }
}

/// The mode of an attempt.
pub(crate) fn mode(want: &Want, trigger: Trigger, drift: Drift, read_only: bool) -> Mode {
    let only_reported = drift == Drift::Report && trigger.is_drift() && want.load_balancer().is_some();
    if read_only || only_reported { Mode::Plan } else { Mode::Execute }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mk_load_balancer, mk_owner};

    #[test]
    fn only_drift_is_withheld_by_report_and_everything_by_read_only() {
        let present = Want::present(Box::new(mk_load_balancer("web")));
        let absent = Want::absent(mk_owner("web"));
        for (want, trigger, expected) in [
            (&present, Trigger::Change, Mode::Execute),
            (&present, Trigger::Restart, Mode::Execute),
            (&present, Trigger::Resync, Mode::Plan),
            (&present, Trigger::Audit, Mode::Plan),
            (&absent, Trigger::Resync, Mode::Execute),
        ] {
            assert_eq!(mode(want, trigger, Drift::Report, false), expected, "{trigger:?}");
            assert_eq!(mode(want, trigger, Drift::Repair, false), Mode::Execute, "{trigger:?}");
            assert_eq!(mode(want, trigger, Drift::Repair, true), Mode::Plan, "{trigger:?}");
        }
    }

    #[test]
    fn what_changes_now_goes_before_what_is_made_that_before_what_changed_unseen_and_that_before_checks() {
        let present = Want::present(Box::new(mk_load_balancer("web")));
        assert_eq!(priority(&Want::absent(mk_owner("web")), true, Trigger::Resync), AttemptPriority::Serving);
        assert_eq!(priority(&present, true, Trigger::Change), AttemptPriority::Serving);
        assert_eq!(priority(&present, false, Trigger::Change), AttemptPriority::Creating);
        assert_eq!(priority(&present, false, Trigger::Restart), AttemptPriority::Creating);
        assert_eq!(priority(&present, true, Trigger::Restart), AttemptPriority::CatchingUp);
        assert_eq!(priority(&present, true, Trigger::Audit), AttemptPriority::Auditing);
    }
}
