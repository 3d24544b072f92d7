//! One look at one Service: stages, plan, and what follows for status, finalizer and provider.
//!
//! ```text
//! cache ─▶ stages ─▶ Work ─▶ plan (snapshot) ─▶ Decision ─▶ a go in a task of its own ─▶ queue ─▶ the next look
//!                                  └──────────▶ status, conditions, Events
//! ```
//! Owns: the order of cluster writes around provider calls. Leaves to others: every decision it is made of, and the go
//! itself (`go`).
//! Invariants: the finalizer is on before the first provider call, and off only after a read showed that nothing is
//! left; a look never waits for the provider, so however slow that is, every other Service goes on; a Service that
//! is not ours is not read, written or mentioned.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use portico_provider::{
    Backends, Capabilities, ClusterUid, Fact, LoadBalancer, LoadBalancerProvider, Owner, Report, ServiceUid,
    StatusKind, TargetKind, Topic, Truth,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::cache::node_removal::{AdmittedNodes, NodeRemovalLimiter, NodeRemovalLimits};
use crate::cache::service::{self, ClassRule, ServiceKey, ServiceType};
use crate::cache::store::Cache;
use crate::desired::admission::{Admission, EndpointScope};
use crate::desired::classes::RulesByClass;
use crate::desired::options;
use crate::desired::problem::Problem;
use crate::desired::spec::{Backing, GroupScope};
use crate::desired::stages::{self, Context, Staged, Work};
use crate::metrics::{Metrics, Reconciled, ServiceState};
use crate::process::fence::Fence;
use crate::provision::inventory::Inventory;
use crate::provision::locks::Locks;
use crate::provision::operation::End;
use crate::provision::permits::Permits;
use crate::provision::track::{Decision, Phase, Progress, Track};
use crate::provision::tracks::Tracks;
use crate::provision::trigger::Drift;
use crate::provision::want::Want;
use crate::reconcile::api::{Cluster, ClusterError};
use crate::reconcile::events::{Notice, Severity};
use crate::reconcile::queue::Queue;
use crate::reconcile::status::{Basis, Situation, StatusPatch};

/// What stays the same while the process runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Which Services are ours.
    pub(crate) classes: ClassRule,
    /// The cluster.
    pub(crate) cluster: ClusterUid,
    /// The longest that a user error, or anything else that will not pass by itself, waits for another try.
    pub(crate) resync: Duration,
    /// Whether anything is written at all.
    pub(crate) read_only: bool,
    /// What to do about drift.
    pub(crate) drift: Drift,
    /// Which groups a Service may name.
    pub(crate) groups: GroupScope,
    /// Which endpoints may be pod targets.
    pub(crate) endpoints: EndpointScope,
    /// How many goes may talk to the provider at once.
    pub(crate) concurrency: usize,
    /// How fast nodes may be taken away.
    pub(crate) nodes: NodeRemovalLimits,
}

impl Settings {
    /// Whether pods have to be known: only where some load balancer may send to them.
    pub(crate) fn follows_pods(&self, capabilities: &Capabilities) -> bool {
        self.endpoints == EndpointScope::Pods && capabilities.target_kinds.contains(&TargetKind::Pod)
    }
}

/// Everything that looks at Services share.
pub(crate) struct Operator<P: LoadBalancerProvider, C> {
    pub(crate) provider: P,
    pub(crate) capabilities: Capabilities,
    pub(crate) cluster: C,
    pub(crate) cache: Arc<Cache>,
    pub(crate) inventory: Inventory<P::Observed>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) settings: Settings,
    pub(crate) fence: Fence,
    pub(crate) metrics: Metrics,
    /// Goes that are under way; shutting down waits for them.
    pub(crate) attempts: TaskTracker,
    /// Who of them is next.
    pub(crate) permits: Arc<Permits>,
    /// What only one of them may touch at a time.
    pub(crate) locks: Locks,
    node_removal: Mutex<NodeRemovalLimiter>,
    /// The classes' rules, and the version of the cache they are of.
    pub(crate) class: Mutex<Option<(u64, RulesByClass)>>,
    tracks: Mutex<Tracks>,
}

