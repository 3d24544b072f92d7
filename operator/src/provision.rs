//! Provisioning: the path from a wanted load balancer to the provider.
//!
//! ```text
//! submit ─▶ plan (snapshot) ─▶ Track decides ─▶ WaitingAttempt: locks, permit ─▶ RunningAttempt: Operation ─▶ inventory
//! ```
//! Owns: [`Provisioner`]: attempts, their order, and the inventory of what exists. Leaves to others: what is wanted
//! (`desired`), writes to the cluster (`reconcile`).
//! Invariants: one attempt at a time runs for each Service, and for each thing that Services share. A want is planned once, when it
//! is submitted; its attempt starts by that plan unless the want or the inventory has changed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portico_provider::{
    Capabilities, LoadBalancerProvider, Owner, Plan, ReadMode, Report, ServiceUid, Topic,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::cache::service::ServiceKey;
use crate::metrics::{Metrics, ServiceState};
use crate::process::fence::Fence;

pub(crate) mod attempt;
pub(crate) mod calls;
pub(crate) mod end;
pub(crate) mod inventory;
pub(crate) mod locks;
pub(crate) mod operation;
pub(crate) mod permits;
pub(crate) mod plan_view;
pub(crate) mod track;
pub(crate) mod tracks;
pub(crate) mod trigger;
pub(crate) mod want;

use attempt::{Requester, WaitingAttempt};
use calls::ProviderCalls;
use inventory::{Inventory, Snapshot};
use locks::Locks;
use operation::{AttemptReport, Operation};
use permits::{AttemptPriority, Permits};
use plan_view::PlanView;
use track::{AuditProgress, Decision, Progress, Track};
use tracks::Tracks;
use trigger::{Drift, Mode, Trigger};
use want::Want;

/// Flags that attempts obey.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// The longest wait for another attempt where nothing changes, such as after a user's error.
    pub(crate) resync: Duration,
    /// Attempts plan and execute nothing.
    pub(crate) read_only: bool,
    /// Whether drift is repaired or reported.
    pub(crate) drift: Drift,
    /// Attempts that may run at the same time.
    pub(crate) concurrency: usize,
}

/// The owner of every provisioning attempt.
pub(crate) struct Provisioner<P: LoadBalancerProvider> {
    calls: ProviderCalls<P>,
    inventory: Inventory<P::Observed>,
    permits: Arc<Permits>,
    locks: Locks,
    tracks: Mutex<Tracks>,
    /// Attempts that wait or run. Shutting down waits for them.
    attempts: TaskTracker,
    policy: Policy,
}

/// A want that is submitted.
pub(crate) struct Request<'a> {
    pub(crate) key: ServiceKey,
    pub(crate) want: &'a Want,
    /// The Service's status says that the load balancer is as this want has it.
    pub(crate) was_synced: bool,
}

/// The answer to [`Provisioner::submit`].
pub(crate) struct Submitted<P: LoadBalancerProvider> {
    /// The last read.
    pub(crate) observed: Option<P::Observed>,
    /// The plan by that read.
    pub(crate) plan: Plan<P::Step>,
    /// The provider's report by that read; `None`: no load balancer is wanted.
    pub(crate) report: Option<Report>,
    pub(crate) decision: Decision,
    pub(crate) progress: Progress,
}

impl<P: LoadBalancerProvider> Provisioner<P> {
    pub(crate) fn new(provider: Arc<P>, fence: Fence, metrics: Metrics, policy: Policy) -> Arc<Self> {
        Arc::new(Self {
            calls: ProviderCalls::new(provider, fence, metrics),
            inventory: Inventory::default(),
            permits: Permits::new(policy.concurrency),
            locks: Locks::default(),
            tracks: Mutex::default(),
            attempts: TaskTracker::new(),
            policy,
        })
    }

