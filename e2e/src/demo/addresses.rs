//! Every address of a Service, and the clients that should reach it. Pure. An address that Kubernetes' semantics leave out has
//! a reason, so that nothing is skipped in silence.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::{
    cluster::vantage::Protocol,
    fabric::{Host, OUTSIDE},
};

/// From where an address is to answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// The client pod.
    Pod,
    /// A node, by name.
    Node(String),
    /// The host outside the cluster.
    Outside,
}

/// Which kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The Service's own address.
    ClusterIp,
    /// A port of every node.
    NodePort,
    /// An address of the load balancer.
    LoadBalancer,
}

/// An address, and who is to be answered there.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    /// Which kind it is.
    pub kind: Kind,
    /// Address and port.
    pub address: SocketAddr,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Client that should get an answer.
    pub from: Vec<From>,
}

/// Number and nodes of a Service's ready endpoints.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Number of ready endpoints.
    pub count: usize,
    /// The nodes that hold some.
    pub nodes: BTreeSet<String>,
}

/// The addresses to send requests to, and those that are skipped, with reasons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frontends {
    /// Addresses to send requests to.
    pub ask: Vec<Frontend>,
    /// Reasons for skipped addresses.
    pub skipped: Vec<String>,
}

/// The cluster as far as it matters who reaches what.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// Nodes of the cluster.
    pub nodes: &'a [Host],
    /// The node of the pod that asks.
    pub client_node: &'a str,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        })
    }
}

/// All addresses of `service`.
pub fn frontends(service: &Service, endpoints: &Endpoints, around: &Surroundings<'_>) -> Frontends {
    let mut all = Frontends::default();
    let Some(spec) = &service.spec else { return all };
    if spec.type_.as_deref() == Some("ExternalName") {
        all.skipped.push("ExternalName: a DNS alias, there is nothing to reach".to_owned());
        return all;
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        all.skipped.push("headless: clients reach the pods themselves".to_owned());
        return all;
    }
    if endpoints.count == 0 {
        all.skipped.push("no ready endpoint: every address refuses".to_owned());
        return all;
    }
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        all.skipped.push("externalIPs are not served by default".to_owned());
    }
    for port in spec.ports.iter().flatten() {
        match protocol(port) {
            Some(protocol) => add_port(&mut all, service, port, protocol, endpoints, around),
            None => all.skipped.push(format!("port {}: protocol SCTP is not served", port.port)),
        }
    }
    all
}

fn protocol(port: &ServicePort) -> Option<Protocol> {
    match port.protocol.as_deref() {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn add_port(
    all: &mut Frontends,
    service: &Service,
    port: &ServicePort,
    protocol: Protocol,
    endpoints: &Endpoints,
    around: &Surroundings<'_>,
) {
    let Some(spec) = &service.spec else { return };
    let number = |n: i32| u16::try_from(n).ok();
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let holds = |node: &str| endpoints.nodes.contains(node);
    let asked = &mut all.ask;
    let mut push = |kind, ip: IpAddr, port: i32, from: Vec<From>| {
        if let Some(port) = number(port).filter(|_| !from.is_empty()) {
            asked.push(Frontend { kind, address: SocketAddr::new(ip, port), protocol, from });
        }
    };
    let inside = |local: bool| {
        let pod = (!local || holds(around.client_node)).then_some(From::Pod);
        let node = around.nodes.iter().find(|node| !local || holds(&node.name));
        pod.into_iter().chain(node.map(|node| From::Node(node.name.clone()))).collect::<Vec<_>>()
    };
    for ip in spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()) {
        push(Kind::ClusterIp, ip, port.port, inside(internal_local));
    }
    if let Some(node_port) = port.node_port {
        for node in around.nodes.iter().filter(|node| !external_local || holds(&node.name)) {
            // Proxies let a pod take a short cut to any endpoint, whatever the external policy says. Of a pod on another
            // node, which this network does not masquerade, an endpoint on a third place would answer past this node.
            let pod = (!external_local || node.name == around.client_node).then_some(From::Pod);
            let from = pod.into_iter().chain([From::Node(node.name.clone()), From::Outside]).collect();
            push(Kind::NodePort, node.address.into(), node_port, from);
        }
    }
    if external_local && port.node_port.is_some() {
        let why = "with externalTrafficPolicy Local a pod is not sure of an answer from another node's port";
        all.skipped.push(format!("port {}: {why} (kube-proxy: the same)", port.port));
    }
    for ip in ingress(service) {
        let mut from = inside(false);
        if admits_outside(service) {
            from.push(From::Outside);
        } else {
            from.clear(); // whether pods and nodes are in the ranges is not for this list to know
        }
        push(Kind::LoadBalancer, ip, port.port, from);
    }
    if !admits_outside(service) {
        all.skipped.push("loadBalancerSourceRanges leave the outside host out".to_owned());
    }
}

/// The addresses in `status.loadBalancer`.
pub fn ingress(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect()
}

fn admits_outside(service: &Service) -> bool {
    let ranges = service.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.as_deref());
    let outside = IpAddr::from(OUTSIDE);
    ranges.is_none_or(|all| {
        all.is_empty()
            || all.iter().any(|range| range.trim().parse::<IpNet>().is_ok_and(|net| net.contains(&outside)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_service(spec: &Value, status: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec, "status": status}))
            .expect("a Service")
    }

    fn mk_frontends(service: &Service, on: &[&str]) -> Frontends {
        let nodes = [Host::node(1), Host::node(2)];
        let endpoints =
            Endpoints { count: on.len(), nodes: on.iter().map(|&node| node.to_owned()).collect() };
        frontends(service, &endpoints, &Surroundings { nodes: &nodes, client_node: "node-1" })
    }

    #[test]
    fn a_load_balancer_service_has_addresses_of_all_three_kinds() {
        let service = mk_service(
            &json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80, "nodePort": 30080}]}),
            &json!({"loadBalancer": {"ingress": [{"ip": "172.30.10.1"}]}}),
        );
        let all = mk_frontends(&service, &["node-2"]);
        let addresses: Vec<_> = all.ask.iter().map(|f| format!("{} {}", f.kind, f.address)).collect();
        assert_eq!(
            addresses,
            [
                "ClusterIP 10.96.0.7:80",
                "NodePort 172.30.1.1:30080",
                "NodePort 172.30.1.2:30080",
                "LoadBalancer 172.30.10.1:80"
            ]
        );
        assert!(all.skipped.is_empty());
    }

    #[test]
    fn with_a_local_policy_only_nodes_with_endpoints_are_asked() {
        let service = mk_service(
            &json!({"type": "NodePort", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
                   "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80, "nodePort": 30080}]}),
            &json!({}),
        );
        let all = mk_frontends(&service, &["node-2"]);
        let node_ports: Vec<_> =
            all.ask.iter().filter(|f| f.kind == Kind::NodePort).map(|f| f.address.ip()).collect();
        assert_eq!(node_ports, [IpAddr::from(Host::node(2).address)]);
        assert_eq!(all.ask[0].from, [From::Node("node-2".to_owned())]);
    }

    #[test]
    fn what_is_left_out_is_said_with_its_reason() {
        let headless = mk_service(&json!({"clusterIP": "None"}), &json!({}));
        assert!(mk_frontends(&headless, &["node-1"]).skipped[0].contains("headless"));
        let web = mk_service(&json!({"clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]}), &json!({}));
        assert!(mk_frontends(&web, &[]).skipped[0].contains("no ready endpoint"));
    }
}
