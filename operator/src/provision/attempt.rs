//! A provisioning attempt as a task: it waits for its turn, runs, and reports its end.
//!
//! ```text
//! WaitingAttempt ─ locks, permit ─▶ RunningAttempt ─ Operation ─▶ inventory, Events, Track ─▶ the Service is requeued
//! ```
//! Owns: the life of an attempt. Leaves to others: the decision to start one (`track`), provider calls (`operation`).
//! Invariants: an attempt provisions what is wanted when its turn comes, not when it began to wait. However it ends, a panic
//! included, its Service is not left marked as running.

use std::collections::BTreeSet;
use std::sync::Arc;

use portico_limits::{Priority as CallPriority, at_best};
use portico_provider::{LoadBalancerProvider, Owner, ReadMode, Retry};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Provisioner;
use super::end::End;
use super::locks::HeldLocks;
use super::operation::{AttemptReport, Operation};
use super::permits::{AttemptPriority, Permit};
use super::track::{Started, Track};
use super::trigger::{self, Mode, Trigger};
use super::want::Want;
use crate::cache::service::ServiceKey;

/// The submitter of attempts, as an attempt needs it.
pub(crate) trait Requester: Send + Sync + 'static {
    /// The want of `owner`'s Service now.
    fn current(&self, key: &ServiceKey, owner: &Owner) -> Current;
    /// Reports the steps that an attempt executed, each with its reason.
    fn executed(&self, key: &ServiceKey, steps: Vec<String>);
    /// Reports drift that an attempt repaired. `note`: the fields and the steps.
    fn repaired(&self, key: &ServiceKey, note: String);
    /// Requeues a Service.
    fn requeue(&self, key: ServiceKey);
    /// Requeues a Service whose attempt panicked, with backoff.
    fn requeue_later(&self, key: &ServiceKey);
}

/// The want of a Service at one moment.
pub(crate) enum Current {
    /// It wants this.
    Want(Want),
    /// No Service asks for this owner's load balancer.
    Unclaimed,
    /// Nothing may be provisioned for it now.
    Nothing,
}

/// An attempt that waits for its turn. It holds no want: with a thousand nodes a want is a hundred kilobytes.
pub(super) struct WaitingAttempt<P: LoadBalancerProvider, R: Requester> {
    provisioner: Arc<Provisioner<P>>,
    requester: Arc<R>,
    key: ServiceKey,
    owner: Owner,
}

/// A turn: the want of that moment, and the right to provision it.
struct Turn {
    want: Want,
    held: HeldLocks,
    _permit: Permit,
}

impl<P: LoadBalancerProvider, R: Requester> WaitingAttempt<P, R> {
    pub(super) fn new(
        provisioner: &Arc<Provisioner<P>>,
        requester: &Arc<R>,
        key: ServiceKey,
        owner: Owner,
    ) -> Self {
        Self { provisioner: Arc::clone(provisioner), requester: Arc::clone(requester), key, owner }
    }

    /// Waits, then runs.
    pub(super) async fn run(self, priority: AttemptPriority, shared: BTreeSet<String>) {
        let Some(Turn { want, held, _permit }) = self.turn(priority, shared).await else { return };
        self.provisioner.gauge();
        let start = self.provisioner.known_track(want.owner(), |track| track.start(&want)).flatten();
        let Some(started) = start else { return };
        // Nothing between these two: from the start on `RunningAttempt` ends it, whatever breaks.
        RunningAttempt { waited: &self, want, trigger: started.trigger }.run(started, &held).await;
    }

    /// Waits for the locks of what it shares, then for a permit. `None`: no attempt may start any more, or there is nothing
    /// to provision.
    async fn turn(&self, priority: AttemptPriority, mut shared: BTreeSet<String>) -> Option<Turn> {
        let Self { provisioner, requester: _, key: _, owner: _ } = self;
        loop {
            let held = provisioner.locks.acquire(shared).await;
            let permit = provisioner.permits.acquire(priority).await?;
            let want = self.want()?;
            // While it waited, the Service may have moved to another group.
            shared = provisioner.shared(&want);
            if shared.is_subset(held.names()) {
                return Some(Turn { want, held, _permit: permit });
            }
        }
    }

    fn want(&self) -> Option<Want> {
        let Self { provisioner, requester, key, owner } = self;
        match requester.current(key, owner) {
            Current::Want(want) => Some(want),
            // The collector's attempt; any other attempt has lost its Service.
            Current::Unclaimed => {
                let collects = provisioner.known_track(owner, |track| track.waits_to_delete());
                collects.unwrap_or_default().then(|| Want::absent(owner.clone()))
            }
            Current::Nothing => None,
        }
    }
}

impl<P: LoadBalancerProvider, R: Requester> Drop for WaitingAttempt<P, R> {
    fn drop(&mut self) {
        let Self { provisioner, requester, key, owner } = self;
        let gave_up = provisioner.known_track(owner, Track::give_up);
        if gave_up == Some(true) {
            // A panic would most likely repeat itself at once.
            if std::thread::panicking() {
                requester.requeue_later(key);
            } else {
                requester.requeue(key.clone());
            }
        }
    }
}

