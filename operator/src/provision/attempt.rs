//! Provisioning attempts: deciding on one, waiting for its turn, and what follows when it ends.
//!
//! ```text
//! begin ─▶ Phase::Waiting ─ locks, permits ─▶ Phase::Running ─ Operation ─▶ RunningAttempt ─▶ queue: the next look
//! ```
//! Owns: the life of a go as a task of its own. Leaves to others: the decision (`progress`), provider calls (`operation`).
//! Invariants: one go at a time for each Service, and for each thing that Services share; a go is about what is wanted when its turn comes, not when it began
//! to wait; however it ends, its Service does not stay marked as running.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use portico_limits::{Priority as CallPriority, at_best};
use portico_provider::{LoadBalancerProvider, Owner, Plan, ReadMode, Retry};
use tokio::time::Instant;

use crate::cache::service::{self, ServiceKey};
use crate::desired::stages::Work;
use crate::provision::locks::HeldLocks;
use crate::provision::operation::{self, End, Operation};
use crate::provision::permits::{AttemptPriority, Permit};
use crate::provision::track::{Decision, Phase, Track};
use crate::provision::trigger::{self, Mode, Trigger};
use crate::provision::want::{Want, WantDigest};
use crate::reconcile::Operator;
use crate::reconcile::api::Cluster;
use crate::reconcile::events::Severity;
use crate::reconcile::status::SYNCED;

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    /// Decides, and has a go if it is time. `exists`: the snapshot shows something.
    pub(crate) fn begin(
        self: &Arc<Self>,
        service: &Service,
        want: &Want,
        plan: &Plan<P::Step>,
        exists: bool,
    ) -> Decision {
        self.begin_at(ServiceKey::of(service), want, plan, exists, was_synced(service))
    }

    /// The same for what may have no Service any more.
    pub(crate) fn begin_at(
        self: &Arc<Self>,
        key: ServiceKey,
        want: &Want,
        plan: &Plan<P::Step>,
        exists: bool,
        was_synced: bool,
    ) -> Decision {
        let owner = want.owner();
        let (decision, line) = self.track(owner, |track| {
            let decision = track.decide(want, plan, Instant::now());
            let line = match decision {
                Decision::Start => {
                    let trigger = track.trigger(want, was_synced);
                    track.wait(want, trigger);
                    Some(trigger)
                }
                // It waits in both queues then; the second turn finds nothing to do.
                Decision::Running => track.rethink(want).then_some(Trigger::Change),
                Decision::Hold(_) | Decision::Rest(_) => None,
            };
            (decision, line)
        });
        if let Some(trigger) = line {
            let attempt = WaitingAttempt { operator: Arc::clone(self), key, owner: owner.clone() };
            let (priority, shared) = (trigger::priority(want, exists, trigger), self.shared(want));
            self.attempts.spawn(async move {
                let Some((want, held, _permit)) = attempt.turn(priority, shared).await else { return };
                attempt.operator.gauge();
                Arc::clone(&attempt.operator).run(attempt.key.clone(), want, &held).await;
            });
        }
        decision
    }

    /// What is wanted for `owner` by now; `None`: nothing that a go could be about.
    fn wanted(&self, key: &ServiceKey, owner: &Owner) -> Option<Want> {
        let is_its = |service: &Arc<Service>| service.metadata.uid.as_deref() == Some(owner.service.as_str());
        let Some(service) = self.cache.service(key).filter(is_its) else { return self.unclaimed_want(owner) };
        match self.stages(&service).0.work {
            Work::Nothing => self.unclaimed_want(owner),
            // Its finalizer is not on: whoever looks at it next puts it there.
            Work::Provide { .. }
                if self.makes() && !self.settings.read_only && !self.settings.classes.holds(&service) =>
            {
                None
            }
            Work::Provide { load_balancer, backends, warnings: _ } => {
                Some(Want::provide(load_balancer, *backends))
            }
            Work::Wait { backends } | Work::Refuse { backends, .. } => Some(Want::targets(*backends)),
            Work::Release { backends, because: _ } => Some(Want::release(*backends)),
            Work::Yield { .. } | Work::Leave { .. } => None,
        }
    }

    /// The collector's go, of what no Service claims; any other has lost its Service.
    fn unclaimed_want(&self, owner: &Owner) -> Option<Want> {
        let collects = |track: &mut Track| matches!(track.phase, Phase::Waiting(WantDigest::Absent(..), _));
        let collects = self.known_track(owner, collects).unwrap_or_default();
        collects.then(|| Want::absent(owner.clone()))
    }

    /// What is shared with others, by what is wanted and what the snapshot shows.
    pub(crate) fn shared(&self, want: &Want) -> BTreeSet<String> {
        want.shares(&self.provider, self.inventory.get(&want.owner().service).as_ref())
    }

    /// Shows how many wait.
    pub(crate) fn gauge(&self) {
        for priority in AttemptPriority::ALL {
            self.metrics.attempts_waiting(priority, self.permits.waiting(priority));
        }
    }

    /// Has the go whose turn has come.
    async fn run(self: Arc<Self>, key: ServiceKey, want: Want, held: &HeldLocks) {
        let started = self.known_track(want.owner(), |track| track.start(&want)).flatten();
        let Some((trigger, give_way)) = started else { return };
        // Nothing between these two: from the start on it is this that ends it, whatever breaks.
        let finish = RunningAttempt { operator: Arc::clone(&self), key, want, trigger };
        self.metrics.attempt_started(trigger);
        let mode = trigger::mode(&finish.want, trigger, self.settings.drift, self.settings.read_only);
        let read_mode = self.first_read_mode(&finish.want, trigger, mode);
        let Self { provider, fence, metrics, .. } = &*self;
        let held = held.names();
        let operation = Operation { provider, fence, metrics, held: Some(held), give_way: Some(&give_way) };
        // Nobody waits for what an audit reads.
        let best = if trigger == Trigger::Audit { CallPriority::Background } else { CallPriority::Targets };
        let report = at_best(best, operation.run(&finish.want, mode, read_mode)).await;
        let changed = !report.steps.is_empty();
        finish.with(report, mode);
        if changed {
            self.requeue_waiting_members(held, &finish.want.owner().service);
        }
    }

    /// How closely to look at first, by what the snapshot shows now that it is its turn.
    fn first_read_mode(&self, want: &Want, trigger: Trigger, mode: Mode) -> ReadMode {
        // An audit believes nothing; nor may a plan that is only reported, as no step of it would ever correct it.
        if trigger == Trigger::Audit || mode == Mode::Plan {
            return ReadMode::Full;
        }
        let observed = self.inventory.get(&want.owner().service);
        let plan = want.plan(&self.provider, observed.as_ref());
        match want.desired() {
            Some(desired) => ReadMode::first(desired, &plan),
            None if plan.is_destructive() => ReadMode::Verify,
            None => ReadMode::Pending,
        }
    }
}

