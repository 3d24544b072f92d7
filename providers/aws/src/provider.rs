//! The provider: the trait, on a cloud.
//!
//! Owns: [`AwsProvider`]. Leaves to others: planning and reporting, which are pure; reading and doing.
//! Invariant: everything is scoped by the configured cluster UID.

use std::collections::BTreeSet;
use std::fmt;

use portico_limits::{Priority, best};
use portico_provider::{
    Backends, Capabilities, Desired, Field, Inventory, LoadBalancer, LoadBalancerProvider, Outcome, Owner,
    Plan, ProviderError, ReadMode, Report,
};

use crate::cache::Cache;
use crate::capabilities::CAPABILITIES;
use crate::cloud::Sdk;
use crate::cloud::batches::Batches;
use crate::cloud::resources::Id;
use crate::config::Config;
use crate::execute::Executor;
use crate::observe::{self, Observer};
use crate::observed::Observed;
use crate::plan::{Pace, PrefixLists, SecurityGroupNames, Site};
use crate::step::Step;

/// Network Load Balancers.
pub struct AwsProvider {
    cloud: Sdk,
    batches: Batches,
    /// An audit's: whoever shares a call waits as long as the one who makes it.
    audits: Batches,
    cache: Cache,
    config: Config,
    site: Site,
}

impl fmt::Debug for AwsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsProvider").field("config", &self.config).finish_non_exhaustive()
    }
}

impl AwsProvider {
    /// Calls nothing yet. An ID that cannot be one is [`ProviderError::Invalid`].
    pub fn new(cloud: Sdk, config: Config) -> Result<Self, ProviderError> {
        let Config { vpc, backend_security_group, cluster_name: _, cluster: _, quotas, pace } = &config;
        let invalid = |message| Err(ProviderError::Invalid { operation: "read the configuration", message });
        if !vpc.starts_with("vpc-") {
            return invalid(format!("VPC {vpc:?} must be an ID such as vpc-0123456789abcdef0"));
        }
        if let Some(group) = backend_security_group.as_ref().filter(|group| !group.starts_with("sg-")) {
            return invalid(format!("security group {group:?} must be an ID such as sg-0123456789abcdef0"));
        }
        let site = Site {
            vpc: vpc.clone(),
            backend_group: backend_security_group.clone().map(Id),
            prefix_lists: PrefixLists::new(),
            security_groups: SecurityGroupNames::new(),
            quotas: *quotas,
            pace: Pace(*pace),
            reached: None,
        };
        let (batches, audits) = (Batches::new(cloud.clone(), *pace), Batches::new(cloud.clone(), *pace));
        Ok(Self { cloud, batches, audits, cache: Cache::default(), config, site })
    }

    fn own(&self, operation: &'static str, owner: &Owner) -> Result<(), ProviderError> {
        if owner.cluster == self.config.cluster {
            return Ok(());
        }
        let message = format!("{owner} is not of cluster {}", self.config.cluster);
        Err(ProviderError::Conflict { operation, message })
    }
}

impl LoadBalancerProvider for AwsProvider {
    type Observed = Observed;
    type Step = Step;

    fn name(&self) -> &'static str {
        "aws"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn inventory(&self) -> Result<Inventory<Observed>, ProviderError> {
        Ok(observe::inventory(&self.cloud, &self.cache, &self.config.cluster).await?)
    }

    async fn observe(&self, owner: &Owner, mode: ReadMode) -> Result<Option<Observed>, ProviderError> {
        self.observe_for(Desired::Absent(owner), mode).await
    }

    async fn observe_for(
        &self,
        desired: Desired<'_>,
        mode: ReadMode,
    ) -> Result<Option<Observed>, ProviderError> {
        let owner = desired.owner();
        self.own("observe", owner)?;
        let Self { cloud, batches, audits, cache, config, site: _ } = self;
        let batches = if best() == Priority::Background { audits } else { batches };
        let observer = Observer { cloud, batches, cache, vpc: &config.vpc, quotas: &config.quotas };
        Ok(Box::pin(observer.observe(desired, mode)).await?)
    }

    fn shares(&self, desired: Desired<'_>, observed: Option<&Observed>) -> BTreeSet<String> {
        let groups = crate::plan::shares(desired, observed);
        groups.into_iter().map(|group| format!("the load balancer of group {group}")).collect()
    }

    fn plan(&self, desired: Desired<'_>, observed: Option<&Observed>) -> Plan<Step> {
        if let Some((hash, targets)) = crate::plan::proven_targets(&self.config.quotas, desired, observed) {
            self.cache.targets_are(desired.owner(), &hash, targets);
        }
        let makes = matches!(desired, Desired::Present(_))
            && observed.is_none_or(|observed| observed.load_balancers() == 0);
        let reached = if makes { self.cache.reached_quota(Some(desired.owner())) } else { None };
        let site = Site {
            prefix_lists: self.cache.prefix_lists(),
            security_groups: self.cache.security_groups(),
            reached,
            ..self.site.clone()
        };
        crate::plan::plan(&site, desired, observed)
    }

    fn plan_targets(&self, backends: &Backends, observed: &Observed) -> Plan<Step> {
        crate::plan::plan_targets(&self.site, backends, observed)
    }

    fn differing(&self, desired: &LoadBalancer, observed: Option<&Observed>) -> BTreeSet<Field> {
        let plan = self.plan(Desired::Present(desired), observed);
        plan.steps().iter().filter_map(|planned| planned.step.action.field()).collect()
    }

    async fn execute(&self, step: &Step) -> Result<Outcome, ProviderError> {
        self.own("execute", &step.owner)?;
        let Self { cloud, batches, audits: _, cache, config, site: _ } = self;
        Box::pin(Executor { cloud, batches, cache, config }.execute(step)).await
    }

    fn report(&self, desired: &LoadBalancer, observed: Option<&Observed>) -> Report {
        crate::report::report(&self.config.quotas, desired, observed)
    }
}