/// An attempt whose turn has come.
struct RunningAttempt<'a, P: LoadBalancerProvider, R: Requester> {
    waited: &'a WaitingAttempt<P, R>,
    want: Want,
    trigger: Trigger,
}

impl<P: LoadBalancerProvider, R: Requester> RunningAttempt<'_, P, R> {
    async fn run(self, started: Started, held: &HeldLocks) {
        let Self { waited, want, trigger } = &self;
        let WaitingAttempt { provisioner, requester, .. } = waited;
        provisioner.calls.metrics().attempt_started(*trigger);
        let policy = provisioner.policy;
        let mode = trigger::mode(want, *trigger, policy.drift, policy.read_only);
        let read_mode = self.first_read_mode(&started, mode);
        let give_way: &CancellationToken = &started.give_way;
        let operation =
            Operation { calls: &provisioner.calls, held: Some(held.names()), give_way: Some(give_way) };
        // Nobody waits for what an audit reads.
        let best = if *trigger == Trigger::Audit { CallPriority::Background } else { CallPriority::Targets };
        let report = at_best(best, operation.run(want, mode, read_mode)).await;
        let changed = !report.steps.is_empty();
        self.report(report, mode);
        if changed {
            for key in provisioner.waiting_members(held.names(), &want.owner().service) {
                requester.requeue(key);
            }
        }
    }

    /// How closely to read first.
    fn first_read_mode(&self, started: &Started, mode: Mode) -> ReadMode {
        // An audit trusts no cached state; nor may a plan that is only reported, since no step of it would correct it.
        if self.trigger == Trigger::Audit || mode == Mode::Plan {
            return ReadMode::Full;
        }
        let (provisioner, want) = (&self.waited.provisioner, &self.want);
        let snapshot = provisioner.inventory.snapshot(&want.owner().service);
        match started.planned {
            Some((read_mode, read)) if read == snapshot.read => read_mode,
            _ => want.first_read_mode(&want.plan(provisioner.calls.provider(), snapshot.observed.as_ref())),
        }
    }

    fn report(&self, report: AttemptReport<P::Observed>, mode: Mode) {
        self.report_drift(&report, mode);
        let AttemptReport { observed, steps, differed: _, end } = report;
        let WaitingAttempt { provisioner, requester, key, owner: _ } = self.waited;
        if let Some((observed, read)) = observed {
            provisioner.inventory.put(self.want.owner(), observed, read);
        }
        requester.executed(key, steps);
        self.end(end);
    }

    /// An attempt that no change triggered should have found nothing.
    fn report_drift(&self, report: &AttemptReport<P::Observed>, mode: Mode) {
        let Self { waited, want, trigger } = self;
        let WaitingAttempt { provisioner, requester, key, owner: _ } = waited;
        let Some(wanted) = want.load_balancer() else { return };
        let AttemptReport { observed: _, steps, differed, end } = report;
        let changed = !steps.is_empty();
        let withheld = matches!(end, End::Withheld(_));
        if !(changed || withheld) || *trigger == Trigger::Change || provisioner.policy.read_only {
            return;
        }
        let fields: Vec<&str> = differed.iter().map(|field| field.name()).collect();
        let (fields, by) = (fields.join(", "), trigger.name());
        let (service, steps) = (&wanted.owner.name, steps.join("; "));
        if !trigger.is_drift() {
            tracing::info!(%service, fields, by, steps, "load balancer changed although its status said Synced");
            return;
        }
        provisioner.calls.metrics().drifted(*trigger, differed, changed);
        tracing::warn!(%service, fields, by, ?mode, steps, "drift: the Service is unchanged and its load balancer differs");
        if changed {
            let what = if fields.is_empty() { String::new() } else { format!(" ({fields})") };
            let note = format!(
                "{by} found that the load balancer differs from the Service{what}, and repaired it: {steps}"
            );
            requester.repaired(key, note);
        }
    }

    fn end(&self, end: End) {
        let service = &self.want.owner().name;
        match &end {
            End::Failed { reason, message, retry } => {
                tracing::warn!(%service, reason, error = message, ?retry, "provisioning attempt failed");
            }
            End::Withheld(plan) => tracing::info!(%service, would = plan.summary(), "withheld"),
            End::Settled | End::InProgress { .. } => {}
        }
        let provisioner = &self.waited.provisioner;
        let slow = provisioner.policy.resync;
        provisioner.track(self.want.owner(), |track| track.ended(&self.want, end, Instant::now(), slow));
    }
}

impl<P: LoadBalancerProvider, R: Requester> Drop for RunningAttempt<'_, P, R> {
    fn drop(&mut self) {
        let WaitingAttempt { provisioner, requester, key, owner: _ } = self.waited;
        if provisioner.track(self.want.owner(), |track| track.is_running()) {
            let message = "a fault in the provider's code; see the operator's log".to_owned();
            self.end(End::Failed { reason: "Panicked", message, retry: Retry::Backoff });
        }
        requester.requeue(key.clone());
    }
}
