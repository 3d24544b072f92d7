//! The calls of one attempt: read, plan, execute, read again.
//!
//! Owns: the order of provider calls. Leaves to others: when to start an attempt (`track`), each call (`calls`).
//! Invariants: a destructive step is executed only if a verifying read planned it. An attempt ends [`End::Settled`] only if
//! a read after the last step plans nothing; of an absent load balancer that read is fresh and shows nothing at all.

use std::collections::BTreeSet;
use std::time::Duration;

use portico_provider::{Field, LoadBalancerProvider, Outcome, Plan, PlannedStep, ReadMode, Retry};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::ProviderCalls;
use super::end::End;
use super::plan_view::PlanView;
use super::trigger::Mode;
use super::want::Want;

/// Reads in one attempt. A provider converges in two or three rounds of steps, each of at most three reads; more is a fault
/// of its plan.
const MAX_READS: usize = 12;
/// The pause before an attempt takes locks that this one lacked.
const LOCKS_RETRY: Duration = Duration::from_secs(1);

/// The result of an attempt: its last read, its steps and its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptReport<O> {
    /// The last read, and when it began; `None`: there was none.
    pub(crate) observed: Option<(Option<O>, Instant)>,
    /// The steps that were executed, each with its reason.
    pub(crate) steps: Vec<String>,
    /// Fields that differed from the want, by the first read; empty if nothing existed.
    pub(crate) differed: BTreeSet<Field>,
    pub(crate) end: End,
}

/// One attempt's calls of the provider.
pub(crate) struct Operation<'a, P> {
    pub(crate) calls: &'a ProviderCalls<P>,
    /// Names of the locks that it holds; `None`: it needs none, since no other attempt runs.
    pub(crate) held: Option<&'a BTreeSet<String>>,
    /// Cancelled when the want has changed. It ends a read; a step that began is finished.
    pub(crate) give_way: Option<&'a CancellationToken>,
}

impl<P: LoadBalancerProvider> Operation<'_, P> {
    /// Provisions the want: the targets of what exists, then the rest, even where targets failed. `read_mode`: of the first
    /// read.
    pub(crate) async fn run(
        &self,
        want: &Want,
        mode: Mode,
        mut read_mode: ReadMode,
    ) -> AttemptReport<P::Observed> {
        let differed = BTreeSet::new();
        let mut report = AttemptReport { observed: None, steps: Vec::new(), differed, end: End::Settled };
        let mut targets = TargetsFirst::default();
        for _ in 0..MAX_READS {
            let read = Instant::now();
            match self.read(want, read_mode).await {
                Ok(observed) => report.observed = Some((observed, read)),
                Err(end) => return AttemptReport { end, ..report },
            }
            let observed = report.observed.as_ref().and_then(|(observed, _)| observed.as_ref());
            if let Some(end) = self.lacks_locks(want, observed) {
                return AttemptReport { end, ..report };
            }
            let rest = want.plan_rest(self.calls.provider(), observed);
            let first =
                want.plan_targets(self.calls.provider(), observed, &rest).filter(|_| targets.are_due());
            let due = first.as_ref().filter(|first| !first.steps().is_empty());
            let plan = due.unwrap_or(&rest);
            if let Some(closer) = closer(read_mode, want, observed.is_some(), plan) {
                read_mode = closer;
                continue;
            }
            if plan.steps().is_empty() {
                targets.wait(first.as_ref());
                let end = targets.end(without_steps(&rest, want, observed.is_some()));
                return AttemptReport { end, ..report };
            }
            if report.steps.is_empty()
                && let Some(desired) = want.load_balancer()
            {
                report.differed = self.calls.provider().differing(desired, observed);
            }
            if mode == Mode::Plan {
                let plan = want.plan(self.calls.provider(), observed);
                return AttemptReport { end: End::Withheld(Box::new(PlanView::of(&plan))), ..report };
            }
            tracing::info!(service = %want.owner().name, plan = %plan, "executing");
            if due.is_some() {
                targets.ended(self.execute_each(plan, &mut report.steps).await);
            } else {
                targets.wait(first.as_ref());
                if let Err(end) = self.execute(plan, &mut report.steps).await {
                    return AttemptReport { end: targets.end(end), ..report };
                }
            }
            read_mode = want.desired().map_or(ReadMode::Cached, ReadMode::after);
        }
        let message =
            format!("still not as desired after {MAX_READS} reads; the provider's plan is at fault");
        AttemptReport {
            end: End::Failed { reason: "NotConverging", message, retry: Retry::Backoff },
            ..report
        }
    }

    async fn read(&self, want: &Want, read_mode: ReadMode) -> Result<Option<P::Observed>, End> {
        let read = self.calls.read(want, read_mode);
        let Some(give_way) = self.give_way else { return read.await };
        give_way.run_until_cancelled(read).await.unwrap_or_else(|| {
            let what = "a read, which gave way to a change".to_owned();
            Err(End::InProgress { what, retry: Duration::ZERO })
        })
    }

    /// A read may show that the load balancer shares more than was known when the turn came. Then the attempt ends, and the
    /// next one takes those locks, too.
    fn lacks_locks(&self, want: &Want, observed: Option<&P::Observed>) -> Option<End> {
        let shared = want.shares(self.calls.provider(), observed);
        let what = shared.difference(self.held?).next()?;
        Some(End::InProgress {
            what: format!("its turn at {what}, which Services share"),
            retry: LOCKS_RETRY,
        })
    }

    async fn execute(&self, plan: &Plan<P::Step>, done: &mut Vec<String>) -> Result<(), End> {
        for planned in plan.steps() {
            self.step(planned, done).await?;
        }
        Ok(())
    }

    /// Executes every step, even after a failure. Answers with the first failure, or else the last step in progress.
    async fn execute_each(&self, plan: &Plan<P::Step>, done: &mut Vec<String>) -> Result<(), End> {
        let mut ended = Ok(());
        for planned in plan.steps() {
            let failed = matches!(ended, Err(End::Failed { .. }));
            match self.step(planned, done).await {
                Err(end) if !failed => ended = Err(end),
                Ok(()) | Err(_) => {}
            }
        }
        ended
    }

    async fn step(&self, planned: &PlannedStep<P::Step>, done: &mut Vec<String>) -> Result<(), End> {
        let outcome = self.calls.execute(&planned.step).await?;
        if outcome != Outcome::Unchanged {
            done.push(format!("{}: {}", planned.step, planned.reason));
        }
        match outcome {
            Outcome::InProgress { retry, what } => Err(End::InProgress { what, retry }),
            Outcome::Done | Outcome::Unchanged => Ok(()),
        }
    }
}