/// Whether the status says that all is as this very `spec` has it.
fn was_synced(service: &Service) -> bool {
    let generation = service.metadata.generation;
    service::our_conditions(service)
        .iter()
        .any(|it| it.type_ == SYNCED && it.status == "True" && it.observed_generation == generation)
}

/// An attempt that waits for its turn. It holds no want: with a thousand nodes a want is a hundred kilobytes.
struct WaitingAttempt<P: LoadBalancerProvider, C: Cluster> {
    operator: Arc<Operator<P, C>>,
    key: ServiceKey,
    owner: Owner,
}

impl<P: LoadBalancerProvider, C: Cluster> WaitingAttempt<P, C> {
    /// Waits for the locks of what it shares, then for a permit, and reads the want of that moment. `None`: no attempt may
    /// start any more, or there is nothing to provision.
    async fn turn(
        &self,
        priority: AttemptPriority,
        mut shared: BTreeSet<String>,
    ) -> Option<(Want, HeldLocks, Permit)> {
        let Self { operator, key, owner } = self;
        loop {
            let held = operator.locks.acquire(shared).await;
            let permit = operator.permits.acquire(priority).await?;
            let want = operator.wanted(key, owner)?;
            // While it waited, it may have come to be about another group.
            shared = operator.shared(&want);
            if shared.is_subset(held.names()) {
                return Some((want, held, permit));
            }
        }
    }
}

