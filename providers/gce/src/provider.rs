//! The provider: the trait, against Compute Engine.
//!
//! Owns: [`GceProvider`], [`Config`]. Leaves to others: planning and reporting, which are pure, doing a step (`execute`), and
//! the calls themselves ([`Cloud`]). Invariant: everything is scoped by the configured cluster UID.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use portico_limits::{Limiter, Pace};
use portico_provider::{
    Capabilities, Desired, Field, Inventory, LoadBalancer, LoadBalancerProvider, Outcome, Owned, Owner, Plan,
    ProviderError, ReadMode, Report,
};

use crate::cache::Cache;
use crate::cloud::Cloud;
use crate::cloud::limited::Limited;
use crate::cloud::sdk::SdkCloud;
use crate::config::Config;
use crate::observed::{self, Observed};
use crate::refused::Refused;
use crate::resource::{Backends, Id, Kind, Resource};
use crate::step::{Step, field};
use crate::wanted::unknown_addresses;

/// Passthrough load balancers of Google Cloud.
pub struct GceProvider<C = Limited<SdkCloud>> {
    pub(crate) cloud: C,
    config: Config,
    pub(crate) cache: Cache,
    pub(crate) refused: Refused,
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
        let Config { project, network_project, region, endpoint, .. } = &config;
        let cloud = SdkCloud::connect(project, network_project.as_deref(), region, endpoint.as_deref())
            .await
            .map_err(|error| error.during("set up Compute Engine's clients"))?;
        Ok(Self::new(Limited::new(cloud, pace), config))
    }

    /// The limiters of its calls, one for each class; for metrics.
    pub fn limiters(&self) -> Vec<Arc<Limiter>> {
        self.cloud.limiters()
    }
}

impl<C: Cloud> GceProvider<C> {
    /// On any cloud.
    pub fn new(cloud: C, config: Config) -> Self {
        let shares = AtomicBool::new(config.backends == Backends::InstanceGroups);
        Self { cloud, config, cache: Cache::default(), refused: Refused::default(), shares }
    }

    fn own(&self, operation: &'static str, owner: &Owner) -> Result<(), ProviderError> {
        if owner.cluster == self.config.cluster {
            return Ok(());
        }
        let message = format!("{owner} is not of cluster {}", self.config.cluster);
        Err(ProviderError::Conflict { operation, message })
    }

    /// The cached state, brought up to date; `None`: everything has to be read.
    async fn recall(&self, owner: &Owner, read_mode: ReadMode) -> Result<Option<Observed>, ProviderError> {
        let known = self.cache.recall(&owner.service).filter(|_| read_mode <= ReadMode::Pending);
        let Some(known) = known else { return Ok(None) };
        match known.up_to_date(&self.cloud, owner, read_mode, self.shares.load(Ordering::Relaxed)).await {
            Ok(Some(known)) => {
                let observed = known.observed.clone();
                self.cache.update(&owner.service, known, Instant::now());
                Ok(Some(observed))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.cache.invalidate(&owner.service);
                Err(error.during("read load balancer"))
            }
        }
    }

    /// With the addresses that the user names for it.
    async fn with_named(
        &self,
        desired: Desired<'_>,
        observed: Option<Observed>,
    ) -> Result<Option<Observed>, ProviderError> {
        let Desired::Present(desired) = desired else { return Ok(observed) };
        let names =
            unknown_addresses(desired, observed.as_ref().unwrap_or(&Observed::default()), &self.config);
        if names.is_empty() {
            return Ok(observed);
        }
        let mut observed = observed.unwrap_or_default();
        for name in names {
            let id = Id { kind: Kind::Address, zone: None, name };
            let found = Box::pin(self.cloud.get(&id)).await;
            let found = found.map_err(|error| error.during("read the named address"))?;
            let address = found.and_then(|found| match found.resource {
                Resource::Address(address) => Some(address),
                _ => None,
            });
            observed.named.insert(id.name, address);
        }
        Ok(Some(observed))
    }

    fn with_refused(&self, owner: &Owner, observed: Observed) -> Observed {
        Observed { refused: self.refused.known_to(&owner.service, Instant::now()), ..observed }
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
        self.cache.compare(&all.iter().map(|(owner, observed)| (&owner.service, observed)).collect());
        let owned = |(owner, observed)| Owned { observed: self.with_refused(&owner, observed), owner };
        Ok(all.into_iter().map(owned).collect())
    }

    async fn observe(&self, owner: &Owner, read_mode: ReadMode) -> Result<Option<Observed>, ProviderError> {
        self.observe_for(Desired::Absent(owner), read_mode).await
    }

    async fn observe_for(
        &self,
        desired: Desired<'_>,
        read_mode: ReadMode,
    ) -> Result<Option<Observed>, ProviderError> {
        let owner = desired.owner();
        self.own("read load balancer", owner)?;
        // The SDK's futures are large: boxed, they do not grow those of every caller.
        let observed = if let Some(observed) = Box::pin(self.recall(owner, read_mode)).await? {
            (!observed.is_empty()).then_some(observed)
        } else {
            let shares = self.shares.load(Ordering::Relaxed);
            let observed = Box::pin(observed::observe(&self.cloud, owner, read_mode, shares)).await?;
            let wanted = matches!(desired, Desired::Present(_));
            self.cache.learn(&owner.service, observed.as_ref(), wanted, Instant::now());
            observed
        };
        let observed = self.with_named(desired, observed).await?;
        Ok(observed.map(|observed| self.with_refused(owner, observed)))
    }

    fn plan(&self, desired: Desired<'_>, observed: Option<&Observed>) -> Plan<Step> {
        crate::plan::plan(desired, observed, &self.config)
    }

    fn plan_targets(&self, backends: &portico_provider::Backends, observed: &Observed) -> Plan<Step> {
        crate::plan::targets::plan(backends, observed, &self.config)
    }

    fn differing(&self, desired: &LoadBalancer, observed: Option<&Observed>) -> BTreeSet<Field> {
        let plan = self.plan(Desired::Present(desired), observed);
        plan.steps().iter().map(|planned| field(planned.step.call.target().kind)).collect()
    }

    async fn execute(&self, step: &Step) -> Result<Outcome, ProviderError> {
        self.own(step.call.operation(), &step.owner)?;
        Box::pin(self.carry_out(step)).await
    }

    fn report(&self, desired: &LoadBalancer, observed: Option<&Observed>) -> Report {
        crate::report::report(desired, observed, &self.config)
    }

    fn resources(&self, observed: Option<&Observed>) -> BTreeMap<&'static str, Option<String>> {
        crate::parts::parts(observed)
    }
}
