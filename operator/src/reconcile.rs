//! The reconcile of one Service: its stages, its provisioning, its status.
//!
//! ```text
//! cache ─▶ stages ─▶ Work ─▶ Provisioner::submit ─▶ an attempt, as a task of its own ─▶ queue ─▶ the next reconcile
//!                              └──▶ status, conditions, Events
//! ```
//! Owns: [`Reconciler`], and the order of cluster writes around provisioning. Leaves to others: every decision it is made of,
//! and the attempts (`provision`).
//! Invariants: the finalizer is on before the first provider call, and off only after a read showed that nothing is left. A
//! reconcile never waits for the provider. A Service that is not ours is not read, written or mentioned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use portico_provider::{
    Backends, Fact, LoadBalancer, LoadBalancerProvider, Owner, Report, ServiceUid, StatusKind, Topic, Truth,
};
use tokio::time::{Instant, sleep};

use crate::cache::node_removal::{AdmittedNodes, NodeRemovalLimiter};
use crate::cache::service::{self, ServiceKey, ServiceType};
use crate::cache::store::Cache;
use crate::desired::admission::{Admission, EndpointScope};
use crate::desired::class_resolver::ClassResolver;
use crate::desired::options;
use crate::desired::problem::Problem;
use crate::desired::spec::{self, Backing};
use crate::desired::stages::{self, Context, Staged, Work};
use crate::metrics::{Metrics, Reconciled, ServiceState};
use crate::provision::attempt::{Current, Requester};
use crate::provision::track::Progress;
use crate::provision::want::Want;
use crate::provision::{Provisioner, Request, Submitted};

pub(crate) mod annotations;
pub(crate) mod api;
pub(crate) mod class_parameters;
pub(crate) mod events;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod result;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod worker;
pub(crate) mod writer;

use api::{Cluster, ClusterError};
use events::Severity;
use queue::Queue;
use result::ReconcileResult;
use settings::{Parts, Scope, Settings};
use status::{SYNCED, Situation};
use writer::ServiceWriter;

/// The pause between two checks whether all lists have arrived.
const SYNC_POLL: Duration = Duration::from_millis(20);

/// The reconciler of every Service.
pub(crate) struct Reconciler<P: LoadBalancerProvider, C> {
    cache: Arc<Cache>,
    queue: Arc<Queue>,
    writer: ServiceWriter<C>,
    classes: ClassResolver<P>,
    nodes: Mutex<NodeRemovalLimiter>,
    provisioner: Arc<Provisioner<P>>,
    scope: Scope,
    metrics: Metrics,
}

impl<P: LoadBalancerProvider, C: Cluster> Reconciler<P, C> {
    pub(crate) fn new(parts: Parts<P, C>, settings: Settings) -> Arc<Self> {
        let Parts { provider, api, cache, queue, fence, metrics } = parts;
        let Settings { scope, policy, nodes } = settings;
        if scope.follows_pods(&provider.capabilities()) {
            cache.follow_pods();
        }
        let provider = Arc::new(provider);
        let classes = scope.classes.all().map(str::to_owned).collect();
        let classes =
            ClassResolver::new(Arc::clone(&provider), Arc::clone(&cache), classes, scope.cluster.clone());
        Arc::new(Self {
            provisioner: Provisioner::new(provider, fence, metrics.clone(), policy),
            writer: ServiceWriter::new(api, Arc::clone(&cache)),
            classes,
            nodes: Mutex::new(NodeRemovalLimiter::new(nodes)),
            cache,
            queue,
            scope,
            metrics,
        })
    }

    pub(crate) fn provisioner(&self) -> &Arc<Provisioner<P>> {
        &self.provisioner
    }

    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// For reads past the cache.
    pub(crate) fn api(&self) -> &C {
        self.writer.api()
    }

    /// Resolves when the cache is complete.
    pub(crate) async fn synced(&self) {
        while !self.cache.is_synced() {
            sleep(SYNC_POLL).await;
        }
    }

    /// Queues a Service.
    pub(crate) fn enqueue(&self, key: ServiceKey) {
        self.queue.add(key);
    }

