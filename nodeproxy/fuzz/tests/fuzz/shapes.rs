//! Histories of Services, slices, this node and `ServiceCIDR`s, out of bytes: the right shape, few names so that they meet,
//! and values of which some are odd. The API server lets no such object in today; older ones may be there.

use std::iter;

use arbitrary::{Arbitrary, Unstructured};
use serde_json::{Value, json};

use crate::api::{Kind, NODE, Step, failure};

const CLUSTER_IPS: [&str; 8] =
    ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd96::1", "fd96::2", "10.1.0.1", "None", "010.96.0.1"];
const ENDPOINTS: [&str; 8] = [
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.3",
    "fd01::1",
    "192.0.2.1",
    "127.0.0.1",
    "::ffff:10.1.0.1",
    "no address",
];
const ADDRESSES: [&str; 8] = [
    "203.0.113.1",
    "203.0.113.2",
    "2001:db8::5",
    "192.0.2.1",
    "10.96.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "203.0.113.256",
];
const RANGES: [&str; 10] = [
    "10.96.0.0/16",
    "10.96.0.0/24",
    "10.1.0.0/24",
    "10.1.0.128/25",
    "198.51.100.7/24",
    "203.0.113.1/32",
    "0.0.0.0/0",
    "fd01::/64",
    "::/0",
    "10.0.0.0/33",
];
const PORTS: [i32; 8] = [80, 80, 81, 30000, 30001, 0, -1, 65_536];
const NAMES: [&str; 4] = ["a", "b", "c", ""];
/// Ports that meet more often.
const PORT_NAMES: [&str; 4] = ["p", "p", "q", ""];
const PROTOCOLS: [&str; 6] = ["TCP", "TCP", "TCP", "UDP", "SCTP", "tcp"];
const POLICIES: [&str; 3] = ["Cluster", "Local", ""];
const TYPES: [&str; 3] = ["LoadBalancer", "NodePort", "ExternalName"];
const NODES: [&str; 2] = [NODE, "there"];

/// Index into one of the lists above.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Pick(u8);

/// Name, number, number on the node, protocol.
type ServicePort = (Pick, Pick, Pick, Pick);
/// Name, protocol, number.
type SlicePort = (Pick, Pick, Option<Pick>);

#[derive(Arbitrary, Debug)]
enum Change {
    Service(Box<Service>),
    ServiceGone(Pick),
    Slice(Slice),
    SliceGone(Pick, Pick),
    Node(Node),
    NodeGone,
    Ranges(Pick, Vec<Pick>),
    RangesGone(Pick),
    End(Pick),
    TooOld(Pick),
    NoStreaming(Pick),
    Text(Pick, String),
}

#[derive(Arbitrary, Debug)]
struct Service {
    name: Pick,
    kind: Pick,
    created: u8,
    cluster_ips: (Pick, Vec<Pick>),
    external_ips: Vec<Pick>,
    vips: Vec<(Pick, bool)>,
    ports: (ServicePort, Vec<ServicePort>),
    policies: (Pick, Pick),
    affinity: Option<i32>,
    ranges: Vec<Pick>,
    health_check: Pick,
}

#[derive(Arbitrary, Debug)]
struct Slice {
    name: Pick,
    service: Option<Pick>,
    fqdn: bool,
    ports: (SlicePort, Vec<SlicePort>),
    endpoints: (Endpoint, Vec<Endpoint>),
}

#[derive(Arbitrary, Debug)]
struct Endpoint {
    address: Pick,
    conditions: (Option<bool>, Option<bool>, Option<bool>),
    node: Option<Pick>,
    zones: Vec<Pick>,
    nodes: Vec<Pick>,
}

#[derive(Arbitrary, Debug)]
struct Node {
    zone: Option<Pick>,
    addresses: Vec<(Pick, bool)>,
    pod_cidrs: Vec<Pick>,
    leaving: bool,
}

impl Pick {
    fn of<T: Copy>(self, list: &[T]) -> T {
        list[usize::from(self.0) % list.len()]
    }
}

/// The first and the rest.
fn both<T>((first, rest): &(T, Vec<T>), shape: impl Fn(&T) -> Value) -> Vec<Value> {
    iter::once(first).chain(rest).map(shape).collect()
}

fn all<T: Copy + Into<Value>>(picks: &[Pick], list: &[T]) -> Vec<Value> {
    picks.iter().map(|pick| pick.of(list).into()).collect()
}

/// The history in some bytes; it ends where they do. One change in eight is missed.
pub(crate) fn steps(bytes: &[u8]) -> Vec<(Kind, Step)> {
    let mut bytes = Unstructured::new(bytes);
    let changes =
        iter::from_fn(|| if bytes.is_empty() { None } else { <(u8, Change)>::arbitrary(&mut bytes).ok() });
    let steps = (1u32..).zip(changes.take(200)).map(|(version, (luck, change))| {
        let (kind, step) = step(version, change);
        match step {
            Step::Line(line) if luck % 8 == 7 => (kind, Step::Missed(line)),
            step => (kind, step),
        }
    });
    steps.collect()
}