impl<P: LoadBalancerProvider, C: Cluster> Drop for WaitingAttempt<P, C> {
    /// However it ends, the Service is no longer marked as waiting. The second of two turns finds nothing to do.
    fn drop(&mut self) {
        let Self { operator, key, owner } = self;
        let gave_up = operator.known_track(owner, Track::give_up);
        if gave_up == Some(true) {
            // What panics now, does so again at once.
            if std::thread::panicking() {
                operator.queue.retry(key);
            } else {
                operator.queue.add(key.clone());
            }
        }
    }
}

/// What a go owes when it ends, however it ends: a go that panics must not leave its Service marked as running.
struct RunningAttempt<P: LoadBalancerProvider, C: Cluster> {
    operator: Arc<Operator<P, C>>,
    key: ServiceKey,
    want: Want,
    trigger: Trigger,
}

impl<P: LoadBalancerProvider, C: Cluster> RunningAttempt<P, C> {
    fn with(&self, report: operation::AttemptReport<P::Observed>, mode: Mode) {
        self.report_drift(&report, mode);
        let operation::AttemptReport { observed, steps, differed: _, end } = report;
        let Self { operator, key, want, trigger: _ } = self;
        let owner = want.owner();
        if let Some((observed, read)) = observed {
            operator.inventory.put(owner, observed, read);
        }
        if let Some(service) = operator.cache.service(key) {
            for step in steps {
                operator.report_event(&service, Severity::Normal, "Executed", "Execute", step);
            }
        }
        self.end(end);
    }

    /// A go that nobody asked for should have found nothing.
    fn report_drift(&self, report: &operation::AttemptReport<P::Observed>, mode: Mode) {
        let Self { operator, key, want, trigger } = self;
        let Some(wanted) = want.load_balancer() else { return };
        let operation::AttemptReport { observed: _, steps, differed, end } = report;
        let changed = !steps.is_empty();
        let withheld = matches!(end, End::Withheld(_));
        if !(changed || withheld) || matches!(trigger, Trigger::Change) || operator.settings.read_only {
            return;
        }
        let fields: Vec<&str> = differed.iter().map(|field| field.name()).collect();
        let (fields, by) = (fields.join(", "), trigger.name());
        let service = &wanted.owner.name;
        if !trigger.is_drift() {
            tracing::info!(%service, fields, by, steps = steps.join("; "), "changed, though its status said all was well");
            return;
        }
        operator.metrics.drifted(*trigger, differed, changed);
        tracing::warn!(%service, fields, by, ?mode, steps = steps.join("; "), "unchanged Service, changed load balancer: drift, or a fault of ours");
        if changed && let Some(service) = operator.cache.service(key) {
            let what = if fields.is_empty() { String::new() } else { format!(" ({fields})") };
            let note = format!(
                "found by {by} to differ from what the Service wants{what}, and put right: {}",
                steps.join("; ")
            );
            operator.report_event(&service, Severity::Warning, "Drifted", "Audit", note);
        }
    }

    fn end(&self, end: End) {
        let Self { operator, key: _, want, trigger: _ } = self;
        let service = &want.owner().name;
        match &end {
            End::Failed { reason, message, retry } => {
                tracing::warn!(%service, reason, error = message, ?retry, "provider call failed");
            }
            End::Withheld(plan) => tracing::info!(%service, would = plan.summary(), "withheld"),
            End::Settled | End::InProgress { .. } => {}
        }
        let slow = operator.settings.resync;
        operator.track(want.owner(), |track| track.ended(want, end, Instant::now(), slow));
    }
}

impl<P: LoadBalancerProvider, C: Cluster> Drop for RunningAttempt<P, C> {
    fn drop(&mut self) {
        let Self { operator, key, want, trigger: _ } = &*self;
        if operator.track(want.owner(), |track| track.phase == Phase::Running) {
            let message = "a fault in the provider's code; see the operator's log".to_owned();
            self.end(End::Failed { reason: "Panicked", message, retry: Retry::Backoff });
        }
        operator.queue.add(key.clone());
    }
}
