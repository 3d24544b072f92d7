//! The result of a reconcile.
//!
//! Owns: [`ReconcileResult`]. Leaves to others: requeueing by it (`worker`).

use portico_provider::LoadBalancerProvider;
use tokio::time::Instant;

use crate::desired::problem::Problem;
use crate::metrics::Reconciled;
use crate::provision::Submitted;
use crate::provision::track::{Decision, Progress};

/// The outcome of a reconcile, for its metric, and when the next one is due without an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReconcileResult {
    pub(crate) outcome: Reconciled,
    pub(crate) requeue_at: Option<Instant>,
}

impl ReconcileResult {
    pub(super) const NOTHING: Self = Self { outcome: Reconciled::Settled, requeue_at: None };
    /// An event brings it back.
    pub(super) const PROGRESS: Self = Self { outcome: Reconciled::Progress, requeue_at: None };

    /// Again at `due` at the latest.
    pub(super) fn or_at(self, due: Option<Instant>) -> Self {
        Self { requeue_at: [self.requeue_at, due].into_iter().flatten().min(), ..self }
    }

    pub(super) fn of<P: LoadBalancerProvider>(submitted: &Submitted<P>, problems: &[Problem]) -> Self {
        let requeue_at = match submitted.decision {
            Decision::Start | Decision::Running => None,
            Decision::Hold(until) => Some(until),
            Decision::Rest(again) => again,
        };
        let outcome = match &submitted.progress {
            Progress::Failed { .. } => Reconciled::Error,
            _ if !problems.is_empty() => Reconciled::UserError,
            Progress::Settled | Progress::Drifted(_) => Reconciled::Settled,
            Progress::Working(_) | Progress::Waiting(_) | Progress::Releasing(_) => Reconciled::Progress,
        };
        Self { outcome, requeue_at }
    }
}
