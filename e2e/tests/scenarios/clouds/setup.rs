//! The cluster of this suite: nodes of both clouds, the clouds themselves, and an operator for each.

use std::{ops::Deref, time::Duration};

use anyhow::Context as _;
use portico_e2e::{
    account::Account,
    cloud::Cloud,
    cluster::{Cluster, Options},
    fabric::POD_CIDR,
    portico::{NAMESPACE, Parts, release::Release},
    scenario::{Setup, SharedCluster},
    session::Inside,
};
use serde_json::json;

use super::sites::Sites;

/// How long a cloud, an operator and a busy machine may take together.
pub(crate) const PATIENCE: Duration = Duration::from_secs(75);

/// Nodes that are always there.
const NODES: u8 = 4;

/// Those of them with a client pod: one of each cloud.
const CLIENTS: usize = 2;

/// Calls of each cloud that are kept as evidence.
const CALLS: usize = 400;

/// The shared cluster and its two clouds.
pub(crate) struct CloudsSetup {
    shared: SharedCluster,
    /// Both clouds, with their proxies.
    pub(crate) sites: Sites,
}

impl Deref for CloudsSetup {
    type Target = SharedCluster;

    fn deref(&self) -> &SharedCluster {
        &self.shared
    }
}

impl Setup for CloudsSetup {
    const SUITE: &'static str = "clouds";
    const PARALLEL: usize = 3;

    async fn start(inside: &Inside) -> anyhow::Result<Self> {
        let account = Account::new();
        let nothing = Parts { operator: None, nodeproxy: false, values: json!({}) };
        let options = Options { nodes: 0, portico: nothing, ..Options::default() };
        let mut cluster = Box::pin(Cluster::start(&inside.home, &options, &account)).await?;
        let sites = cluster.crashes().or(Sites::start(&cluster)).await.context("starting the clouds")?;
        account.step("both clouds answer");
        let members: Vec<_> = (1..=NODES)
            .map(|number| sites.member(number).map(|(_, member)| member))
            .collect::<anyhow::Result<_>>()?;
        cluster.add_nodes(&members).await?;
        account.step(format!("{NODES} nodes are ready"));
        let setup = Self { shared: SharedCluster::new(cluster, CLIENTS), sites };
        setup.install().await?;
        account.step("two operators and the node proxy are installed");
        setup.add_clients().await?;
        Ok(setup)
    }

    async fn evidence(&self) -> Vec<(String, anyhow::Result<String>)> {
        Cloud::BOTH.map(|cloud| (format!("the last calls of {cloud}"), Ok(self.last_calls(cloud)))).into()
    }
}

impl CloudsSetup {
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

    fn last_calls(&self, cloud: Cloud) -> String {
        let log = self.sites.proxy(cloud).log();
        let last = log.iter().skip(log.len().saturating_sub(CALLS));
        let lines = last.map(|call| {
            let (number, at, kind) = (call.number, call.at.as_secs_f32(), &call.kind);
            let (service, fate) = (call.service.as_deref().unwrap_or("-"), call.fate);
            format!("{number} {at:.1}s {kind} {service} {fate:?} {:?}\n", call.status)
        });
        lines.collect()
    }
}