    /// Hands out no more Services.
    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// Every Service that has, or shall have, a load balancer.
    pub(crate) fn provided(&self) -> BTreeMap<ServiceUid, (ServiceKey, Owner)> {
        let ours = self.cache.services().into_iter().filter(|it| self.scope.classes.wants(it));
        let known = ours.filter_map(|service| {
            let owner = spec::owner(&service, &self.scope.cluster).ok()?;
            Some((owner.service.clone(), (ServiceKey::of(&service), owner)))
        });
        known.collect()
    }

    /// Whether the Service of this name is still this owner's.
    pub(crate) fn is_current(&self, key: &ServiceKey, owner: &Owner) -> bool {
        self.current_service(key, owner).is_some()
    }

    fn current_service(&self, key: &ServiceKey, owner: &Owner) -> Option<Arc<Service>> {
        let service = self.cache.service(key)?;
        (service.metadata.uid.as_deref() == Some(owner.service.as_str())).then_some(service)
    }

    /// Reconciles one Service.
    pub(crate) async fn reconcile(
        self: &Arc<Self>,
        key: &ServiceKey,
    ) -> Result<ReconcileResult, ClusterError> {
        let service = self.cache.service(key);
        let uid = service.as_ref().and_then(|service| service.metadata.uid.as_deref());
        self.provisioner.forget_ended(key, uid);
        let Some(service) = service else { return Ok(ReconcileResult::NOTHING) };
        let (staged, admitted) = self.stages(&service);
        tracing::debug!(service = %key, stages = %staged, "reconciling");
        match staged.work {
            Work::Nothing => self.forget(&service).await,
            Work::Wait { backends } => {
                let kept = self.keep_targets(&service, *backends);
                let requeue_at = kept.and_then(|kept| ReconcileResult::of(&kept, &[]).requeue_at);
                Ok(ReconcileResult { requeue_at, ..ReconcileResult::PROGRESS }.or_at(admitted.again))
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

    /// The stages of a Service, and the nodes that they were walked with.
    fn stages(&self, service: &Service) -> (Staged, AdmittedNodes) {
        let key = ServiceKey::of(service);
        let (admitted, slices) = (self.admitted(), self.cache.slices(&key));
        let admission = match self.scope.endpoints {
            EndpointScope::Pods => Admission::Pods(&self.cache, &key),
            EndpointScope::Any => Admission::Any,
        };
        let backing = Backing { nodes: &admitted.nodes, slices: &slices, admission };
        let Scope { classes, cluster, groups, endpoints: _ } = &self.scope;
        let class = self.classes.rules(classes.class_of(service));
        let uid = uid(service);
        let exists = uid.is_some_and(|uid| self.provisioner.exists(&uid));
        let capabilities = &self.provisioner.capabilities();
        let context =
            Context { classes, capabilities, cluster, class: &class, exists, groups: *groups, backing };
        (stages::walk(service, context), admitted)
    }

    /// Nodes that may be targets now.
    fn admitted(&self) -> AdmittedNodes {
        let mut limiter = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.cache.nodes_version();
        let admitted = limiter.admit(version, || self.cache.nodes(), Instant::now(), Timestamp::now());
        self.metrics.nodes_held(admitted.held);
        admitted
    }

    /// A Service that is not, or no longer, ours: removes what its status says of a load balancer that was never created. The
    /// collector finds what may exist of it although nothing says so.
    async fn forget(&self, service: &Service) -> Result<ReconcileResult, ClusterError> {
        if let Some(uid) = uid(service) {
            if self.provisioner.knows(&uid) {
                self.writer.waits_no_longer(service).await?;
            }
            self.provisioner.forget(&uid);
        }
        let unowned =
            ServiceType::of(service) != ServiceType::LoadBalancer && !service::has_finalizer(service);
        if unowned && !service::is_deleting(service) && !service::our_conditions(service).is_empty() {
            self.writer.clear_status(service).await?;
        }
        Ok(ReconcileResult::NOTHING)
    }

    /// Another operator of Portico holds the Service.
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
        self.provisioner.set_state(owner, ServiceState::Progress);
        self.writer.waits_for(service, "WaitingForRelease", note).await?;
        Ok(ReconcileResult::PROGRESS)
    }

    /// Another controller serves the Service.
    async fn leave(
        &self,
        service: &Service,
        owner: &Owner,
        shown: &str,
    ) -> Result<ReconcileResult, ClusterError> {
        if !self.provisioner.is_loaded() {
            return Ok(ReconcileResult::PROGRESS);
        }
        let note = format!(
            "{shown}, so Portico leaves this Service alone. To have Portico serve it, keep the other controller from it and annotate it \
             {}: \"true\"; to have it left for good, name that controller's class in spec.loadBalancerClass of a new Service",
            options::TAKE_OVER.key
        );
        self.provisioner.set_state(owner, ServiceState::Progress);
        self.writer.waits_for(service, "ServedByAnother", note).await?;
        Ok(ReconcileResult::PROGRESS)
    }

    fn submit(self: &Arc<Self>, service: &Service, want: &Want) -> Submitted<P> {
        let request = Request { key: ServiceKey::of(service), want, was_synced: was_synced(service) };
        self.provisioner.submit(self, request)
    }

    /// Updates the targets of what exists, whatever holds the rest back; `None`: the inventory shows nothing.
    fn keep_targets(self: &Arc<Self>, service: &Service, backends: Backends) -> Option<Submitted<P>> {
        let exists = self.provisioner.exists(&backends.owner.service);
        exists.then(|| self.submit(service, &Want::targets(backends)))
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
        let requeue_at = kept.as_ref().and_then(|kept| ReconcileResult::of(kept, &[]).requeue_at);
        let progress = kept.map_or(Progress::Settled, |kept| kept.progress);
        self.provisioner.set_state(&owner, ServiceState::Refused);
        let situation = Situation { service, report: None, problems, warnings, progress: &progress };
        self.writer.status(situation).await?;
        Ok(ReconcileResult { outcome: Reconciled::UserError, requeue_at })
    }

    async fn provide(
        self: &Arc<Self>,
        service: &Service,
        load_balancer: Box<LoadBalancer>,
        backends: Backends,
        warnings: &[Problem],
    ) -> Result<ReconcileResult, ClusterError> {
        let (classes, owner) = (&self.scope.classes, load_balancer.owner.clone());
        let held;
        let waits = service::waits_for_release(service).is_some();
        let service = if self.creates() && classes.marks(service) && !waits {
            service
        } else {
            held = self.writer.hold(service, classes, self.creates()).await?;
            &held
        };
        if !self.provisioner.is_loaded() {
            return self.unread(service, &owner, warnings).await;
        }
        let mut submitted = self.submit(service, &Want::provide(load_balancer, backends));
        let mut problems: Vec<Problem> = submitted.plan.blocked().iter().map(Problem::of).collect();
        self.classes.rules(classes.class_of(service)).blame(service, &mut problems);
        self.provisioner.set_state(&owner, state(&submitted.progress, &problems));
        let report = submitted.report.take();
        let report = report.map(|it| Report { facts: self.with_endpoints(service, it.facts), ..it });
        let progress = &submitted.progress;
        let situation =
            Situation { service, report: report.as_ref(), problems: &problems, warnings, progress };
        self.writer.status(situation).await?;
        if report.is_some_and(|report| report.ready) {
            let parts = self.provisioner.provider().resources(submitted.observed.as_ref());
            self.writer.annotate(service, parts).await?;
        }
        Ok(ReconcileResult::of(&submitted, &problems))
    }

    /// Whether the provider creates anything at all.
    fn creates(&self) -> bool {
        self.provisioner.capabilities().status != StatusKind::Nodes
    }

    /// The inventory has not been read, so nothing can be planned; the listing requeues every Service.
    async fn unread(
        &self,
        service: &Service,
        owner: &Owner,
        warnings: &[Problem],
    ) -> Result<ReconcileResult, ClusterError> {
        let provisioned =
            |it: &Condition| it.type_ == Topic::Provisioned.condition_type() && it.status == "True";
        if service::our_conditions(service).iter().any(provisioned) {
            return Ok(ReconcileResult::PROGRESS);
        }
        let message = "what exists at the provider has not been read yet".to_owned();
        let progress = Progress::Failed { reason: "ProviderUnavailable", message };
        self.provisioner.set_state(owner, ServiceState::Progress);
        let situation = Situation { service, report: None, problems: &[], warnings, progress: &progress };
        self.writer.status(situation).await?;
        Ok(ReconcileResult::PROGRESS)
    }

    async fn release(
        self: &Arc<Self>,
        service: &Service,
        backends: Backends,
        because: &'static str,
    ) -> Result<ReconcileResult, ClusterError> {
        let owner = backends.owner.clone();
        self.provisioner.set_state(&owner, ServiceState::Releasing);
        let want = Want::release(backends);
        if self.provisioner.is_settled(&want) {
            let none = self.provisioner.provider().resources(None);
            if self.writer.finish_release(service, &self.scope.classes, none).await? {
                self.provisioner.forget(&owner.service);
            }
            return Ok(ReconcileResult::NOTHING);
        }
        let submitted = self.submit(service, &want);
        let what = match &submitted.progress {
            Progress::Failed { reason, message } => Some(format!("{because}; {reason}: {message}")),
            Progress::Waiting(what) => Some(format!("{because}; waiting for {what}")),
            // An attempt that just runs most likely ends in a moment, and needs no word.
            Progress::Settled | Progress::Working(_) | Progress::Drifted(_) | Progress::Releasing(_) => None,
        };
        if let Some(what) = what {
            let progress = &Progress::Releasing(what);
            let situation = Situation { service, report: None, problems: &[], warnings: &[], progress };
            self.writer.status(situation).await?;
        }
        Ok(ReconcileResult::of(&submitted, &[]))
    }

    /// The health of targets of a Service without endpoints: no target can hand a connection on.
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
}

impl<P: LoadBalancerProvider, C: Cluster> Requester for Reconciler<P, C> {
    fn current(&self, key: &ServiceKey, owner: &Owner) -> Current {
        let Some(service) = self.current_service(key, owner) else { return Current::Unclaimed };
        match self.stages(&service).0.work {
            Work::Nothing => Current::Unclaimed,
            // Its finalizer is not on; the next reconcile puts it there.
            Work::Provide { .. }
                if self.creates()
                    && !self.provisioner.policy().read_only
                    && !self.scope.classes.holds(&service) =>
            {
                Current::Nothing
            }
            Work::Provide { load_balancer, backends, warnings: _ } => {
                Current::Want(Want::provide(load_balancer, *backends))
            }
            Work::Wait { backends } | Work::Refuse { backends, .. } => {
                Current::Want(Want::targets(*backends))
            }
            Work::Release { backends, because: _ } => Current::Want(Want::release(*backends)),
            Work::Yield { .. } | Work::Leave { .. } => Current::Nothing,
        }
    }

    fn executed(&self, key: &ServiceKey, steps: Vec<String>) {
        let Some(service) = self.cache.service(key) else { return };
        for step in steps {
            self.writer.event(&service, Severity::Normal, "Executed", "Execute", step);
        }
    }

    fn repaired(&self, key: &ServiceKey, note: String) {
        if let Some(service) = self.cache.service(key) {
            self.writer.event(&service, Severity::Warning, "Drifted", "Audit", note);
        }
    }

    fn requeue(&self, key: ServiceKey) {
        self.queue.add(key);
    }

    fn requeue_later(&self, key: &ServiceKey) {
        self.queue.retry(key);
    }
}

fn uid(service: &Service) -> Option<ServiceUid> {
    service.metadata.uid.as_deref()?.parse().ok()
}

/// Whether the status says that all is as this very `spec` has it.
fn was_synced(service: &Service) -> bool {
    let generation = service.metadata.generation;
    service::our_conditions(service)
        .iter()
        .any(|it| it.type_ == SYNCED && it.status == "True" && it.observed_generation == generation)
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

#[cfg(test)]
mod tests;
