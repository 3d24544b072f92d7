//! The provider: the trait, against Compute Engine.
//!
//! Owns: [`GceProvider`], [`Config`], [`Step`], and doing one step. Leaves to others: planning and reporting, which are
//! pure, and the calls themselves ([`Cloud`]). Invariants: everything is scoped by the configured cluster UID; nothing
//! is changed or deleted whose description does not say that it is this Service's; no call waits for an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use portico_limits::{Limiter, Pace};
use portico_provider::{
    Capabilities, ClusterUid, Desired, Field, Inventory, LoadBalancer, LoadBalancerProvider, Look, Outcome,
    Owned, Owner, Plan, ProviderError, Report,
};

use crate::cloud::limited::Limited;
use crate::cloud::sdk::SdkCloud;
use crate::cloud::{Cloud, CloudError, CloudErrorKind, Found, Operation, OperationState};
use crate::names;
use crate::observed::{self, Observed};
use crate::offer;
use crate::plan::LOOK_AGAIN;
use crate::refused::Refused;
use crate::resource::{Backends, Endpoint, Id, Kind, Resource};

/// Where load balancers are made, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The project's ID.
    pub project: String,
    /// The region of the cluster's nodes.
    pub region: String,
    /// The VPC network of the cluster's nodes.
    pub network: String,
    /// Their subnetwork, which internal addresses come from unless an annotation names another.
    pub subnetwork: String,
    /// What stands behind load balancers that are made now; one that exists keeps what it has.
    pub backends: Backends,
    /// Compute Engine's counterpart for tests, `http://IP:PORT`; `None`: Google's, with Application Default
    /// Credentials.
    pub endpoint: Option<String>,
    /// The cluster whose Services these are.
    pub cluster: ClusterUid,
}

/// Passthrough load balancers of Google Cloud.
pub struct GceProvider<C = Limited<SdkCloud>> {
    cloud: C,
    config: Config,
    /// Failed operations that were told already: the next try is for real.
    told: Mutex<BTreeSet<String>>,
    refused: Refused,
    /// Whether there are, or may be, instance groups in the cluster, which all Services share.
    shares: AtomicBool,
}

impl<C> fmt::Debug for GceProvider<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GceProvider").field("config", &self.config).finish_non_exhaustive()
    }
}

impl GceProvider {
    /// With Google's SDK. Connects to nothing yet but, without an endpoint, looks for credentials.
    pub async fn connect(config: Config, pace: Pace) -> Result<Self, ProviderError> {
        let Config { project, region, endpoint, .. } = &config;
        let cloud = SdkCloud::connect(project, region, endpoint.as_deref())
            .await
            .map_err(|error| error.during("set up Compute Engine's clients"))?;
        Ok(Self::new(Limited::new(cloud, pace), config))
    }

    /// What limits its calls, a limiter for each class; for metrics.
    pub fn limiters(&self) -> Vec<Arc<Limiter>> {
        self.cloud.limiters()
    }
}

impl<C: Cloud> GceProvider<C> {
    /// On any cloud.
    pub fn new(cloud: C, config: Config) -> Self {
        let shares = AtomicBool::new(config.backends == Backends::InstanceGroups);
        Self { cloud, config, told: Mutex::new(BTreeSet::new()), refused: Refused::default(), shares }
    }

    fn own(&self, operation: &'static str, owner: &Owner) -> Result<(), ProviderError> {
        if owner.cluster == self.config.cluster {
            return Ok(());
        }
        let message = format!("{owner} is not of cluster {}", self.config.cluster);
        Err(ProviderError::Conflict { operation, message })
    }

    fn with_refused(&self, owner: &Owner, observed: Observed) -> Observed {
        Observed { refused: self.refused.known_to(&owner.service, Instant::now()), ..observed }
    }

    /// A failure that nobody has heard of yet.
    fn untold(&self, after: Option<&Failure>) -> Option<CloudError> {
        let Failure { operation, error } = after?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(operation.clone()).then(|| error.clone())
    }

    /// What is there under this name, if it is this Service's.
    async fn mine(&self, owner: &Owner, id: &Id) -> Result<Option<Resource>, CloudError> {
        let Some(Found { resource, description, members: _ }) = self.cloud.get(id).await? else {
            return Ok(None);
        };
        let marked = names::owner_of(&description);
        let shared = id.kind == Kind::InstanceGroup;
        let ours = |it: Owner| it.cluster == owner.cluster && (shared || it.service == owner.service);
        if marked.is_some_and(ours) {
            return Ok(Some(resource));
        }
        let message = format!("{id} exists and is not {owner}'s: its description does not say so");
        Err(CloudError::new(CloudErrorKind::Taken, message))
    }

