//! Where controllers are measured: the real control plane, Nodes that stand for instances and are kept alive by heartbeats,
//! and Services. Nothing runs on the Nodes; only their objects matter here.

use std::{
    collections::BTreeSet,
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
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::interval};

use crate::{
    account::Account,
    cloud::aws::Instance,
    controlplane::{ControlPlane, Credentials},
    fabric,
    home::Home,
    process::Crashes,
    tools::Tools,
};

/// Where all Services of the bench live.
const NAMESPACE: &str = "bench";

/// How many objects are written at the same time.
const WRITERS: usize = 16;

/// How often Nodes tell that they are alive; after 25 s of silence the control plane takes them for dead.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The testbed.
pub struct Testbed {
    /// Programs.
    pub tools: Tools,
    /// Where files go.
    pub home: Home,
    /// Where a crash of the control plane is told.
    pub crashes: Crashes,
    client: Client,
    alive: Arc<Mutex<BTreeSet<String>>>,
    heartbeats: JoinHandle<()>,
    control_plane: ControlPlane,
}

impl Testbed {
    /// Starts it.
    pub async fn start(tools: Tools, home: Home, account: &Account) -> anyhow::Result<Self> {
        let crashes = Crashes::new();
        fabric::create()?;
        let credentials = Credentials::open(&home.pki())?;
        account.step("starting etcd and the Kubernetes control plane");
        let (control_plane, client) = ControlPlane::start(&tools, &home, &credentials, &crashes).await?;
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.create(&PostParams::default(), &namespace).await.context("making the namespace")?;
        let alive = Arc::default();
        let heartbeats = tokio::spawn(beat(client.clone(), Arc::clone(&alive)));
        Ok(Self { tools, home, crashes, client, alive, heartbeats, control_plane })
    }

    /// Registers the Node of an instance.
    pub async fn join(&self, instance: &Instance) -> anyhow::Result<()> {
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

    /// Makes Services `<prefix>0` … of type LoadBalancer.
    pub async fn create(&self, prefix: &str, count: u32, node_ports: bool) -> anyhow::Result<()> {
        let services = self.services();
        stream::iter(0..count)
            .map(|number| {
                let services = services.clone();
                async move {
                    let service = mk_service(&format!("{prefix}{number}"), node_ports)?;
                    let made = services.create(&PostParams::default(), &service).await;
                    made.context("making a Service").map(drop)
                }
            })
            .buffer_unordered(WRITERS)
            .try_collect()
            .await
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

    /// Takes the finalizers off whatever a failed controller left.
    pub async fn strip(&self) -> anyhow::Result<()> {
        for service in self.list().await? {
            let name = service.metadata.name.unwrap_or_default();
            self.change(&name, &json!({"metadata": {"finalizers": null}})).await?;
        }
        Ok(())
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Ends the control plane.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.heartbeats.abort();
        self.control_plane.stop().await
    }
}

/// Renews every Node's Lease, for ever.
async fn beat(client: Client, alive: Arc<Mutex<BTreeSet<String>>>) {
    let leases = Api::<Lease>::namespaced(client, "kube-node-lease");
    let mut ticks = interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        let names = alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for name in names {
            let spec = LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(40),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            };
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec,
            });
            let params = PatchParams::apply("bench").force();
            if let Err(error) = leases.patch(&name, &params, &Patch::Apply(lease)).await {
                tracing::warn!(%error, name, "a Node's heartbeat");
            }
        }
    }
}

fn mk_node(instance: &Instance) -> anyhow::Result<Node> {
    let Instance { id: _, zone, address, name } = instance;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone,
        }},
        "spec": {"providerID": instance.provider_id()},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "InternalDNS", "address": name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": "an instance"}],
        },
    }))?)
}

/// As small as a Service can be that both controllers make a Network Load Balancer for.
fn mk_service(name: &str, node_ports: bool) -> anyhow::Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": {"service.beta.kubernetes.io/aws-load-balancer-type": "nlb"}},
        "spec": {
            "type": "LoadBalancer", "selector": {"app": name}, "ports": [{"name": "web", "port": 80}],
            "allocateLoadBalancerNodePorts": node_ports,
        },
    }))?)
}
