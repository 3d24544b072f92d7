//! The control plane of this suite, without nodes, and without Portico: the operators are processes that can be killed.

use std::ops::Deref;

use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options},
    portico::Parts,
    scenario::{Setup, SharedCluster},
    session::Inside,
};
use serde_json::json;

/// The shared API server.
pub(crate) struct ChaosSetup(SharedCluster);

impl Deref for ChaosSetup {
    type Target = SharedCluster;

    fn deref(&self) -> &SharedCluster {
        &self.0
    }
}

impl Setup for ChaosSetup {
    const SUITE: &'static str = "chaos";
    const PARALLEL: usize = 2; // both clouds at once: most of the time is waiting

    async fn start(inside: &Inside) -> anyhow::Result<Self> {
        let portico = Parts { operator: None, nodeproxy: false, values: json!({}) };
        let options = Options { nodes: 0, portico, ..Options::default() };
        let cluster = Box::pin(Cluster::start(&inside.home, &options, &Account::quiet())).await?;
        Ok(Self(SharedCluster::new(cluster, 0)))
    }

    async fn evidence(&self) -> Vec<(String, anyhow::Result<String>)> {
        Vec::new()
    }
}
