//! Why somebody has a go at a load balancer, and what follows from that.
//!
//! Owns: [`Trigger`], [`Drift`]. Leaves to others: having the go (`operation`), deciding on one (`progress`).
//! Invariant: only a go that nobody asked for can find drift: a changed Service is no drift, whatever differs.

use clap::ValueEnum;

use crate::provision::permits::AttemptPriority;
use crate::provision::want::Want;

/// Why there is a go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trigger {
    /// The Service, its class's parameters or its targets changed, or the last go did not end well.
    Change,
    /// This process sees the Service for the first time, and its status says that all was well.
    Restart,
    /// A listing, or another look, showed something else than the last go had left.
    Resync,
    /// It was its turn in the audit.
    Audit,
}

impl Trigger {
    /// Whether nothing that is wanted changed since the load balancer was as wanted; what differs now, drifted.
    pub(crate) fn is_drift(self) -> bool {
        match self {
            Self::Resync | Self::Audit => true,
            // While nobody ran, targets may have changed, too.
            Self::Change | Self::Restart => false,
        }
    }

    /// For logs and Events: "… by".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Change => "a change",
            Self::Restart => "the first look after a start",
            Self::Resync => "a listing",
            Self::Audit => "the audit",
        }
    }
}

/// What to do about drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Drift {
    /// Say so, and put it right.
    #[default]
    Repair,
    /// Say so only; the next change of the Service or its targets puts it right.
    Report,
}

/// What a go may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// What it plans.
    Execute,
    /// Read and plan, and no more.
    Plan,
}

/// How urgent a go is; `exists`: something of it is there already.
pub(crate) fn priority(want: &Want, exists: bool, trigger: Trigger) -> AttemptPriority {
    match (want.load_balancer(), trigger) {
        (None, _) => AttemptPriority::Serving,
        (Some(_), Trigger::Resync | Trigger::Audit) => AttemptPriority::Auditing,
        (Some(_), Trigger::Change) if exists => AttemptPriority::Serving,
        (Some(_), Trigger::Restart) if exists => AttemptPriority::CatchingUp,
        (Some(_), Trigger::Change | Trigger::Restart) => AttemptPriority::Creating,
    }
}

/// Whether a go may execute its plan.
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