/// What a look came to: its metric, and when the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReconcileResult {
    pub(crate) outcome: Reconciled,
    pub(crate) again: Option<Instant>,
}

impl ReconcileResult {
    const NOTHING: Self = Self { outcome: Reconciled::Settled, again: None };

    /// Again at `due` at the latest.
    fn or_at(self, due: Option<Instant>) -> Self {
        Self { again: [self.again, due].into_iter().flatten().min(), ..self }
    }
}

/// Outside parts of an [`Operator`].
pub(crate) struct Parts<P, C> {
    pub(crate) provider: P,
    pub(crate) cluster: C,
    pub(crate) cache: Arc<Cache>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) fence: Fence,
    pub(crate) metrics: Metrics,
}

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    pub(crate) fn new(parts: Parts<P, C>, settings: Settings) -> Arc<Self> {
        let Parts { provider, cluster, cache, queue, fence, metrics } = parts;
        let capabilities = provider.capabilities();
        if settings.follows_pods(&capabilities) {
            cache.follow_pods();
        }
        Arc::new(Self {
            capabilities,
            provider,
            cluster,
            cache,
            inventory: Inventory::default(),
            queue,
            fence,
            metrics,
            attempts: TaskTracker::new(),
            permits: Permits::new(settings.concurrency),
            locks: Locks::default(),
            node_removal: Mutex::new(NodeRemovalLimiter::new(settings.nodes)),
            class: Mutex::default(),
            tracks: Mutex::default(),
            settings,
        })
    }

    /// Looks at one Service.
    pub(crate) async fn reconcile(
        self: &Arc<Self>,
        key: &ServiceKey,
    ) -> Result<ReconcileResult, ClusterError> {
        let service = self.cache.service(key);
        let uid = service.as_ref().and_then(|service| service.metadata.uid.as_deref());
        let ended = self.tracks().ended(key, uid);
        for uid in &ended {
            self.drop_track(uid);
        }
        let Some(service) = service else { return Ok(ReconcileResult::NOTHING) };
        let (staged, admitted) = self.stages(&service);
        tracing::debug!(service = %key, stages = %staged, "result");
        match staged.work {
            Work::Nothing => self.forget(&service).await,
            Work::Wait { backends } => {
                let again = self.keep_targets(&service, *backends).map(|(result, _)| result.again);
                Ok(ReconcileResult { outcome: Reconciled::Progress, again: again.flatten() }
                    .or_at(admitted.again))
            }
            Work::Yield { owner, to } => self.yield_to(&service, &owner, &to).await,
            Work::Leave { owner, shown } => self.leave(&service, &owner, &shown).await,
            Work::Refuse { backends, problems, warnings } => {
                let result = self.refuse(&service, *backends, &problems, &warnings).await?;
                Ok(result.or_at(admitted.again))
            }
            Work::Provide { load_balancer, backends, warnings } => {
                let result = self.provide(&service, load_balancer, *backends, &warnings).await?;
                Ok(result.or_at(admitted.again))
            }
            Work::Release { backends, because } => self.release(&service, *backends, because).await,
        }
    }

    /// The stages of a Service, and the nodes they were walked with.
    pub(crate) fn stages(&self, service: &Service) -> (Staged, AdmittedNodes) {
        let key = ServiceKey::of(service);
        let (admitted, slices) = (self.admitted(), self.cache.slices(&key));
        let admission = match self.settings.endpoints {
            EndpointScope::Pods => Admission::Pods(&self.cache, &key),
            EndpointScope::Any => Admission::Any,
        };
        let backing = Backing { nodes: &admitted.nodes, slices: &slices, admission };
        let Settings { classes, cluster, groups, .. } = &self.settings;
        let (class, capabilities) = (self.class_rules(classes.class_of(service)), &self.capabilities);
        let uid = service.metadata.uid.as_deref().and_then(|uid| uid.parse::<ServiceUid>().ok());
        let exists = uid.is_some_and(|uid| self.inventory.get(&uid).is_some());
        let context =
            Context { classes, capabilities, cluster, class: &class, exists, groups: *groups, backing };
        (stages::walk(service, context), admitted)
    }

    /// Nodes that may be targets now.
    fn admitted(&self) -> AdmittedNodes {
        let mut limiter = self.node_removal.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.cache.nodes_version();
        let admitted = limiter.admit(version, || self.cache.nodes(), Instant::now(), Timestamp::now());
        self.metrics.nodes_held(admitted.held);
        admitted
    }

    /// Not ours, or no longer. What may exist of it, although nothing says so, is found by the collector.
    /// What was said of a Service that never got as far as a load balancer is taken back.
    async fn forget(&self, service: &Service) -> Result<ReconcileResult, ClusterError> {
        let uid = service.metadata.uid.as_deref().and_then(|uid| uid.parse::<ServiceUid>().ok());
        let waited = uid.as_ref().is_some_and(|uid| self.tracks().known(uid).is_some());
        if waited && service::waits_for_release(service).is_some() {
            self.cache.renew(self.cluster.mark_waiting(service, None).await?);
        }
        if let Some(uid) = uid {
            self.drop_track(&uid);
        }
        let nobodys =
            ServiceType::of(service) != ServiceType::LoadBalancer && !service::has_finalizer(service);
        if nobodys && !service::is_deleting(service) && !service::our_conditions(service).is_empty() {
            self.cache.renew(self.cluster.apply_status(service, &StatusPatch::default(), Basis::Seen).await?);
        }
        Ok(ReconcileResult::NOTHING)
    }

    /// Another operator of Portico holds it.
    async fn yield_to(
        &self,
        service: &Service,
        owner: &Owner,
        class: &str,
    ) -> Result<ReconcileResult, ClusterError> {
        let note = format!(
            "the operator of class {class} has to release its load balancer first; if that operator is not \
             installed any more, remove annotation {} (what it made then stays where it is)",
            service::HELD_BY
        );
        self.wait_for(service, owner, Severity::Warning, "WaitingForRelease", note).await
    }

    /// Another controller serves it.
    async fn leave(
        &self,
        service: &Service,
        owner: &Owner,
        shown: &str,
    ) -> Result<ReconcileResult, ClusterError> {
        if !self.inventory.is_loaded() {
            return Ok(ReconcileResult { outcome: Reconciled::Progress, again: None });
        }
        let note = format!(
            "{shown}, so Portico leaves this Service alone. To have Portico serve it, keep the other controller from it and annotate it \
             {}: \"true\"; to have it left for good, name that controller's class in spec.loadBalancerClass of a new Service",
            options::TAKE_OVER.key
        );
        self.wait_for(service, owner, Severity::Warning, "ServedByAnother", note).await
    }

    /// Says once whom it waits for, beside the rest of the status: that is the other's until it lets go.
    async fn wait_for(
        &self,
        service: &Service,
        owner: &Owner,
        severity: Severity,
        reason: &str,
        note: String,
    ) -> Result<ReconcileResult, ClusterError> {
        self.state(owner, ServiceState::Progress);
        let wanted = status::waiting_for_release(service, reason, note.clone(), Timestamp::now());
        let said = service::waits_for_release(service)
            .is_some_and(|said| (&said.reason, &said.message) == (&wanted.reason, &wanted.message));
        if !said {
            self.cache.renew(self.cluster.mark_waiting(service, Some(&wanted)).await?);
            self.report_event(service, severity, reason, "Provision", note);
        }
        Ok(ReconcileResult { outcome: Reconciled::Progress, again: None })
    }

    /// What serves already follows nodes and pods, whatever keeps the rest back; `None`: nothing exists, as far as is known.
    fn keep_targets(
        self: &Arc<Self>,
        service: &Service,
        backends: Backends,
    ) -> Option<(ReconcileResult, Progress)> {
        let observed = self.inventory.get(&backends.owner.service)?;
        let want = Want::targets(backends);
        let plan = want.plan(&self.provider, Some(&observed));
        let decision = self.begin(service, &want, &plan, true);
        let progress = self.track(want.owner(), |track| track.progress(&want, &plan));
        Some((result(decision, &progress, &[]), progress))
    }

    async fn refuse(
        self: &Arc<Self>,
        service: &Service,
        backends: Backends,
        problems: &[Problem],
        warnings: &[Problem],
    ) -> Result<ReconcileResult, ClusterError> {
        let owner = backends.owner.clone();
        let kept = self.keep_targets(service, backends);
        let (again, progress) =
            kept.map_or((None, Progress::Settled), |(result, progress)| (result.again, progress));
        self.state(&owner, ServiceState::Refused);
        let situation = Situation { service, report: None, problems, warnings, progress: &progress };
        self.write_status(situation).await?;
        Ok(ReconcileResult { outcome: Reconciled::UserError, again })
    }

    async fn provide(
        self: &Arc<Self>,
        service: &Service,
        load_balancer: Box<LoadBalancer>,
        backends: Backends,
        warnings: &[Problem],
    ) -> Result<ReconcileResult, ClusterError> {
        let held;
        let waits = service::waits_for_release(service).is_some();
        let service = if self.makes() && self.settings.classes.marks(service) && !waits {
            service
        } else {
            held = self.hold(service).await?;
            &held
        };
        if !self.inventory.is_loaded() {
            return self.unread(service, &load_balancer.owner, warnings).await;
        }
        let want = Want::provide(load_balancer.clone(), backends);
        let observed = self.inventory.get(&load_balancer.owner.service);
        let plan = want.plan(&self.provider, observed.as_ref());
        let report = self.provider.report(&load_balancer, observed.as_ref());
        let mut decision = self.begin(service, &want, &plan, observed.is_some());
        if let Decision::Rest(again) = &mut decision {
            *again = self.watch_health(&load_balancer.owner, &want, &report);
        }
        let of_the_group = plan.blocked().iter().any(|it| it.obstacle.is_of_the_group());
        let blocked_by_group = of_the_group.then(|| (ServiceKey::of(service), self.shared(&want)));
        let progress = self.track(&load_balancer.owner, |track| {
            track.blocked_by_group = blocked_by_group;
            track.progress(&want, &plan)
        });
        let mut problems: Vec<Problem> = plan.blocked().iter().map(Problem::of).collect();
        self.class_rules(self.settings.classes.class_of(service)).blame(service, &mut problems);
        self.state(&load_balancer.owner, state(&progress, &problems));
        let report = Report { facts: self.with_endpoints(service, report.facts), ..report };
        let situation =
            Situation { service, report: Some(&report), problems: &problems, warnings, progress: &progress };
        self.write_status(situation).await?;
        if report.ready
            && let Some(annotated) = self.name_resources(service, observed.as_ref()).await?
        {
            self.cache.renew(annotated);
        }
        Ok(result(decision, &progress, &problems))
    }

    /// Whether the provider makes anything at all.
    pub(crate) fn makes(&self) -> bool {
        self.capabilities.status != StatusKind::Nodes
    }

    /// Puts our finalizer on, with the class that it is of, and nobody else's beside it.
    async fn hold(&self, service: &Service) -> Result<Service, ClusterError> {
        let (classes, mut held) = (&self.settings.classes, service.clone());
        if classes.takes_over(service) {
            // Only what was taken off first is recorded as put on by us.
            held = self.cluster.set_finalizer(&held, None).await?;
        }
        if !self.makes() {
            // There is nothing to be held for.
            if classes.holds(&held) {
                held = self.cluster.set_finalizer(&held, None).await?;
            }
        } else if !classes.marks(&held) {
            held = self.cluster.set_finalizer(&held, Some(classes.class_of(service))).await?;
        }
        if service::waits_for_release(service).is_some() {
            held = self.cluster.mark_waiting(&held, None).await?;
        }
        self.cache.renew(held.clone());
        Ok(held)
    }

    /// Nobody has read what exists, so nothing can be planned; the listing brings every Service back.
    async fn unread(
        &self,
        service: &Service,
        owner: &Owner,
        warnings: &[Problem],
    ) -> Result<ReconcileResult, ClusterError> {
        let provisioned =
            |it: &Condition| it.type_ == Topic::Provisioned.condition_type() && it.status == "True";
        if service::our_conditions(service).iter().any(provisioned) {
            return Ok(ReconcileResult { outcome: Reconciled::Progress, again: None });
        }
        let message = "what exists at the provider has not been read yet".to_owned();
        let progress = Progress::Failed { reason: "ProviderUnavailable", message };
        self.state(owner, ServiceState::Progress);
        let situation = Situation { service, report: None, problems: &[], warnings, progress: &progress };
        self.write_status(situation).await?;
        Ok(ReconcileResult { outcome: Reconciled::Progress, again: None })
    }

    async fn release(
        self: &Arc<Self>,
        service: &Service,
        backends: Backends,
        because: &'static str,
    ) -> Result<ReconcileResult, ClusterError> {
        let owner = backends.owner.clone();
        self.state(&owner, ServiceState::Releasing);
        let want = Want::release(backends);
        let gone = |track: &mut Track| {
            let last = track.last.as_ref().filter(|_| track.phase == Phase::Idle);
            last.is_some_and(|last| last.end == End::Settled && last.digest == *want.digest())
        };
        if self.track(&owner, gone) {
            return self.finish_release(service, &owner).await;
        }
        let observed = self.inventory.get(&owner.service);
        let plan = want.plan(&self.provider, observed.as_ref());
        let decision = self.begin(service, &want, &plan, observed.is_some());
        let progress = self.track(&owner, |track| track.progress(&want, &plan));
        let what = match &progress {
            Progress::Failed { reason, message } => Some(format!("{because}; {reason}: {message}")),
            Progress::Waiting(what) => Some(format!("{because}; waiting for {what}")),
            // A go that is just under way is most likely done in a moment, and needs no word.
            Progress::Settled | Progress::Working(_) | Progress::Drifted(_) | Progress::Releasing(_) => None,
        };
        if let Some(what) = what {
            let progress = Progress::Releasing(what);
            let situation =
                Situation { service, report: None, problems: &[], warnings: &[], progress: &progress };
            self.write_status(situation).await?;
        }
        Ok(result(decision, &progress, &[]))
    }

    /// Nothing is left: gives up the status, then the Service.
    async fn finish_release(
        &self,
        service: &Service,
        owner: &Owner,
    ) -> Result<ReconcileResult, ClusterError> {
        let mut newest = service.clone();
        if !service::is_deleting(service) {
            newest = self.cluster.apply_status(service, &StatusPatch::default(), Basis::Seen).await?;
            if let Some(annotated) = self.name_resources(&newest, None).await? {
                newest = annotated;
            }
        }
        // Ours again by now: its own events tell.
        if self.settings.classes.wants(&newest) {
            return Ok(ReconcileResult::NOTHING);
        }
        self.cache.renew(self.cluster.set_finalizer(&newest, None).await?);
        self.drop_track(&owner.service);
        let note = "the load balancer and all that belonged to it are gone".to_owned();
        self.report_event(service, Severity::Normal, "Released", "Release", note);
        Ok(ReconcileResult::NOTHING)
    }

    /// What targets' health means of a Service without endpoints: no target has anybody to hand a connection to.
    fn with_endpoints(&self, service: &Service, mut facts: Vec<Fact>) -> Vec<Fact> {
        let slices = self.cache.slices(&ServiceKey::of(service));
        let empty = slices.iter().all(|slice| slice.addresses().next().is_none());
        // Without any EndpointSlice nothing is known: the controller that writes them may be behind.
        if empty && !slices.is_empty() {
            for fact in facts.iter_mut().filter(|fact| fact.topic == Topic::TargetsHealthy) {
                fact.holds = Truth::False;
                "NoEndpoints".clone_into(&mut fact.reason);
                "no endpoint of the Service is ready, so no connection is answered"
                    .clone_into(&mut fact.message);
            }
        }
        facts
    }

    /// When to look again at targets that are not all healthy; nothing else would bring the news.
    fn watch_health(&self, owner: &Owner, want: &Want, report: &Report) -> Option<Instant> {
        let health = report.facts.iter().find(|fact| fact.topic == Topic::TargetsHealthy);
        self.track(owner, |track| track.watch_health(want, health.map(|fact| fact.holds), Instant::now()))
    }

    async fn write_status(&self, situation: Situation<'_>) -> Result<(), ClusterError> {
        let service = situation.service;
        let before = StatusPatch::shown(service);
        let status = situation.status(&before.conditions, Timestamp::now());
        if before == status {
            return Ok(());
        }
        // From here on it is what the status shows, whenever a watch says so.
        self.cache.renew(self.cluster.apply_status(service, &status, situation.basis()).await?);
        for notice in status::notices(&before.conditions, &status.conditions) {
            self.cluster.report_event(service, notice);
        }
        Ok(())
    }

    pub(crate) fn report_event(
        &self,
        about: &Service,
        severity: Severity,
        reason: &str,
        action: &str,
        note: String,
    ) {
        self.cluster.report_event(
            about,
            Notice { severity, reason: reason.to_owned(), action: action.to_owned(), note },
        );
    }

    fn state(&self, owner: &Owner, state: ServiceState) {
        let before = self.track(owner, |track| track.state.replace(state));
        self.metrics.service_state(before, Some(state));
    }

    pub(crate) fn drop_track(&self, uid: &ServiceUid) {
        if let Some(track) = self.tracks().remove(uid) {
            self.metrics.service_state(track.state, None);
        }
    }

    /// Reads or changes what is remembered of one Service.
    pub(crate) fn track<T>(&self, owner: &Owner, with: impl FnOnce(&mut Track) -> T) -> T {
        with(self.tracks().of(owner))
    }

    /// The same of one that may be forgotten already.
    pub(crate) fn known_track<T>(&self, owner: &Owner, with: impl FnOnce(&mut Track) -> T) -> Option<T> {
        self.tracks().known(&owner.service).map(with)
    }

    /// Brings back those whom only what others have of `names` stands in the way of: it has changed.
    pub(crate) fn requeue_waiting_members(&self, names: &BTreeSet<String>, by: &ServiceUid) {
        for (uid, track) in self.tracks().iter_mut().filter(|(uid, _)| *uid != by) {
            if let Some((key, theirs)) = &track.blocked_by_group
                && !theirs.is_disjoint(names)
            {
                tracing::debug!(service = %key, %uid, "brought back: its group changed");
                track.group_changed = true;
                self.queue.add(key.clone());
            }
        }
    }

    fn tracks(&self) -> MutexGuard<'_, Tracks> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(progress: &Progress, problems: &[Problem]) -> ServiceState {
    match progress {
        Progress::Failed { .. } => ServiceState::Failed,
        _ if !problems.is_empty() => ServiceState::Refused,
        Progress::Settled => ServiceState::Settled,
        Progress::Drifted(_) => ServiceState::Drifted,
        Progress::Working(_) | Progress::Waiting(_) => ServiceState::Progress,
        Progress::Releasing(_) => ServiceState::Releasing,
    }
}

fn result(decision: Decision, progress: &Progress, problems: &[Problem]) -> ReconcileResult {
    let again = match decision {
        Decision::Start | Decision::Running => None,
        Decision::Hold(until) => Some(until),
        Decision::Rest(again) => again,
    };
    let outcome = match progress {
        Progress::Failed { .. } => Reconciled::Error,
        _ if !problems.is_empty() => Reconciled::UserError,
        Progress::Settled | Progress::Drifted(_) => Reconciled::Settled,
        Progress::Working(_) | Progress::Waiting(_) | Progress::Releasing(_) => Reconciled::Progress,
    };
    ReconcileResult { outcome, again }
}

pub(crate) mod annotations;
pub(crate) mod api;
pub(crate) mod class_parameters;
pub(crate) mod events;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod status;
pub(crate) mod worker;

#[cfg(test)]
mod tests;