fn step(version: u32, change: Change) -> (Kind, Step) {
    let event = |kind, what: &str, object: Value| (kind, line(what, object, version));
    match change {
        Change::Service(shape) => event(Kind::Services, "MODIFIED", service(&shape)),
        Change::ServiceGone(name) => {
            event(Kind::Services, "DELETED", json!({"metadata": metadata(name.of(&NAMES))}))
        }
        Change::Slice(shape) => event(Kind::Slices, "ADDED", slice(&shape)),
        Change::SliceGone(name, owner) => {
            let object = json!({"metadata": owned(name.of(&NAMES), Some(owner)), "addressType": "IPv4"});
            event(Kind::Slices, "DELETED", object)
        }
        Change::Node(shape) => event(Kind::Nodes, "MODIFIED", node(&shape)),
        Change::NodeGone => event(Kind::Nodes, "DELETED", json!({"metadata": {"name": NODE}})),
        Change::Ranges(name, ranges) => {
            let spec = json!({"cidrs": all(&ranges, &RANGES)});
            event(Kind::Ranges, "ADDED", json!({"metadata": {"name": name.of(&NAMES)}, "spec": spec}))
        }
        Change::RangesGone(name) => {
            event(Kind::Ranges, "DELETED", json!({"metadata": {"name": name.of(&NAMES)}}))
        }
        Change::End(kind) => (kind.of(&Kind::ALL), Step::End),
        Change::TooOld(kind) => (kind.of(&Kind::ALL), Step::Line(failure(410, "Expired"))),
        Change::NoStreaming(kind) => (kind.of(&Kind::ALL), Step::Line(failure(422, "Invalid"))),
        Change::Text(kind, text) => (kind.of(&Kind::ALL), Step::Line(text.replace(['\n', '\r'], ""))),
    }
}

fn line(what: &str, mut object: Value, version: u32) -> Step {
    object["metadata"]["resourceVersion"] = version.to_string().into();
    Step::Line(json!({"type": what, "object": object}).to_string())
}

fn metadata(name: &str) -> Value {
    json!({"namespace": "shop", "name": name})
}

fn owned(name: &str, owner: Option<Pick>) -> Value {
    let mut metadata = metadata(name);
    if let Some(owner) = owner {
        metadata["labels"] = json!({"kubernetes.io/service-name": owner.of(&NAMES)});
    }
    metadata
}

fn service(shape: &Service) -> Value {
    let Service {
        name,
        kind,
        created,
        cluster_ips,
        external_ips,
        vips,
        ports,
        policies,
        affinity,
        ranges,
        health_check,
    } = shape;
    let mut metadata = metadata(name.of(&NAMES));
    metadata["creationTimestamp"] = format!("2026-01-02T03:04:{:02}Z", created % 70).into();
    let port = |(name, number, on_node, protocol): &ServicePort| {
        json!({"name": name.of(&PORT_NAMES), "port": number.of(&PORTS), "nodePort": on_node.of(&PORTS),
            "protocol": protocol.of(&PROTOCOLS)})
    };
    let ingress = |(vip, proxied): &(Pick, bool)| json!({"ip": vip.of(&ADDRESSES), "ipMode": if *proxied { "Proxy" } else { "VIP" }});
    json!({
        "metadata": metadata,
        "spec": {
            "type": kind.of(&TYPES),
            "clusterIPs": both(cluster_ips, |ip| ip.of(&CLUSTER_IPS).into()),
            "externalIPs": all(external_ips, &ADDRESSES),
            "ports": both(ports, port),
            "internalTrafficPolicy": policies.0.of(&POLICIES),
            "externalTrafficPolicy": policies.1.of(&POLICIES),
            "sessionAffinity": affinity.map(|_| "ClientIP"),
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": affinity}},
            "loadBalancerSourceRanges": all(ranges, &RANGES),
            "healthCheckNodePort": health_check.of(&PORTS),
        },
        "status": {"loadBalancer": {"ingress": vips.iter().map(ingress).collect::<Vec<_>>()}},
    })
}

fn slice(shape: &Slice) -> Value {
    let Slice { name, service, fqdn, ports, endpoints } = shape;
    let port = |(name, protocol, number): &SlicePort| json!({"name": name.of(&PORT_NAMES), "protocol": protocol.of(&PROTOCOLS), "port": number.map(|port| port.of(&PORTS))});
    json!({
        "metadata": owned(name.of(&NAMES), *service),
        "addressType": if *fqdn { "FQDN" } else { "IPv4" },
        "ports": both(ports, port),
        "endpoints": both(endpoints, endpoint),
    })
}

fn endpoint(shape: &Endpoint) -> Value {
    let Endpoint { address, conditions: (ready, serving, terminating), node, zones, nodes } = shape;
    let hints = |picks: &[Pick], list: &[&'static str]| -> Vec<Value> {
        picks.iter().map(|pick| json!({"name": pick.of(list)})).collect()
    };
    json!({
        "addresses": [address.of(&ENDPOINTS)],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": node.map(|node| node.of(&NODES)),
        "hints": {"forZones": hints(zones, &NAMES), "forNodes": hints(nodes, &NODES)},
    })
}

fn node(shape: &Node) -> Value {
    let Node { zone, addresses, pod_cidrs, leaving } = shape;
    let address = |(address, external): &(Pick, bool)| json!({"type": if *external { "ExternalIP" } else { "InternalIP" }, "address": address.of(&ADDRESSES)});
    let taints = if *leaving {
        json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}])
    } else {
        json!([])
    };
    json!({
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": zone.map_or("", |zone| zone.of(&NAMES))}},
        "spec": {"podCIDRs": all(pod_cidrs, &RANGES), "taints": taints},
        "status": {"addresses": addresses.iter().map(address).collect::<Vec<_>>()},
    })
}
