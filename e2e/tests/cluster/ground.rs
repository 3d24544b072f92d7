//! What the stage of every suite stands on: the cluster, client pods on some of its nodes, so that no scenario has to start
//! its own, and the namespaces of scenarios that have ended.
//!
//! Owns: where clients are, and removing namespaces. Leaves to others: what the cluster is made of, and what is beside it
//! (`stage`, each suite's own).

use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use portico_e2e::cluster::{Cluster, vantage::Vantage};
use tokio::{sync::Mutex, task::JoinSet};

use super::{objects::Workload, observe, traffic::Client};

/// The namespace of the client pods.
const CLIENTS: &str = "clients";

/// The shared cluster.
pub(crate) struct Ground {
    /// The cluster.
    pub(crate) cluster: Arc<Cluster>,
    clients: Vec<String>,
    closing: Mutex<JoinSet<anyhow::Result<()>>>,
    leftovers: Mutex<Vec<String>>,
}

impl Ground {
    /// A cluster, with a client pod on each of its first `clients` nodes once [`Ground::add_clients`] has made them.
    pub(crate) fn of(cluster: Cluster, clients: usize) -> Self {
        let clients = cluster.nodes().iter().take(clients).map(|host| host.name.clone()).collect();
        Self { cluster: Arc::new(cluster), clients, closing: Mutex::default(), leftovers: Mutex::default() }
    }

    /// Makes the client pods, and waits until they are ready.
    pub(crate) async fn add_clients(&self) -> anyhow::Result<()> {
        self.cluster.kubectl(&["create", "namespace", CLIENTS]).await?;
        observe::service_account(&self.cluster, CLIENTS).await?;
        let pods = Api::<Pod>::namespaced(self.cluster.client(), CLIENTS);
        for node in &self.clients {
            let pod = Workload::web(&format!("on-{node}")).on(node).pod()?;
            pods.create(&PostParams::default(), &pod).await.context("making a client pod")?;
        }
        let wait = ["-n", CLIENTS, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"];
        self.cluster.kubectl(&wait).await.context("waiting for the client pods").map(drop)
    }

    /// The names of nodes with a client pod, in order.
    pub(crate) fn node_names(&self) -> Vec<String> {
        self.clients.clone()
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

    /// Removes a namespace without anybody waiting for it. [`Ground::settle`] waits for it.
    pub(crate) async fn remove_namespace(&self, name: String) {
        let cluster = self.cluster.clone();
        self.closing.lock().await.spawn(async move {
            let args = ["delete", "namespace", &name, "--timeout=90s"];
            let gone = cluster.kubectl(&args).await.map(drop);
            gone.with_context(|| format!("namespace {name}: a finalizer stays, or a pod does not end"))
        });
    }

    /// Waits until the namespaces of scenarios that ended are gone, or have stayed too long ([`Ground::leftovers`]).
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
