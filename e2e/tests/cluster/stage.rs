//! What all scenarios share: the cluster with Portico in it, a client pod on each node, and portico-lb beside it.

use std::ops::Deref;

use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options},
    fabric::Families,
    portico::Parts,
    session::Inside,
};
use serde_json::json;

use super::{cloud::Cloud, ground::Ground};

/// The shared cluster.
pub(crate) struct Stage {
    ground: Ground,
    /// portico-lb, asked as its operator would.
    pub(crate) cloud: Cloud,
}

/// What is installed.
pub(crate) fn parts() -> Parts {
    let values = json!({
        // A round of the audit is over while a scenario waits for it.
        "operator": {"auditInterval": "5s", "admission": {"protectedCIDRs": ["172.30.0.0/16"]}},
        "nodeproxy": {"nodePortAddresses": "primary,localhost"},
    });
    Parts { values, ..Parts::default() }
}

/// A scene asks the stage of either suite for clients and namespaces.
impl Deref for Stage {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl Stage {
    /// Starts it, and waits until all of it works.
    pub(crate) async fn start(inside: &Inside) -> anyhow::Result<Self> {
        let mut options = Options { families: Families::Both, ..Options::default() };
        options.portico = parts();
        let cluster = Cluster::start(&inside.home, &options, &Account::new()).await?;
        let cloud = Cloud::new(&cluster)?;
        let ground = Ground::of(cluster, usize::MAX);
        ground.add_clients().await?;
        Ok(Self { ground, cloud })
    }
}
