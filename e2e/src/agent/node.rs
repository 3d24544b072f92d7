//! The Node object: registered once, kept alive by its Lease and conditions.
//!
//! Owns what the kubelet writes about itself. Leaves podCIDR to the controller manager and passes it on. Invariants: the node
//! is Ready only when its podCIDR is known (pods would get no address before); the Lease is renewed every ten seconds, as the
//! node lifecycle controller expects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Pause before another attempt to register.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the Lease is renewed (kubelet's nodeLeaseDurationSeconds / 4).
const RENEWAL: Duration = Duration::from_secs(10);

/// Every so many renewals the conditions' heartbeat is written too (the kubelet: 5 minutes).
const HEARTBEAT: u32 = 12;

/// Name and addresses of the node.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    name: String,
    ips: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
    provider_id: Option<String>,
}

impl Identity {
    pub(super) fn new(
        name: &str,
        ips: &[IpAddr],
        further: BTreeMap<String, String>,
        provider_id: Option<String>,
    ) -> Self {
        let own =
            [("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", arch())];
        let mut labels: BTreeMap<String, String> =
            own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        labels.extend(further);
        Self { name: name.to_owned(), ips: ips.to_vec(), labels, provider_id }
    }
}

/// Go's name of this machine's architecture.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Registers and keeps the node alive, for ever.
pub(super) async fn run(
    client: Client,
    identity: Identity,
    cidr_known: watch::Sender<Option<Vec<IpNet>>>,
) -> Result<()> {
    let api = Api::<Node>::all(client.clone());
    let node = register(&api, &identity).await?;
    let ready = cidr_known.subscribe();
    tokio::select! {
        ended = learn_pod_cidr(&api, &identity, cidr_known) => ended,
        ended = keep_alive(&api, client, &identity, node, ready) => ended,
    }
}

/// Registers the Node. Like a kubelet it tries again while the API server cannot be reached.
async fn register(api: &Api<Node>, identity: &Identity) -> Result<Node> {
    loop {
        match try_to_register(api, identity).await {
            Err(error) if matches!(error.downcast_ref(), Some(kube::Error::Service(_))) => {
                tracing::warn!(error = format!("{error:#}"), "trying again");
                sleep(AGAIN).await;
            }
            registered => return registered,
        }
    }
}

async fn try_to_register(api: &Api<Node>, identity: &Identity) -> Result<Node> {
    let Identity { name, ips: _, labels, provider_id } = identity;
    let metadata = json!({"name": name, "labels": labels});
    let wanted: Node =
        serde_json::from_value(json!({"metadata": metadata, "spec": {"providerID": provider_id}}))?;
    match api.create(&PostParams::default(), &wanted).await {
        Ok(node) => Ok(node),
        Err(kube::Error::Api(error)) if error.code == 409 => {
            let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
            api.patch(name, &PatchParams::default(), &patch).await.context("label the Node")
        }
        Err(error) => Err(error).context("register the Node"),
    }
}

async fn learn_pod_cidr(
    api: &Api<Node>,
    identity: &Identity,
    cidr_known: watch::Sender<Option<Vec<IpNet>>>,
) -> Result<()> {
    let nodes = watch_object(api.clone(), &identity.name);
    let mut nodes = std::pin::pin!(nodes.inspect_err(|error| tracing::warn!(%error, "watch the Node")));
    while let Some(node) = nodes.next().await {
        let cidrs = node.ok().flatten().and_then(|node| node.spec).and_then(|spec| spec.pod_cidrs);
        if let Some(cidrs) = cidrs.filter(|_| cidr_known.borrow().is_none()) {
            let parse = |cidr: &String| cidr.parse().with_context(|| format!("Node.spec.podCIDRs {cidr:?}"));
            let ranges: Vec<IpNet> = cidrs.iter().map(parse).collect::<Result<_>>()?;
            tracing::info!(?ranges, "podCIDRs");
            cidr_known.send_replace(Some(ranges));
        }
    }
    Ok(())
}