/// The result of the targets of what exists, which come first.
#[derive(Debug, Default)]
struct TargetsFirst {
    /// A failure, or something to wait for.
    left: Option<End>,
    /// A step failed, or is in progress: this attempt does not try them again.
    tried: bool,
}

impl TargetsFirst {
    fn are_due(&self) -> bool {
        !self.tried
    }

    fn ended(&mut self, ended: Result<(), End>) {
        if let Err(end) = ended {
            (self.left, self.tried) = (Some(end), true);
        }
    }

    /// Notes what a plan of theirs without steps waits for.
    fn wait<S>(&mut self, plan: Option<&Plan<S>>) {
        if let Some(waiting) = plan.and_then(Plan::waiting) {
            self.left = Some(End::InProgress { what: waiting.what.clone(), retry: waiting.retry });
        }
    }

    /// The end of the whole attempt: a failure comes before what it waits for.
    fn end(self, rest: End) -> End {
        match (rest, self.left) {
            (End::Settled | End::InProgress { .. }, Some(left @ End::Failed { .. }))
            | (End::Settled, Some(left)) => left,
            (rest, _) => rest,
        }
    }
}

/// The closer read that a plan needs before it is executed.
fn closer<S>(read_mode: ReadMode, want: &Want, exists: bool, plan: &Plan<S>) -> Option<ReadMode> {
    match want.desired() {
        Some(desired) => read_mode.before(desired, exists, plan),
        None => (plan.is_destructive() && read_mode < ReadMode::Verify).then_some(ReadMode::Verify),
    }
}

/// A plan without steps: waiting, obstacles (which the caller reads off the plan), or nothing left to do.
fn without_steps<S>(plan: &Plan<S>, want: &Want, exists: bool) -> End {
    match (plan.waiting(), want.is_absent()) {
        (Some(waiting), _) => End::InProgress { what: waiting.what.clone(), retry: waiting.retry },
        (None, true) if exists => End::Failed {
            reason: "NotDeleted",
            message: "something is left that the provider does not delete".to_owned(),
            retry: Retry::Backoff,
        },
        (None, _) => End::Settled,
    }
}
