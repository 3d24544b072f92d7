//! The cluster of this suite: Portico with provider `local`, a client pod on each node, and portico-lb beside it.

use std::ops::Deref;

use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options},
    fabric::Families,
    portico::{NAMESPACE, Parts},
    scenario::{Setup, SharedCluster},
    session::Inside,
};
use serde_json::json;

use super::{super::images, portico_lb::PorticoLb};

/// The shared cluster and its load balancer.
pub(crate) struct LocalSetup {
    shared: SharedCluster,
    /// A client of portico-lb's API.
    pub(crate) lb: PorticoLb,
}

/// The parts of Portico that are installed.
pub(crate) fn parts() -> Parts {
    let values = json!({
        // A round of the audit is over while a scenario waits for it.
        "operator": {"auditInterval": "5s", "admission": {"protectedCIDRs": ["172.30.0.0/16"]}},
        "nodeproxy": {"nodePortAddresses": "primary,localhost"},
    });
    Parts { values, ..Parts::default() }
}

impl Deref for LocalSetup {
    type Target = SharedCluster;

    fn deref(&self) -> &SharedCluster {
        &self.shared
    }
}

impl Setup for LocalSetup {
    const SUITE: &'static str = "cluster";
    const PARALLEL: usize = 3;

    async fn start(inside: &Inside) -> anyhow::Result<Self> {
        let options =
            Options { families: Families::Both, portico: parts(), images: images(), ..Options::default() };
        let cluster = Box::pin(Cluster::start(&inside.home, &options, &Account::new())).await?;
        let lb = PorticoLb::new(&cluster)?;
        let shared = SharedCluster::new(cluster, usize::MAX);
        shared.add_clients().await?;
        Ok(Self { shared, lb })
    }

    async fn evidence(&self) -> Vec<(String, anyhow::Result<String>)> {
        let leases = self.cluster.kubectl(&["-n", NAMESPACE, "get", "leases", "-o", "yaml"]).await;
        let balancers = self.lb.list().await.map(|list| format!("{list:#?}"));
        vec![("leases".to_owned(), leases), ("load balancers".to_owned(), balancers)]
    }
}
