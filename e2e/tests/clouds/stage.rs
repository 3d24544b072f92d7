//! What all scenarios share: the cluster with nodes of both clouds, the clouds, and the two operators.

use std::{ops::Deref, time::Duration};

use anyhow::Context as _;
use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options},
    fabric::POD_CIDR,
    portico::{NAMESPACE, Parts, release::Release},
    session::Inside,
};
use serde_json::json;

use super::{
    ground::Ground,
    site::{Cloud, Sites},
};

/// How long a cloud, an operator and a busy machine may take together.
pub(crate) const PATIENCE: Duration = Duration::from_secs(75);

/// Nodes that are always there.
const NODES: u8 = 4;

/// Those of them with a client pod: one of each cloud.
const CLIENTS: usize = 2;

/// The shared cluster.
pub(crate) struct Stage {
    ground: Ground,
    /// The clouds.
    pub(crate) sites: Sites,
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
        let account = Account::new();
        let nothing = Parts { operator: None, nodeproxy: false, values: json!({}) };
        let options = Options { nodes: 0, portico: nothing, ..Options::default() };
        let mut cluster = Cluster::start(&inside.home, &options, &account).await?;
        let sites = cluster.crashes().or(Sites::start(&cluster)).await.context("starting the clouds")?;
        account.step("both clouds answer");
        let members: Vec<_> = (1..=NODES)
            .map(|number| sites.member(number).map(|(_, member)| member))
            .collect::<anyhow::Result<_>>()?;
        cluster.add_nodes(&members).await?;
        account.step(format!("{NODES} nodes are ready"));
        let stage = Self { ground: Ground::of(cluster, CLIENTS), sites };
        stage.install().await?;
        account.step("two operators and the node proxy are installed");
        stage.add_clients().await?;
        Ok(stage)
    }

    async fn install(&self) -> anyhow::Result<()> {
        self.cluster.kubectl(&["create", "namespace", NAMESPACE]).await?;
        let proxy = Release {
            name: "portico".to_owned(),
            values: json!({"operator": {"enabled": false}, "nodeproxy": {"enabled": true, "clusterCIDR": POD_CIDR}}),
        };
        let [aws, gce] = Cloud::BOTH.map(|cloud| self.sites.release(cloud));
        let releases = async {
            tokio::try_join!(
                proxy.install(&self.cluster),
                aws.install(&self.cluster),
                gce.install(&self.cluster)
            )
        };
        self.cluster.crashes().or(releases).await.map(drop)
    }
}
