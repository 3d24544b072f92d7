//! The testbed of controllers: the real control plane, Nodes that stand for instances and are kept alive by heartbeats,
//! and Services. Nothing runs on the Nodes; only their objects matter here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Namespace, Node, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::interval};

use super::objects::{Kind, mk_endpoints, mk_node, mk_service, mk_slice};
use crate::{
    account::Account,
    cloud::aws::Instance,
    controlplane::{ControlPlane, Credentials, Ranges},
    fabric,
    home::Home,
    process::Crashes,
    tools::Tools,
};

/// Namespace of all Services of the bench.
const NAMESPACE: &str = "bench";

/// As many as thousands of Services need; nothing listens on any of them.
const NODE_PORTS: &str = "10000-60000";

/// How many objects are written at the same time.
const WRITERS: usize = 16;

/// Interval of the Nodes' heartbeats; after 25 s of silence the control plane takes them for dead.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A control plane, its Nodes, and the heartbeats.
pub struct Testbed {
    /// The programs under test.
    pub tools: Tools,
    /// Folder of logs, certificates and kubeconfigs.
    pub home: Home,
    /// Crashes of the control plane.
    pub crashes: Crashes,
    client: Client,
    alive: Arc<Mutex<BTreeSet<String>>>,
    heartbeats: JoinHandle<()>,
    control_plane: ControlPlane,
}

impl Testbed {
    /// Starts the control plane and the heartbeats.
    pub async fn start(tools: Tools, home: Home, account: &Account) -> anyhow::Result<Self> {
        let crashes = Crashes::new();
        fabric::create()?;
        let credentials = Credentials::open(&home.pki())?;
        account.step("starting etcd and the Kubernetes control plane");
        let ranges = Ranges { node_ports: NODE_PORTS, ..Ranges::default() };
        let started = ControlPlane::start_for(ranges, &tools, &home, &credentials, &crashes);
        let (control_plane, client) = started.await?;
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.create(&PostParams::default(), &namespace).await.context("making the namespace")?;
        let alive = Arc::default();
        let heartbeats = tokio::spawn(beat(client.clone(), Arc::clone(&alive)));
        Ok(Self { tools, home, crashes, client, alive, heartbeats, control_plane })
    }

    /// Registers the Node of an instance, after its heartbeat. With the Lease of an earlier Node of its name alone, the
    /// control plane would take it for dead at once.
    pub async fn join(&self, instance: &Instance) -> anyhow::Result<()> {
        renew(&leases(&self.client), &instance.name).await?;
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).insert(instance.name.clone());
        let nodes = Api::<Node>::all(self.client.clone());
        let made = nodes.create(&PostParams::default(), &mk_node(instance)?).await;
        made.with_context(|| format!("making Node {}", instance.name)).map(drop)
    }

    /// Deletes the Node of an instance.
    pub async fn leave(&self, instance: &Instance) -> anyhow::Result<()> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance.name);
        let nodes = Api::<Node>::all(self.client.clone());
        let gone = nodes.delete(&instance.name, &DeleteParams::default()).await;
        gone.with_context(|| format!("deleting Node {}", instance.name)).map(drop)
    }

    /// Makes Services `<prefix>0` … of type LoadBalancer, those without a selector with endpoints of their own.
    pub async fn create(&self, prefix: &str, count: u32, kind: Kind) -> anyhow::Result<()> {
        stream::iter(0..count)
            .map(|number| async move {
                let endpoints = endpoints(number);
                let endpoints = if kind == Kind::Nodes { None } else { Some(&endpoints[..]) };
                self.add(&format!("{prefix}{number}"), kind, endpoints).await
            })
            .buffer_unordered(WRITERS)
            .try_collect()
            .await
    }

    /// Makes one Service, with these endpoints if any are given.
    pub async fn add(&self, name: &str, kind: Kind, endpoints: Option<&[Ipv4Addr]>) -> anyhow::Result<()> {
        let made = self.services().create(&PostParams::default(), &mk_service(name, kind)?).await;
        made.with_context(|| format!("making Service {name}"))?;
        if let Some(addresses) = endpoints {
            let made = self.slices().create(&PostParams::default(), &mk_slice(name, addresses)?).await;
            made.with_context(|| format!("making EndpointSlice {name}"))?;
        }
        Ok(())
    }

    /// Makes `address` the only endpoint of a Service.
    pub async fn point(&self, name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"endpoints": mk_endpoints(&[address])}));
        let done = self.slices().patch(name, &PatchParams::default(), &patch).await;
        done.with_context(|| format!("changing EndpointSlice {name}")).map(drop)
    }

    /// The version of each Service: it changes whenever anybody writes to it.
    pub async fn versions(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let versions = self.list().await?.into_iter().map(|service| service.metadata);
        Ok(versions.filter_map(|metadata| Some((metadata.name?, metadata.resource_version?))).collect())
    }

    /// Changes one Service.
    pub async fn change(&self, name: &str, fields: &Value) -> anyhow::Result<()> {
        let done = self.services().patch(name, &PatchParams::default(), &Patch::Merge(fields)).await;
        done.with_context(|| format!("changing Service {name}")).map(drop)
    }

    /// All of them as they are.
    pub async fn list(&self) -> anyhow::Result<Vec<Service>> {
        Ok(self.services().list(&ListParams::default()).await.context("listing Services")?.items)
    }

    /// Asks for the deletion of all of them.
    pub async fn delete_all(&self) -> anyhow::Result<()> {
        let all = self.list().await?;
        let services = self.services();
        stream::iter(all)
            .map(|service| {
                let services = services.clone();
                async move {
                    let name = service.metadata.name.unwrap_or_default();
                    let gone = services.delete(&name, &DeleteParams::default()).await;
                    gone.with_context(|| format!("deleting Service {name}")).map(drop)
                }
            })
            .buffer_unordered(WRITERS)
            .try_collect()
            .await
    }

    /// Takes the finalizers off whatever a controller left.
    pub async fn strip(&self) -> anyhow::Result<()> {
        let all = self.list().await?;
        let held = all.into_iter().map(|service| service.metadata).filter(|it| it.finalizers.is_some());
        stream::iter(held)
            .map(|metadata| async move {
                let name = metadata.name.unwrap_or_default();
                self.change(&name, &json!({"metadata": {"finalizers": null}})).await
            })
            .buffer_unordered(WRITERS)
            .try_collect()
            .await
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Ends the control plane.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.heartbeats.abort();
        self.control_plane.stop().await
    }
}

/// Three addresses that no other of thousands of Services has.
fn endpoints(number: u32) -> [Ipv4Addr; 3] {
    let first = u32::from(Ipv4Addr::new(10, 64, 0, 0)) + number * 4;
    [first, first + 1, first + 2].map(Ipv4Addr::from)
}

/// Renews every Node's Lease, for ever.
async fn beat(client: Client, alive: Arc<Mutex<BTreeSet<String>>>) {
    let leases = leases(&client);
    let mut ticks = interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        let names = alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for name in names {
            if let Err(error) = renew(&leases, &name).await {
                tracing::warn!(%error, name, "a Node's heartbeat");
            }
        }
    }
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), "kube-node-lease")
}

async fn renew(leases: &Api<Lease>, name: &str) -> anyhow::Result<()> {
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec,
    });
    let renewed = leases.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(lease)).await;
    renewed.with_context(|| format!("renewing the Lease of Node {name}")).map(drop)
}
