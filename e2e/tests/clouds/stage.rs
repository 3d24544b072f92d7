//! What all scenarios share: the cluster with nodes of both clouds, the clouds, and the two operators.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options, vantage::Vantage},
    fabric::POD_CIDR,
    portico::{NAMESPACE, Parts, release::Release},
    session::Inside,
};
use serde_json::json;
use tokio::{sync::Mutex, task::JoinSet};

use super::{
    objects::Workload,
    observe,
    site::{Cloud, Sites},
    traffic::Client,
};

/// How long a cloud, an operator and a busy machine may take together.
pub(crate) const PATIENCE: Duration = Duration::from_secs(75);

/// The namespace of the client pods.
const CLIENTS: &str = "clients";

/// Nodes that are always there; the first two have a client pod each.
const NODES: u8 = 4;

/// The shared cluster.
pub(crate) struct Stage {
    /// The cluster.
    pub(crate) cluster: Arc<Cluster>,
    /// The clouds.
    pub(crate) sites: Sites,
    closing: Mutex<JoinSet<anyhow::Result<()>>>,
    leftovers: Mutex<Vec<String>>,
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
        let stage = Self {
            cluster: Arc::new(cluster),
            sites,
            closing: Mutex::default(),
            leftovers: Mutex::default(),
        };
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

    async fn add_clients(&self) -> anyhow::Result<()> {
        self.cluster.kubectl(&["create", "namespace", CLIENTS]).await?;
        observe::service_account(&self.cluster, CLIENTS).await?;
        let pods = Api::<Pod>::namespaced(self.cluster.client(), CLIENTS);
        for node in self.node_names() {
            let pod = Workload::web(&format!("on-{node}")).on(&node).pod()?;
            pods.create(&PostParams::default(), &pod).await.context("making a client pod")?;
        }
        let wait = ["-n", CLIENTS, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"];
        self.cluster.kubectl(&wait).await.context("waiting for the client pods").map(drop)
    }

    /// Nodes with a client pod: one of each cloud.
    pub(crate) fn node_names(&self) -> Vec<String> {
        self.cluster.nodes().iter().take(2).map(|host| host.name.clone()).collect()
    }

    /// A client on a node.
    pub(crate) fn node(&self, name: &str) -> Client {
        self.client_at(self.cluster.from_node(name))
    }

    /// A client on the host outside.
    pub(crate) fn outside(&self) -> Client {
        self.client_at(self.cluster.from_outside())
    }

    /// A client in any pod.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Client {
        self.client_at(self.cluster.from_pod(namespace, name))
    }

    /// The client pod on a node.
    pub(crate) fn pod_on(&self, node: &str) -> Client {
        self.pod(CLIENTS, &format!("on-{node}"))
    }

    fn client_at(&self, vantage: Vantage) -> Client {
        Client::new(self.cluster.tools().portico_e2e(), vantage)
    }

    /// Removes a namespace without anybody waiting for it. [`Stage::settle`] waits for it.
    pub(crate) async fn remove_namespace(&self, name: String) {
        let cluster = self.cluster.clone();
        self.closing.lock().await.spawn(async move {
            let args = ["delete", "namespace", &name, "--timeout=90s"];
            let gone = cluster.kubectl(&args).await.map(drop);
            gone.with_context(|| format!("namespace {name}: a finalizer stays, or a pod does not end"))
        });
    }

    /// Waits until the namespaces of scenarios that ended are gone, or have stayed too long ([`Stage::leftovers`]).
    pub(crate) async fn settle(&self) {
        let mut closing = self.closing.lock().await;
        while let Some(closed) = closing.join_next().await {
            if let Err(error) = closed.map_err(anyhow::Error::from).flatten() {
                self.leftovers.lock().await.push(format!("{error:#}"));
            }
        }
    }

    /// Which namespaces stayed, and why.
    pub(crate) async fn leftovers(&self) -> Vec<String> {
        self.leftovers.lock().await.clone()
    }
}
