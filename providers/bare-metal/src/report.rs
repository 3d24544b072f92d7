//! What a Service without a load balancer says: which ports of which nodes to use.
//!
//! Owns: the condition and the published addresses. Leaves to others: whether a node is ready (the operator
//! gives only nodes that may take traffic).
//! Invariant: sorted and without repetition, so that a status is written only when it changes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use portico_provider::{
    ExternalTrafficPolicy, Fact, Ingress, IngressAddress, IpFamily, IpMode, LoadBalancer, NodeTarget, Report,
    Targets, Topic, Truth,
};

use crate::config::Config;

/// A message names so many `address:port`, and counts the rest: conditions are for people.
const NAMED: usize = 4;

pub(crate) fn report(config: Config, desired: &LoadBalancer) -> Report {
    let addresses = serving_addresses(desired);
    let Config { publish_node_addresses } = config;
    let ingress = if publish_node_addresses { published(&addresses) } else { Vec::new() };
    Report { ingress, ready: true, facts: vec![provisioned(desired, &addresses)], unread: Vec::new() }
}

/// Addresses of the nodes that serve this Service, external ones where a node has any, in the Service's families.
fn serving_addresses(desired: &LoadBalancer) -> BTreeSet<IpAddr> {
    let Targets::Nodes(nodes) = &desired.targets else { return BTreeSet::new() };
    let serves = |node: &&NodeTarget| match desired.external_traffic_policy {
        ExternalTrafficPolicy::Cluster => true,
        ExternalTrafficPolicy::Local => node.has_ready_endpoints,
    };
    let of_family = |family: IpFamily| {
        nodes.iter().filter(serves).flat_map(move |node| addresses_of_family(node, family))
    };
    desired.ip_families.iter().copied().flat_map(of_family).collect()
}

fn addresses_of_family(node: &NodeTarget, family: IpFamily) -> Vec<IpAddr> {
    let of = |addresses: &BTreeSet<IpAddr>| -> Vec<IpAddr> {
        addresses.iter().copied().filter(|address| IpFamily::of(*address) == family).collect()
    };
    let external = of(&node.external_addresses);
    if external.is_empty() { of(&node.addresses) } else { external }
}

fn published(addresses: &BTreeSet<IpAddr>) -> Vec<Ingress> {
    let ingress = |address: &IpAddr| Ingress {
        address: IngressAddress::Ip(*address),
        ip_mode: Some(IpMode::Proxy),
        ports: Vec::new(),
    };
    addresses.iter().map(ingress).collect()
}

fn provisioned(desired: &LoadBalancer, addresses: &BTreeSet<IpAddr>) -> Fact {
    let fact = |reason: &str, message: String| Fact {
        topic: Topic::Provisioned,
        holds: Truth::False,
        reason: reason.to_owned(),
        message,
    };
    if desired.listeners.iter().all(|listener| listener.node_port.is_none()) {
        let message = "there is no load balancer, and no port has a node port: \
                       set allocateLoadBalancerNodePorts to true";
        return fact("NoNodePorts", message.to_owned());
    }
    if addresses.is_empty() {
        return fact("NoNodes", no_nodes(desired).to_owned());
    }
    fact("NodePortOnly", format!("there is no load balancer here: {}", directions(desired, addresses)))
}

fn no_nodes(desired: &LoadBalancer) -> &'static str {
    match desired.external_traffic_policy {
        ExternalTrafficPolicy::Cluster => {
            "there is no load balancer, and no ready node has an address of the Service's families"
        }
        ExternalTrafficPolicy::Local => {
            "there is no load balancer, and externalTrafficPolicy is Local, but no node has ready endpoints"
        }
    }
}

/// `for TCP/80 use 10.0.0.1:30080 or 10.0.0.2:30080; for …`
fn directions(desired: &LoadBalancer, addresses: &BTreeSet<IpAddr>) -> String {
    let with_ports =
        desired.listeners.iter().filter_map(|listener| Some((listener.key(), listener.node_port?)));
    let parts = with_ports.map(|(key, port)| {
        let named =
            addresses.iter().take(NAMED).map(|address| SocketAddr::new(*address, port.get()).to_string());
        let more = match addresses.len().saturating_sub(NAMED) {
            0 => String::new(),
            rest => format!(" (or {rest} more nodes' addresses)"),
        };
        format!("for {key} use {}{more}", named.collect::<Vec<_>>().join(" or "))
    });
    parts.collect::<Vec<_>>().join("; ")
}