async fn keep_alive(
    api: &Api<Node>,
    client: Client,
    identity: &Identity,
    node: Node,
    mut ready: watch::Receiver<Option<Vec<IpNet>>>,
) -> Result<()> {
    let leases = Api::<Lease>::namespaced(client, "kube-node-lease");
    let mut ticks = interval(RENEWAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut since = Timestamp::now();
    let mut count = 0;
    loop {
        let due = tokio::select! {
            _ = ticks.tick() => {
                if let Err(error) = renew(&leases, identity, &node).await {
                    tracing::warn!(error = format!("{error:#}"), "renew the Lease");
                }
                count += 1;
                count % HEARTBEAT == 1
            },
            Ok(()) = ready.changed() => {
                since = Timestamp::now();
                true
            },
        };
        if due {
            let known = ready.borrow().is_some();
            let patch = Patch::Strategic(status_patch(status(identity, known, since, Timestamp::now())));
            if let Err(error) = api.patch_status(&identity.name, &PatchParams::default(), &patch).await {
                tracing::warn!(%error, "write the Node's status");
                count = 0; // with the next renewal
            }
        }
    }
}

async fn renew(leases: &Api<Lease>, identity: &Identity, node: &Node) -> Result<()> {
    let name = &identity.name;
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(json!({"spec": spec}));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(error)) if error.code == 404 => {
            let owner = OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.clone(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            };
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            };
            let lease = Lease { metadata, spec: Some(spec) };
            leases.create(&PostParams::default(), &lease).await.map(drop).context("create")
        }
        Err(error) => Err(error).context("patch"),
    }
}

/// Writes the status, its addresses as a whole: a strategic merge goes by their type, and a dual-stack node has two of one.
fn status_patch(mut status: Value) -> Value {
    if let Some(addresses) = status["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    json!({"status": status})
}

/// The status to write. `since`: when readiness changed last.
fn status(identity: &Identity, ready: bool, since: Timestamp, now: Timestamp) -> Value {
    let Identity { name, ips, labels: _, provider_id: _ } = identity;
    let addresses: Vec<Value> = ips
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip}))
        .chain([json!({"type": "Hostname", "address": name})])
        .collect();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({
            "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(since),
        })
    };
    let ready = if ready {
        condition("Ready", true, "KubeletReady", "the node agent is posting ready status")
    } else {
        condition("Ready", false, "KubeletNotReady", "the node has no podCIDR yet")
    };
    let resources = json!({"cpu": "8", "memory": "16Gi", "ephemeral-storage": "64Gi", "pods": "250"});
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": addresses,
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "not measured"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "not measured"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "not measured"),
            ready,
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": super::server::PORT}},
        // By this the API server hands exec's WebSockets on to us, and needs no SPDY (pkg/registry/core/pod/rest, 1.36).
        "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        "nodeInfo": {
            "architecture": arch(), "operatingSystem": "linux", "osImage": "this machine",
            "kubeletVersion": "v1.36.3", "kubeProxyVersion": "",
            "containerRuntimeVersion": concat!("portico-e2e://", env!("CARGO_PKG_VERSION")),
            "kernelVersion": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "machineID": name, "systemUUID": name,
            "bootID": std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim(),
        },
    })
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_a_whole() {
        let patch = status_patch(json!({"addresses": [{"type": "InternalIP", "address": "fd30::1"}]}));
        assert_eq!(patch["status"]["addresses"][1], json!({"$patch": "replace"}));
    }

    #[test]
    fn a_status_is_a_node_status_and_declares_websockets() {
        let identity = Identity::new("node-1", &[[172, 30, 1, 1].into()], BTreeMap::new(), None);
        let value = status(&identity, false, Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let status: k8s_openapi::api::core::v1::NodeStatus =
            serde_json::from_value(value).expect("a NodeStatus");
        assert_eq!(status.declared_features.expect("set"), ["ExtendWebSocketsToKubelet"]);
        let ready = status.conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
        assert_eq!(ready.expect("there").status, "False");
    }
}