    /// Starts what a call is for.
    async fn start(&self, owner: &Owner, call: &Call) -> Result<Started, CloudError> {
        let started = match call {
            Call::Insert { resource, otherwise } => match (self.insert(owner, resource).await, otherwise) {
                (Err(error), Some(other)) if error.kind == CloudErrorKind::Invalid => {
                    tracing::info!(%error, "refused; taking the next best");
                    self.insert(owner, other).await
                }
                (answer, _) => answer,
            },
            Call::Patch(resource) => match self.mine(owner, &resource.id()).await? {
                Some(present) if present == *resource => Ok(None),
                Some(_) => self.cloud.patch(resource).await.map(Some),
                None => Err(CloudError::new(CloudErrorKind::NotFound, format!("{} is gone", resource.id()))),
            },
            Call::Delete(id) => match self.mine(owner, id).await? {
                None => Ok(None),
                Some(_) => absent_is_done(self.cloud.delete(id).await),
            },
            Call::Attach { group, endpoints } => return self.attach(owner, group, endpoints).await,
            Call::Detach { group, endpoints } => {
                if self.mine(owner, group).await?.is_none() {
                    return Ok(Started::Nothing);
                }
                let present = self.cloud.endpoints(group).await?;
                let left: Vec<Endpoint> =
                    endpoints.iter().filter(|it| present.contains_key(it)).cloned().collect();
                if left.is_empty() { Ok(None) } else { absent_is_done(self.cloud.detach(group, &left).await) }
            }
        };
        Ok(started?.map_or(Started::Nothing, Started::Operation))
    }

    /// Offers nodes to a group, and remembers whom it refused.
    async fn attach(&self, owner: &Owner, group: &Id, endpoints: &[Endpoint]) -> Result<Started, CloudError> {
        if self.mine(owner, group).await?.is_none() {
            return Err(CloudError::new(CloudErrorKind::NotFound, format!("{group} is gone")));
        }
        let present = self.cloud.endpoints(group).await?;
        let missing: Vec<Endpoint> =
            endpoints.iter().filter(|it| !present.contains_key(it)).cloned().collect();
        let offer::Offered { taken, refused, answer } = offer::offer(&self.cloud, group, &missing).await;
        let some = !refused.is_empty();
        self.refuse(owner, group, refused);
        self.refused.remove(group.zone.as_deref().unwrap_or_default(), taken.iter());
        Ok(match answer? {
            Some(operation) => Started::Operation(operation),
            None if some => Started::Refused,
            None => Started::Nothing,
        })
    }

    fn refuse(&self, owner: &Owner, group: &Id, refused: Vec<(Endpoint, String)>) {
        let zone = group.zone.clone().unwrap_or_default();
        for (endpoint, message) in refused {
            tracing::warn!(service = %owner.name, %group, instance = endpoint.instance, message, "node refused");
            self.refused.add(&owner.service, (zone.clone(), endpoint), message, Instant::now());
        }
    }

