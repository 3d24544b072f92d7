//! What all scenarios share: the cluster, and a client pod on each node, so that no scenario has to start its own.

use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options, vantage::Vantage},
    fabric::Families,
    portico::Parts,
    session::Inside,
};
use serde_json::json;
use tokio::{sync::Mutex, task::JoinSet};

use super::{cloud::Cloud, objects::Workload, observe, traffic::Client};

/// The namespace of the client pods.
const CLIENTS: &str = "clients";

/// The shared cluster.
pub(crate) struct Stage {
    /// The cluster.
    pub(crate) cluster: Arc<Cluster>,
    /// portico-lb, asked as its operator would.
    pub(crate) cloud: Cloud,
    closing: Mutex<JoinSet<anyhow::Result<()>>>,
    leftovers: Mutex<Vec<String>>,
}

/// What is installed.
pub(crate) fn parts() -> Parts {
    let values = json!({
        // A round of the audit is over while a scenario waits for it.
        "operator": {"auditInterval": "5s"},
        "nodeproxy": {"nodePortAddresses": "primary,localhost"},
    });
    Parts { values, ..Parts::default() }
}

impl Stage {
    /// Starts it, and waits until all of it works.
    pub(crate) async fn start(inside: &Inside) -> anyhow::Result<Self> {
        let mut options = Options { families: Families::Both, ..Options::default() };
        options.portico = parts();
        let cluster = Cluster::start(&inside.home, &options, &Account::new()).await?;
        let cloud = Cloud::new(&cluster)?;
        let stage = Self {
            cluster: Arc::new(cluster),
            cloud,
            closing: Mutex::default(),
            leftovers: Mutex::default(),
        };
        stage.cluster.kubectl(&["create", "namespace", CLIENTS]).await?;
        observe::service_account(&stage.cluster, CLIENTS).await?;
        let pods = Api::<Pod>::namespaced(stage.cluster.client(), CLIENTS);
        for node in stage.node_names() {
            let pod = Workload::web(&format!("on-{node}")).on(&node).pod()?;
            pods.create(&PostParams::default(), &pod).await.context("making a client pod")?;
        }
        let wait = ["-n", CLIENTS, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"];
        stage.cluster.kubectl(&wait).await.context("waiting for the client pods")?;
        Ok(stage)
    }

    /// The nodes' names, in order.
    pub(crate) fn node_names(&self) -> Vec<String> {
        self.cluster.nodes().iter().map(|host| host.name.clone()).collect()
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
