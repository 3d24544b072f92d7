//! The provider: the trait, against a running `portico-lb`.
//!
//! Owns: [`LocalProvider`], [`Config`]. Leaves to others: planning and reporting, which are pure.
//! Invariant: everything is scoped by the configured cluster UID.

use std::collections::BTreeSet;
use std::fmt;

use portico_provider::{
    Backends, Capabilities, ClusterUid, Desired, Field, Inventory, LoadBalancer, LoadBalancerProvider,
    Outcome, Owned, Owner, Plan, ProviderError, ReadMode, Report,
};

use crate::api::{State, View};
use crate::client::Client;
use crate::step::Step;

/// Configuration of [`LocalProvider`].
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `http://172.30.0.2:9440`.
    pub endpoint: String,
    /// The daemon's bearer token.
    pub token: String,
    /// The cluster whose Services these are.
    pub cluster: ClusterUid,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, token: _secret, cluster } = self;
        f.debug_struct("Config").field("endpoint", endpoint).field("cluster", cluster).finish_non_exhaustive()
    }
}

/// Load balancers of `portico-lb`.
pub struct LocalProvider {
    client: Client,
    cluster: ClusterUid,
}

impl fmt::Debug for LocalProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalProvider").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl LocalProvider {
    /// Connects to nothing yet. An endpoint that is no `http://` URL is [`ProviderError::Invalid`].
    pub fn new(config: Config) -> Result<Self, ProviderError> {
        let Config { endpoint, token, cluster } = config;
        if !endpoint.starts_with("http://") {
            let message = format!("endpoint {endpoint:?} must be a URL such as http://172.30.0.2:9440");
            return Err(ProviderError::Invalid { operation: "read the configuration", message });
        }
        Ok(Self { client: Client::new(&endpoint, token.trim())?, cluster })
    }

    fn own(&self, operation: &'static str, owner: &Owner) -> Result<(), ProviderError> {
        if owner.cluster == self.cluster {
            return Ok(());
        }
        let message = format!("{owner} is not of cluster {}", self.cluster);
        Err(ProviderError::Conflict { operation, message })
    }
}

impl LoadBalancerProvider for LocalProvider {
    type Observed = View;
    type Step = Step;

    fn name(&self) -> &'static str {
        "local"
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities::CAPABILITIES
    }

    async fn inventory(&self) -> Result<Inventory<View>, ProviderError> {
        let views = self.client.list(&self.cluster).await?;
        let own = views.into_iter().filter(|view| view.owner.cluster == self.cluster);
        Ok(own.map(|observed| Owned { owner: observed.owner.clone(), observed }).collect())
    }

    async fn observe(&self, owner: &Owner, _read_mode: ReadMode) -> Result<Option<View>, ProviderError> {
        self.own("read load balancer", owner)?;
        self.client.get(owner).await
    }

    fn plan(&self, desired: Desired<'_>, observed: Option<&View>) -> Plan<Step> {
        crate::plan::plan(desired, observed)
    }

    fn plan_targets(&self, backends: &Backends, observed: &View) -> Plan<Step> {
        crate::plan::plan_targets(backends, observed)
    }

    fn differing(&self, desired: &LoadBalancer, observed: Option<&View>) -> BTreeSet<Field> {
        crate::plan::fields(desired, observed)
    }

    async fn execute(&self, step: &Step) -> Result<Outcome, ProviderError> {
        match step {
            Step::Put { owner, put } => {
                self.own("write load balancer", owner)?;
                let view = self.client.put(owner, put).await?;
                Ok(match view.state {
                    State::Active => Outcome::Done,
                    State::Provisioning => Outcome::InProgress {
                        retry: crate::plan::POLL_AFTER,
                        what: "the load balancer to be provisioned".to_owned(),
                    },
                })
            }
            Step::PutTargets { owner, targets } => {
                self.own("write targets", owner)?;
                self.client.put_targets(owner, targets).await.map(|_view| Outcome::Done)
            }
            Step::Delete { owner } => {
                self.own("delete load balancer", owner)?;
                self.client.delete(owner).await.map(|()| Outcome::Done)
            }
        }
    }

    fn report(&self, desired: &LoadBalancer, observed: Option<&View>) -> Report {
        crate::report::report(desired, observed)
    }
}
