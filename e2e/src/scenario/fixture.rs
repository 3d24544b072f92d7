//! The fixture of one scenario: its Kubernetes namespace, the objects in it, and the clients that send requests.

use std::{collections::BTreeMap, fmt::Debug, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Service},
    },
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Setup,
    objects::Workload,
    observe,
    shared_cluster::{self, SOON},
    traffic::{Answer, By, Client, Silence},
};

/// One scenario's namespace on a shared cluster.
pub struct Fixture<S> {
    /// The surroundings that all scenarios of the suite share.
    pub shared: Arc<S>,
    /// Name of its Kubernetes namespace.
    pub namespace: String,
}

impl<S: Setup> Fixture<S> {
    /// Creates the namespace: this one, or one named after the scenario.
    pub(super) async fn open(
        shared: Arc<S>,
        namespace: Option<&str>,
        scenario: &str,
    ) -> anyhow::Result<Self> {
        let namespace = namespace.map_or_else(|| slug(scenario), str::to_owned);
        shared_cluster::create_namespace(&shared.cluster, &namespace).await?;
        Ok(Self { shared, namespace })
    }

    /// Removes the namespace and all in it.
    pub(super) async fn close(self) {
        self.shared.remove_namespace(self.namespace).await;
    }

    /// Objects of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.shared.cluster.client(), &self.namespace)
    }

    /// Creates an object.
    pub async fn create<K>(&self, object: &K) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        self.api().create(&PostParams::default(), object).await.with_context(|| format!("creating a {kind}"))
    }

    /// Creates a Deployment and waits until all its pods are ready.
    pub async fn deploy(&self, workload: &Workload) -> anyhow::Result<()> {
        let deployment = self.create(&workload.deployment()?).await?;
        self.rolled_out(deployment.metadata.name.as_deref().unwrap_or_default()).await
    }

    /// Waits until a Deployment's pods are those of its newest template, and ready.
    pub async fn rolled_out(&self, deployment: &str) -> anyhow::Result<()> {
        let what = format!("deployment {deployment} rolls out");
        self.eventually(&what, async || {
            let seen = self.api::<Deployment>().get(deployment).await?;
            let wanted = seen.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let status = seen.status.unwrap_or_default();
            ensure!(status.observed_generation >= seen.metadata.generation, "not yet observed");
            let (updated, ready) = (status.updated_replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0));
            let total = status.replicas.unwrap_or(0);
            ensure!(
                [updated, ready, total] == [wanted; 3],
                "{updated} updated, {ready} ready, {total} in all, {wanted} wanted"
            );
            Ok(())
        })
        .await
    }

    /// Sets a Deployment's number of pods, without waiting.
    pub async fn scale(&self, deployment: &str, replicas: u32) -> anyhow::Result<()> {
        self.patch::<Deployment>(deployment, &json!({"spec": {"replicas": replicas}})).await.map(drop)
    }

    /// Changes fields of an object, by a merge patch.
    pub async fn patch<K>(&self, name: &str, fields: &Value) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        let patch = Patch::Merge(fields);
        self.api::<K>()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("changing {name}"))
    }

    /// Asks for an object's deletion.
    pub async fn delete<K>(&self, name: &str) -> anyhow::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>()
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting {name}"))?;
        Ok(())
    }

    /// A Service as it is now.
    pub async fn service(&self, name: &str) -> anyhow::Result<Service> {
        self.api::<Service>().get(name).await.with_context(|| format!("reading Service {name}"))
    }

    /// Waits until a Service has its load balancer; gives the address and the first port.
    pub async fn provisioned(&self, service: &str) -> anyhow::Result<SocketAddr> {
        let what = format!("a load balancer for {service}");
        self.eventually(&what, async || observe::provisioned(&self.service(service).await?)).await
    }

    /// Portico's Events on a Service, as `type reason: note`.
    pub async fn events(&self, service: &str) -> anyhow::Result<Vec<String>> {
        observe::events(&self.shared.cluster, &self.namespace, service).await
    }

    /// The pods with a label, by name.
    pub async fn pods(&self, selector: &str) -> anyhow::Result<BTreeMap<String, Pod>> {
        let pods = self.api::<Pod>().list(&ListParams::default().labels(selector)).await?;
        Ok(pods.into_iter().map(|pod| (pod.metadata.name.clone().unwrap_or_default(), pod)).collect())
    }

    /// Waits until `check` succeeds, for up to [`SOON`].
    pub async fn eventually<T>(
        &self,
        what: &str,
        check: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.within(SOON, what, check).await
    }

    /// Waits until `check` succeeds, for up to `deadline`.
    pub async fn within<T>(
        &self,
        deadline: Duration,
        what: &str,
        check: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.shared.cluster.eventually(what, deadline, check).await
    }

    /// The client pod on the first node.
    pub fn pod(&self) -> Client {
        self.shared.pod_on("node-1")
    }

    /// A pod of this scenario as a client.
    pub fn as_pod(&self, name: &str) -> Client {
        self.shared.pod(&self.namespace, name)
    }

    /// A node as a client.
    pub fn node(&self, name: &str) -> Client {
        self.shared.node(name)
    }

    /// The host outside the cluster as a client.
    pub fn outside(&self) -> Client {
        self.shared.outside()
    }

    /// A pod and a node, on each node: the clients that reach a `ClusterIP`.
    pub fn insiders(&self) -> Vec<Client> {
        let names = self.shared.node_names();
        names.iter().flat_map(|name| [self.shared.pod_on(name), self.node(name)]).collect()
    }

    /// All clients: [`Fixture::insiders`], and the host outside.
    pub fn everybody(&self) -> Vec<Client> {
        let mut clients = self.insiders();
        clients.push(self.outside());
        clients
    }

    /// Waits until each client gets an answer, then wants every one of some more requests answered.
    pub async fn answered(&self, clients: &[Client], by: By, to: SocketAddr) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for client in clients {
            self.eventually("an answer", async || client.answer(by, to).await).await?;
            answers.extend(client.answers(by, to, 5).await.context("after the first answer, all must come")?);
        }
        Ok(answers)
    }

    /// Waits until each client hears `silence`, then wants it heard again.
    pub async fn silent(
        &self,
        clients: &[Client],
        by: By,
        to: SocketAddr,
        silence: Silence,
    ) -> anyhow::Result<()> {
        for client in clients {
            let what = format!("{silence} instead of an answer");
            self.eventually(&what, async || client.hears(by, to, silence.clone()).await).await?;
            if by == By::Udp && silence == Silence::Refused {
                continue; // it comes by ICMP, which the kernel sends a host six times at once and then once a second
            }
            client.hears(by, to, silence.clone()).await.context("once silent, silent again")?;
        }
        Ok(())
    }
}

/// A namespace's name from a scenario's: a DNS label, short enough for the names of pods behind it.
fn slug(scenario: &str) -> String {
    let label: String = scenario
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let short: String = label.chars().take(48).collect();
    short.trim_matches('-').to_owned()
}
