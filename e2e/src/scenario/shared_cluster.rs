//! The cluster that all scenarios of a suite share, with client pods on some of its nodes, so that no scenario has to
//! start its own.
//!
//! Owns: the clients, and creating and removing namespaces. Leaves to others: the parts of the cluster, and what a suite
//! has beside it ([`super::Setup`]).

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use tokio::{sync::Mutex, task::JoinSet};

use super::{objects::Workload, traffic::Client};
use crate::cluster::{Cluster, vantage::Vantage};

/// How long the cluster may take for what normally takes a second; two cores and a debug build are slow.
pub const SOON: Duration = Duration::from_secs(30);

/// The namespace of the client pods.
const CLIENTS: &str = "clients";

/// The shared cluster.
pub struct SharedCluster {
    /// The cluster itself.
    pub cluster: Arc<Cluster>,
    clients: Vec<String>,
    closing: Mutex<JoinSet<anyhow::Result<()>>>,
    leftovers: Mutex<Vec<String>>,
}

impl SharedCluster {
    /// A cluster, with a client pod on each of its first `clients` nodes once [`SharedCluster::add_clients`] has
    /// created them.
    pub fn new(cluster: Cluster, clients: usize) -> Self {
        let clients = cluster.nodes().iter().take(clients).map(|host| host.name.clone()).collect();
        Self { cluster: Arc::new(cluster), clients, closing: Mutex::default(), leftovers: Mutex::default() }
    }

    /// Creates the client pods, and waits until they are ready.
    pub async fn add_clients(&self) -> anyhow::Result<()> {
        create_namespace(&self.cluster, CLIENTS).await?;
        let pods = Api::<Pod>::namespaced(self.cluster.client(), CLIENTS);
        for node in &self.clients {
            let pod = Workload::web(&format!("on-{node}")).on(node).pod()?;
            pods.create(&PostParams::default(), &pod).await.context("creating a client pod")?;
        }
        let wait = ["-n", CLIENTS, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"];
        self.cluster.kubectl(&wait).await.context("waiting for the client pods").map(drop)
    }

    /// The names of nodes with a client pod, in order.
    pub fn node_names(&self) -> Vec<String> {
        self.clients.clone()
    }

    /// A client on a node.
    pub fn node(&self, name: &str) -> Client {
        self.client_at(self.cluster.from_node(name))
    }

    /// A client on the host outside.
    pub fn outside(&self) -> Client {
        self.client_at(self.cluster.from_outside())
    }

    /// A client in any pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Client {
        self.client_at(self.cluster.from_pod(namespace, name))
    }

    /// The client pod on a node.
    pub fn pod_on(&self, node: &str) -> Client {
        self.pod(CLIENTS, &format!("on-{node}"))
    }

    fn client_at(&self, vantage: Vantage) -> Client {
        Client::new(self.cluster.tools().portico_e2e(), vantage)
    }

    /// Starts to remove a namespace. [`SharedCluster::settle`] waits for the end.
    pub(super) async fn remove_namespace(&self, name: String) {
        let cluster = self.cluster.clone();
        self.closing.lock().await.spawn(async move {
            let args = ["delete", "namespace", &name, "--timeout=90s"];
            let gone = cluster.kubectl(&args).await.map(drop);
            gone.with_context(|| format!("namespace {name}: a finalizer stays, or a pod does not end"))
        });
    }

    /// Waits until the namespaces of scenarios that ended are gone, or have stayed too long ([`SharedCluster::leftovers`]).
    pub(super) async fn settle(&self) {
        let mut closing = self.closing.lock().await;
        while let Some(closed) = closing.join_next().await {
            if let Err(error) = closed.map_err(anyhow::Error::from).flatten() {
                self.leftovers.lock().await.push(format!("{error:#}"));
            }
        }
    }

    /// Each namespace that stayed, with the reason.
    pub async fn leftovers(&self) -> Vec<String> {
        self.leftovers.lock().await.clone()
    }
}

/// Creates a namespace, and waits for its default service account, without which it may have no pods.
pub(super) async fn create_namespace(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    cluster.kubectl(&["create", "namespace", name]).await?;
    let check = async || cluster.kubectl(&["-n", name, "get", "serviceaccount", "default"]).await.map(drop);
    cluster.eventually("the namespace's default service account", SOON, check).await
}