    /// Plans `want` by the inventory, and starts an attempt where one is due.
    pub(crate) fn submit<R: Requester>(
        self: &Arc<Self>,
        requester: &Arc<R>,
        request: Request<'_>,
    ) -> Submitted<P> {
        let Request { key, want, was_synced } = request;
        let (provider, owner) = (self.calls.provider(), want.owner());
        let snapshot = self.inventory.snapshot(&owner.service);
        let observed = snapshot.observed.as_ref();
        let plan = want.plan(provider, observed);
        let report = want.load_balancer().map(|it| provider.report(it, observed));
        let planned = (want.first_read_mode(&plan), snapshot.read);
        let (mut decision, trigger) = self.track(owner, |track| {
            let decision = track.decide(want, &plan, Instant::now());
            let trigger = match decision {
                Decision::Start => {
                    let trigger = track.trigger(want, was_synced);
                    track.wait(want, trigger, planned);
                    Some(trigger)
                }
                // It waits in both queues then; the second turn finds nothing to do.
                Decision::Running => track.rethink(want).then_some(Trigger::Change),
                Decision::Hold(_) | Decision::Rest(_) => None,
            };
            (decision, trigger)
        });
        if let Some(trigger) = trigger {
            // First of all: a panic of the provider below must give the track up, too.
            let attempt = WaitingAttempt::new(self, requester, key.clone(), owner.clone());
            let priority = trigger::priority(want, observed.is_some(), trigger);
            let shared = want.shares(provider, observed);
            self.attempts.spawn(attempt.run(priority, shared));
        }
        if let (Decision::Rest(again), Some(report)) = (&mut decision, &report) {
            let health = report.facts.iter().find(|fact| fact.topic == Topic::TargetsHealthy);
            let health = health.map(|fact| fact.holds);
            *again = self.track(owner, |track| track.watch_health(want, health, Instant::now()));
        }
        let of_the_group = plan.blocked().iter().any(|it| it.obstacle.is_of_the_group());
        let blocked_by_group = of_the_group.then(|| (key, want.shares(provider, observed)));
        let progress = self.track(owner, |track| {
            if want.load_balancer().is_some() {
                track.block_by_group(blocked_by_group);
            }
            track.progress(want, &plan)
        });
        let Snapshot { observed, read: _ } = snapshot;
        Submitted { observed, plan, report, decision, progress }
    }

    /// All that there is to do for a want, by the inventory.
    pub(crate) fn plan(&self, want: &Want) -> Plan<P::Step> {
        let observed = self.inventory.snapshot(&want.owner().service).observed;
        want.plan(self.calls.provider(), observed.as_ref())
    }

    /// The plan that the last attempt for this want was not to execute; `None`: it executed its plan.
    pub(crate) fn withheld(&self, want: &Want) -> Option<PlanView> {
        self.known_track(want.owner(), |track| track.withheld(want)).flatten()
    }

    /// Runs `want` now, without locks and permits: for a process in which no other attempt runs.
    pub(crate) async fn run_alone(&self, want: &Want, mode: Mode) -> AttemptReport<P::Observed> {
        let operation = Operation { calls: &self.calls, held: None, give_way: None };
        operation.run(want, mode, ReadMode::Full).await
    }

    /// Whether the last attempt for this want found nothing left to do.
    pub(crate) fn is_settled(&self, want: &Want) -> bool {
        self.known_track(want.owner(), |track| track.is_settled(want)).unwrap_or_default()
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.calls.provider().capabilities()
    }

    pub(crate) fn provider(&self) -> &P {
        self.calls.provider()
    }

    /// Whether this process may provision: while it leads, or where it executes nothing anyway.
    pub(crate) fn may_work(&self) -> bool {
        self.policy.read_only || self.calls.is_leading()
    }

