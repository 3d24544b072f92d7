//! Builders and two small true implementations for tests: a cloud and a cluster.
//!
//! Owns: what tests start from. Leaves to others: what they expect.
//! Invariant: a builder gives the plainest valid object; tests change what they are about.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeCondition, NodeStatus, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portico_provider::{
    Capabilities, Field, FieldRule, IpFamily, LoadBalancer, Mutability, OptionSpec, Owner, Protocol,
    ServiceName, StatusKind, TargetKind,
};

use crate::cache::pods::PodState;
use crate::desired::admission::Admission;
use crate::desired::classes::rules::ClassRules;
use crate::desired::spec::{self, Backing, GroupScope};

mod cloud;
mod cluster;
mod watch_faults;

pub(crate) use cloud::{FakeCloud, Refused};
pub(crate) use cluster::{FakeCluster, own};
pub(crate) use watch_faults::WatchFaults;

/// The UID of the cluster that tests run in.
pub(crate) const CLUSTER: &str = "c1";

/// A provider that can do everything.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    protocols: &[Protocol::Tcp, Protocol::Udp],
    mixed_protocols: true,
    target_kinds: &[TargetKind::Node, TargetKind::Pod],
    needs_node_ports: true,
    pods_in_place_of_node_ports: false,
    ip_families: &[IpFamily::IPv4],
    status: StatusKind::Ip,
    source_ranges: true,
    session_affinity: true,
    proxy_protocol: true,
    fields: &[FieldRule { field: Field::Listeners, mutability: Mutability::Mutable }],
    options: &[
        OptionSpec {
            key: "portico.dev/test-option",
            value: "a duration such as 30s",
            default: "none",
            mutability: Mutability::Mutable,
            targets: &[],
        },
        OptionSpec {
            key: "fake.example/lb-test-option",
            value: "anything but nonsense",
            default: "none",
            mutability: Mutability::Mutable,
            targets: &[],
        },
    ],
    option_prefixes: &["fake.example/lb-"],
};

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("default".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("1".to_owned()),
        ..ObjectMeta::default()
    }
}

/// A Service of type LoadBalancer, as an API server completes it.
pub(crate) fn mk_service(name: &str) -> Service {
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: 80,
        node_port: Some(30_080),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some("LoadBalancer".to_owned()),
        cluster_ip: Some("10.96.0.10".to_owned()),
        ip_families: Some(vec!["IPv4".to_owned()]),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    Service { metadata: metadata(name), spec: Some(spec), status: None }
}

/// The same with another `spec`.
pub(crate) fn with(mut service: Service, change: impl FnOnce(&mut ServiceSpec)) -> Service {
    change(service.spec.get_or_insert_default());
    service
}

/// A node with one internal address.
pub(crate) fn mk_node(name: &str, address: &str, ready: bool) -> Node {
    let status = NodeStatus {
        addresses: Some(vec![NodeAddress { address: address.to_owned(), type_: "InternalIP".to_owned() }]),
        conditions: Some(vec![NodeCondition {
            type_: "Ready".to_owned(),
            status: if ready { "True" } else { "False" }.to_owned(),
            ..NodeCondition::default()
        }]),
        ..NodeStatus::default()
    };
    Node { metadata: metadata(name), status: Some(status), ..Node::default() }
}

/// A pod with these addresses.
pub(crate) fn mk_pod(namespace: &str, name: &str, addresses: &[&str], phase: &str) -> PodState {
    let ips: Vec<_> = addresses.iter().map(|ip| serde_json::json!({ "ip": ip })).collect();
    serde_json::from_value(serde_json::json!({
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": "web" } },
        "spec": { "nodeName": "node-1" },
        "status": { "phase": phase, "podIP": addresses.first(), "podIPs": ips },
    }))
    .unwrap()
}

/// A slice of endpoints `(address, node, ready)` with one port named `http`.
pub(crate) fn mk_slice(service: &str, name: &str, endpoints: &[(&str, &str, bool)]) -> EndpointSlice {
    let labels = BTreeMap::from([("kubernetes.io/service-name".to_owned(), service.to_owned())]);
    let endpoint = |(address, node, ready): &(&str, &str, bool)| Endpoint {
        addresses: vec![(*address).to_owned()],
        node_name: Some((*node).to_owned()),
        conditions: Some(EndpointConditions { ready: Some(*ready), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    EndpointSlice {
        metadata: ObjectMeta { labels: Some(labels), ..metadata(name) },
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints.iter().map(endpoint).collect()),
        ports: Some(vec![EndpointPort {
            name: Some("http".to_owned()),
            port: Some(8_080),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
    }
}

/// The owner of a load balancer of `mk_service(name)`.
pub(crate) fn mk_owner(name: &str) -> Owner {
    Owner {
        cluster: CLUSTER.parse().unwrap(),
        service: format!("uid-{name}").parse().unwrap(),
        name: ServiceName::new("default", name).unwrap(),
    }
}

/// The load balancer that `mk_service(name)` asks for, in a cluster without nodes.
pub(crate) fn mk_load_balancer(name: &str) -> LoadBalancer {
    let backing = Backing { nodes: &[], slices: &[], admission: Admission::Any };
    let asked = spec::parse(
        &mk_service(name),
        mk_owner(name),
        &CAPABILITIES,
        &ClassRules::default(),
        GroupScope::Namespace,
        backing,
    );
    let load_balancer = *asked.load_balancer.unwrap();
    LoadBalancer { published: BTreeSet::new(), ..load_balancer }
}

/// Compares a file of the repository with what it should hold; with `PORTICO_UPDATE` set, writes it.
pub(crate) fn golden(path: &str, expected: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("PORTICO_UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is stale: run the same test with PORTICO_UPDATE=1");
}