    async fn insert(&self, owner: &Owner, resource: &Resource) -> Result<Option<Operation>, CloudError> {
        match self.cloud.insert(resource, &names::description(owner)).await {
            Ok(operation) => Ok(Some(operation)),
            Err(error) if error.kind == CloudErrorKind::Taken => {
                // Ours already (a lost reply, a repetition), or somebody else's; or not the name is taken but the address.
                match self.mine(owner, &resource.id()).await? {
                    Some(_) => Ok(None),
                    None if resource.id().kind == Kind::Address => {
                        Err(CloudError::new(CloudErrorKind::Invalid, error.message))
                    }
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// What a call has begun.
enum Started {
    /// An operation.
    Operation(Operation),
    /// Nothing: there is nothing left of it to do.
    Nothing,
    /// Nothing: Google refused every node that was offered.
    Refused,
}

fn absent_is_done(answer: Result<Operation, CloudError>) -> Result<Option<Operation>, CloudError> {
    match answer {
        Err(error) if error.kind == CloudErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

/// One change, and what it is called for.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// For whom.
    pub owner: Owner,
    /// What is called.
    pub call: Call,
    /// How an earlier operation on the same thing ended. It is told first, once: then it is tried again.
    pub after: Option<Failure>,
    /// Whether its operation is waited for before the next plan; the others of a plan run side by side with it.
    pub waits: bool,
}

/// A failed operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The operation's name.
    pub operation: String,
    /// What it ended with.
    pub error: CloudError,
}

/// A call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Makes a resource, or if that one is refused, another in its place.
    Insert {
        /// The first choice.
        resource: Resource,
        /// The second.
        otherwise: Option<Resource>,
    },
    /// Changes one.
    Patch(Resource),
    /// Deletes one.
    Delete(Id),
    /// Puts nodes into a group.
    Attach {
        /// The group.
        group: Id,
        /// The nodes.
        endpoints: Vec<Endpoint>,
    },
    /// Takes nodes out of a group.
    Detach {
        /// The group.
        group: Id,
        /// The nodes.
        endpoints: Vec<Endpoint>,
    },
}

impl Call {
    /// What it is about.
    pub(crate) fn target(&self) -> Id {
        match self {
            Self::Insert { resource, otherwise: _ } | Self::Patch(resource) => resource.id(),
            Self::Delete(id) => id.clone(),
            Self::Attach { group, endpoints: _ } | Self::Detach { group, endpoints: _ } => group.clone(),
        }
    }

    fn operation(&self) -> &'static str {
        match self {
            Self::Insert { .. } => "insert",
            Self::Patch(_) => "patch",
            Self::Delete(_) => "delete",
            Self::Attach { .. } => "attach nodes to",
            Self::Detach { .. } => "detach nodes from",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner: _, call, after, waits: _ } = self;
        write!(f, "{} {}", call.operation(), call.target())?;
        match call {
            Call::Insert { resource: Resource::ForwardingRule(rule), .. } => {
                write!(f, " for {}", rule.forwards)?;
            }
            Call::Attach { endpoints, .. } | Call::Detach { endpoints, .. } => {
                let names: Vec<&str> = endpoints.iter().map(|it| it.instance.as_str()).collect();
                write!(f, ": {}", names.join(", "))?;
            }
            _ => {}
        }
        after.as_ref().map_or(Ok(()), |failure| write!(f, " (failed before: {})", failure.error))
    }
}

/// Which field a kind of resource stands for.
fn field(kind: Kind) -> Field {
    match kind {
        Kind::Address => Field::RequestedAddresses,
        Kind::ForwardingRule => Field::Listeners,
        Kind::BackendService => Field::SessionAffinity,
        Kind::HealthCheck => Field::HealthCheck,
        Kind::Firewall => Field::SourceRanges,
        Kind::EndpointGroup | Kind::InstanceGroup => Field::Targets,
    }
}

impl<C: Cloud> LoadBalancerProvider for GceProvider<C> {
    type Observed = Observed;
    type Step = Step;

    fn name(&self) -> &'static str {
        "gce"
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities::CAPABILITIES
    }

    async fn inventory(&self) -> Result<Inventory<Observed>, ProviderError> {
        let all = Box::pin(observed::inventory(
            &self.cloud,
            &self.config.cluster,
            self.shares.load(Ordering::Relaxed),
        ))
        .await?;
        let is_shared = |(_, observed): &(Owner, Observed)| {
            observed.resources.keys().any(|id| id.kind == Kind::InstanceGroup)
        };
        if all.iter().any(is_shared) {
            self.shares.store(true, Ordering::Relaxed);
        }
        let owned = |(owner, observed)| Owned { observed: self.with_refused(&owner, observed), owner };
        Ok(all.into_iter().map(owned).collect())
    }

    async fn observe(&self, owner: &Owner, look: Look) -> Result<Option<Observed>, ProviderError> {
        self.own("read load balancer", owner)?;
        // The SDK's futures are large: boxed, they do not grow those of every caller.
        let observed =
            Box::pin(observed::observe(&self.cloud, owner, look, self.shares.load(Ordering::Relaxed)))
                .await?;
        Ok(observed.map(|observed| self.with_refused(owner, observed)))
    }

    fn plan(&self, desired: Desired<'_>, observed: Option<&Observed>) -> Plan<Step> {
        crate::plan::plan(desired, observed, &self.config)
    }

    fn differing(&self, desired: &LoadBalancer, observed: Option<&Observed>) -> BTreeSet<Field> {
        let plan = self.plan(Desired::Present(desired), observed);
        plan.steps().iter().map(|planned| field(planned.step.call.target().kind)).collect()
    }

    async fn execute(&self, step: &Step) -> Result<Outcome, ProviderError> {
        let Step { owner, call, after, waits } = step;
        let operation = call.operation();
        self.own(operation, owner)?;
        if let Some(error) = self.untold(after.as_ref()) {
            let Call::Attach { group, endpoints } = call else { return Err(error.during(operation)) };
            let unfit = offer::named(group, endpoints, &error);
            if unfit.is_empty() {
                return Err(error.during(operation));
            }
            let refused = unfit.into_iter().map(|endpoint| (endpoint, error.message.clone()));
            self.refuse(owner, group, refused.collect());
            return Ok(Outcome::Unchanged);
        }
        let in_progress = Outcome::InProgress { retry: LOOK_AGAIN, what: step.to_string() };
        match Box::pin(self.start(owner, call)).await {
            Ok(Started::Nothing) => Ok(Outcome::Done),
            Ok(Started::Refused) => Ok(Outcome::Unchanged),
            Ok(Started::Operation(started)) => match started.state {
                OperationState::Failed(error) => Err(error.during(operation)),
                OperationState::Running if *waits => Ok(in_progress),
                OperationState::Running | OperationState::Done => Ok(Outcome::Done),
            },
            // Another operation is at work on it: ours from before, or one of another process.
            Err(error) if error.kind == CloudErrorKind::NotReady => Ok(in_progress),
            Err(error) => Err(error.during(operation)),
        }
    }

    fn report(&self, desired: &LoadBalancer, observed: Option<&Observed>) -> Report {
        crate::report::report(desired, observed, &self.config)
    }

    fn resources(&self, observed: Option<&Observed>) -> BTreeMap<&'static str, Option<String>> {
        crate::parts::parts(observed)
    }
}