    /// Whether this process leads.
    pub(crate) fn is_leading(&self) -> bool {
        self.calls.is_leading()
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// Reads everything that this cluster owns; whether that succeeded.
    pub(crate) async fn list(&self) -> bool {
        let Some((listing, began)) = self.calls.list().await else { return false };
        self.inventory.replace(listing, began);
        true
    }

    /// Whether a complete listing has been read.
    pub(crate) fn is_loaded(&self) -> bool {
        self.inventory.is_loaded()
    }

    /// Whether the inventory shows something of this Service.
    pub(crate) fn exists(&self, service: &ServiceUid) -> bool {
        self.inventory.exists(service)
    }

    /// Owners of everything in the inventory.
    pub(crate) fn owners(&self) -> Vec<Owner> {
        self.inventory.owners()
    }

    /// Sets the state that the metrics count a Service by.
    pub(crate) fn set_state(&self, owner: &Owner, state: ServiceState) {
        let before = self.tracks().set_state(owner, state);
        self.calls.metrics().service_state(before, Some(state));
    }

    /// Whether there is a track of a Service.
    pub(crate) fn knows(&self, service: &ServiceUid) -> bool {
        self.tracks().known(service).is_some()
    }

    /// Drops the track of a Service.
    pub(crate) fn forget(&self, service: &ServiceUid) {
        let state = self.tracks().remove(service);
        self.calls.metrics().service_state(state, None);
    }

    /// Drops the tracks of a name whose object is gone, or another one, except those with an attempt.
    /// `now`: the UID of the object that has this name now.
    pub(crate) fn forget_ended(&self, key: &ServiceKey, now: Option<&str>) {
        let ended = self.tracks().ended(key, now);
        for service in &ended {
            self.forget(service);
        }
    }

    /// Makes the next reconcile of this owner's Service an audit.
    pub(crate) fn request_audit(&self, owner: &Owner) {
        self.track(owner, Track::request_audit);
    }

    pub(crate) fn audit_progress(&self, owner: &Owner) -> AuditProgress {
        self.known_track(owner, |track| track.audit_progress()).unwrap_or(AuditProgress::Done)
    }

    pub(crate) fn end_audit(&self, owner: &Owner) {
        self.known_track(owner, Track::end_audit);
    }

    /// Sets the gauges of attempts that wait.
    pub(crate) fn gauge(&self) {
        for priority in AttemptPriority::ALL {
            self.calls.metrics().attempts_waiting(priority, self.permits.waiting(priority));
        }
    }

    /// Lets no attempt start any more.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.attempts.close();
    }

    /// Resolves when no attempt runs; after [`Self::close`].
    pub(crate) async fn finished(&self) {
        self.attempts.wait().await;
    }

    /// Attempts that wait or run.
    pub(crate) fn unfinished(&self) -> usize {
        self.attempts.len()
    }

    #[cfg(test)]
    pub(crate) fn tracked(&self) -> usize {
        self.tracks().len()
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self, owner: &Owner) -> bool {
        self.track(owner, |track| track.is_idle())
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self, priority: AttemptPriority) -> usize {
        self.permits.waiting(priority)
    }

    /// Names of what the want shares with other Services, by the want and the inventory.
    fn shared(&self, want: &Want) -> BTreeSet<String> {
        let observed = self.inventory.snapshot(&want.owner().service).observed;
        want.shares(self.calls.provider(), observed.as_ref())
    }

    /// Members of a group that only `names` of other members block: one of these has changed. Their keys, to be requeued.
    fn waiting_members(&self, names: &BTreeSet<String>, changed: &ServiceUid) -> Vec<ServiceKey> {
        self.tracks().waiting_members(names, changed)
    }

    /// Reads or changes the track of an owner, which exists from now on.
    fn track<T>(&self, owner: &Owner, with: impl FnOnce(&mut Track) -> T) -> T {
        with(self.tracks().of(owner))
    }

    /// The same of a track that may be dropped already.
    fn known_track<T>(&self, owner: &Owner, with: impl FnOnce(&mut Track) -> T) -> Option<T> {
        self.tracks().known(&owner.service).map(with)
    }

    fn tracks(&self) -> MutexGuard<'_, Tracks> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
