//! From the desired load balancer to the API's spec, field by field.
//!
//! Owns: the translation and what cannot be translated. Leaves to others: addresses that change (`plan`).
//! Invariant: pure; destructures the model in full, so that a new field cannot be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portico_provider::{
    Backends, Field, IpFamily, Listener, ListenerKey, LoadBalancer, NodeTarget, Protocol, ProxyProtocol,
    Scheme, TargetKind, Targets,
};

use crate::api::{self, Spec, View};
use crate::capabilities::PROVISIONING_DELAY;

/// Obstacles: field and message.
pub(crate) type Obstacles = Vec<(Field, String)>;

/// The spec, or everything that stands against it. `retain` is left empty.
pub(crate) fn translate(desired: &LoadBalancer) -> Result<Spec, Obstacles> {
    let LoadBalancer {
        owner: _,
        listeners,
        targets,
        health_check,
        source_ranges,
        session_affinity,
        external_traffic_policy: _, // its health check says it all
        proxy_protocol,
        ip_families,
        requested_addresses,
        scheme,
        replacement: _,
        group,
        options,
        published: _,
    } = desired;
    let mut reader = options.reader();
    let provisioning_delay = reader.duration(PROVISIONING_DELAY);
    let mut obstacles: Obstacles =
        reader.finish().into_iter().map(|error| (Field::Options, error.to_string())).collect();
    obstacles.extend(wrong_listeners(listeners, targets, *proxy_protocol));
    obstacles.extend(wrong_addresses(desired));
    obstacles.extend(group.as_ref().map(|group| {
        let message = format!("portico-lb gives each Service an address of its own, and {group} cannot share one: remove annotation portico.dev/group");
        (Field::Group, message)
    }));
    if *scheme == Scheme::Internal {
        obstacles
            .push((Field::Scheme, "portico-lb has one network only: remove the internal scheme".to_owned()));
    }
    if let Some(check) = health_check.as_ref().filter(|check| !check.is_sane()) {
        obstacles
            .push((Field::HealthCheck, format!("{check}: nothing may be zero, and a path begins with /")));
    }
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    let families = ip_families.as_slice();
    Ok(Spec {
        listeners: listeners
            .iter()
            .map(|listener| (listener.key(), sockets(listener, targets, families)))
            .collect::<BTreeMap<_, _>>(),
        target_kind: Some(targets.kind()),
        health_check: health_check.clone(),
        source_ranges: source_ranges.clone(),
        session_affinity: *session_affinity,
        proxy_protocol: *proxy_protocol,
        ip_families: ip_families.iter().copied().collect(),
        requested: requested_addresses.clone(),
        retain: BTreeSet::new(),
        provisioning_delay,
    })
}

/// The wanted targets of each existing listener; empty if the Service no longer has it.
pub(crate) fn behind(backends: &Backends, view: &View) -> api::Targets {
    let targets = backends.of_kind(kind(backends, view));
    let behind = |key: &ListenerKey| {
        let listener = backends.listener(*key);
        listener.map(|listener| sockets(listener, &targets, &backends.ip_families)).unwrap_or_default()
    };
    view.spec.listeners.keys().map(|key| (*key, behind(key))).collect()
}

/// The kind of its targets; if it was never recorded, pods, unless one of them is a node.
fn kind(backends: &Backends, view: &View) -> TargetKind {
    let mut sockets = view.spec.listeners.values().flatten();
    let is_node =
        |socket: &SocketAddr| backends.nodes.iter().any(|node| node.addresses.contains(&socket.ip()));
    let found = || if sockets.any(is_node) { TargetKind::Node } else { TargetKind::Pod };
    view.spec.target_kind.unwrap_or_else(found)
}

fn wrong_listeners(
    listeners: &BTreeSet<Listener>,
    targets: &Targets,
    proxy_protocol: ProxyProtocol,
) -> Obstacles {
    let mut wrong = Obstacles::new();
    if listeners.is_empty() {
        wrong.push((Field::Listeners, "there must be at least one port".to_owned()));
    }
    for listener in listeners {
        let key = listener.key();
        if listener.protocol == Protocol::Sctp {
            wrong.push((Field::Listeners, format!("{key} cannot be served: portico-lb takes TCP and UDP")));
        }
        if listener.node_port.is_none() && matches!(targets, Targets::Nodes(_)) {
            let message =
                format!("{key} has no node port to send to: set allocateLoadBalancerNodePorts to true");
            wrong.push((Field::Listeners, message));
        }
        if listener.protocol == Protocol::Udp && proxy_protocol == ProxyProtocol::V2 {
            wrong.push((Field::ProxyProtocol, format!("{key} cannot have PROXY headers, which are for TCP")));
        }
    }
    wrong
}

fn wrong_addresses(desired: &LoadBalancer) -> Obstacles {
    let LoadBalancer { ip_families, requested_addresses, .. } = desired;
    let mut wrong = Obstacles::new();
    if ip_families.is_empty() {
        wrong.push((Field::IpFamilies, "there must be at least one family".to_owned()));
    }
    for family in [IpFamily::IPv4, IpFamily::IPv6] {
        let asked = requested_addresses.iter().filter(|address| IpFamily::of(**address) == family).count();
        if asked > 1 || (asked == 1 && !ip_families.contains(&family)) {
            let message =
                format!("at most one {family} address can be requested, and only if ipFamilies has {family}");
            wrong.push((Field::RequestedAddresses, message));
        }
    }
    wrong
}

/// The targets of a listener: one address of each, of the Service's primary family if it has one.
fn sockets(listener: &Listener, targets: &Targets, families: &[IpFamily]) -> BTreeSet<SocketAddr> {
    match targets {
        Targets::Nodes(nodes) => {
            let port = listener.node_port;
            let socket = |node: &NodeTarget| {
                let of = |family: &IpFamily| {
                    node.addresses.iter().find(|address| IpFamily::of(**address) == *family)
                };
                let address = families.iter().find_map(of).or_else(|| node.addresses.first())?;
                Some(SocketAddr::new(*address, port?.get()))
            };
            nodes.iter().filter_map(socket).collect()
        }
        Targets::Pods(pods) => {
            let ports = pods.iter().filter_map(|pod| Some((pod.address, pod.ports.get(&listener.key())?)));
            ports.map(|(address, port)| SocketAddr::new(address, port.get())).collect()
        }
    }
}
