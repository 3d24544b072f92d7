//! The cluster of the packet table: Services by number, their endpoints, and this node.
//!
//! Owns the objects. Service n has the `ClusterIP` 10.96.0.n; its rows in the table show its behaviour.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::{
    FAR_POD, FURTHER_NODE_ADDRESS, NODE, OTHER_NODE_ADDRESS, OTHER_POD, OUTSIDE, POD, POD_PORT, lb, twin, vip,
};
use crate::{
    input::{
        Endpoint, EndpointSlice, Event, Hints, Name, NodeInfo, Service, ServiceName, ServicePort, SlicePort,
        TrafficPolicy,
    },
    table::{Family, Protocol},
};

/// The Service whose load balancer is a proxy.
const PROXIED: u8 = 24;

/// The cluster of the table, as seen on [`NODE`], with default configuration.
pub fn cluster_events() -> Vec<Event> {
    let mut events = empty_cluster();
    for service in services() {
        events.extend(slices(&service).into_iter().map(Event::Slice));
        events.push(Event::Service(service));
    }
    events
}

/// The same without any Service.
pub fn empty_cluster() -> Vec<Event> {
    let nets = |all: &[&str]| all.iter().filter_map(|net| net.parse().ok()).collect();
    let node = NodeInfo {
        name: "here".into(),
        zone: Some("a".into()),
        addresses: vec![NODE.into(), twin(NODE).into()],
        node_port_addresses: vec![NODE.into(), twin(NODE).into(), FURTHER_NODE_ADDRESS.into()],
        local_addresses: vec![OTHER_NODE_ADDRESS.into()],
        pod_cidrs: nets(&["10.201.0.0/16", "fd00:0:a:c9::/64"]),
        node_pod_cidrs: nets(&["10.201.0.0/24", "fd00:0:a:c9::/112"]),
    };
    let ranges = nets(&["10.96.0.0/24", "fd00:0:a:60::/112"]);
    vec![Event::Node(node), Event::ServiceCidrs(ranges)]
}

/// The addresses that must be routed to the node: every `ClusterIP` and VIP.
pub fn virtual_addresses() -> BTreeSet<IpAddr> {
    let services = services();
    services.iter().flat_map(|s| s.cluster_ips.iter().chain(&s.load_balancer_vips).copied()).collect()
}

/// Addresses in `status.loadBalancer.ingress` with `ipMode: Proxy`, which are not in the model, with their
/// Services.
pub fn proxy_mode_addresses() -> [(ServiceName, IpAddr); 1] {
    [(name(PROXIED), OUTSIDE.into())]
}

fn services() -> Vec<Service> {
    let local = TrafficPolicy::Local;
    let both = |number| vec![vip(number).into(), twin(vip(number)).into()];
    let mut several = service(1, Some(30080), &[lb(1)]);
    several.ports.push(port("second", Protocol::Tcp, 81, None));
    several.ports.push(port("dns", Protocol::Udp, 53, Some(30053)));
    several.ports.push(port("signalling", Protocol::Sctp, 9, None));
    vec![
        Service { external_ips: vec![OUTSIDE.into()], ..several },
        service(2, Some(30082), &[lb(2)]),
        Service { internal_policy: local, ..service(3, Some(30083), &[]) },
        Service { internal_policy: local, ..service(4, None, &[]) },
        Service {
            external_policy: local,
            health_check_node_port: Some(32005),
            ..service(5, Some(30085), &[lb(5)])
        },
        Service { external_policy: local, ..service(6, Some(30086), &[]) },
        Service {
            source_ranges: "10.200.0.8/29".parse().into_iter().collect(),
            ..service(7, Some(30087), &[lb(7)])
        },
        Service { affinity: Some(10_800), ..service(8, None, &[]) },
        service(9, None, &[]),
        service(10, None, &[]),
        service(11, Some(30091), &[]),
        service(12, None, &[]),
        service(13, None, &[]),
        service(14, None, &[]),
        Service { external_policy: local, ..service(15, Some(30095), &[]) },
        Service { internal_policy: local, ..service(16, None, &[]) },
        service(17, None, &[]),
        Service { cluster_ips: both(18), ..service(18, Some(30098), &[]) },
        Service { cluster_ips: vec![twin(vip(19)).into()], ..service(19, Some(30099), &[]) },
        Service { cluster_ips: both(20), external_policy: local, ..service(20, Some(30101), &[]) },
        Service { source_ranges: "0.0.0.0/0".parse().into_iter().collect(), ..service(21, None, &[lb(21)]) },
        Service { internal_policy: local, external_policy: local, ..service(22, Some(30102), &[]) },
        Service { internal_policy: local, ..service(23, Some(30103), &[]) },
        Service { ports: vec![port("", Protocol::Tcp, 83, Some(30104))], ..service(PROXIED, None, &[]) },
        Service { internal_policy: local, external_policy: local, ..service(25, Some(30105), &[]) },
        Service { internal_policy: local, ..service(26, None, &[]) },
    ]
}

pub(super) fn service(number: u8, node_port: Option<u16>, vips: &[Ipv4Addr]) -> Service {
    Service {
        name: name(number),
        created: i64::from(number),
        cluster_ips: vec![vip(number).into()],
        external_ips: Vec::new(),
        load_balancer_vips: vips.iter().map(|vip| (*vip).into()).collect(),
        ports: vec![port("", Protocol::Tcp, 80, node_port)],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        source_ranges: Vec::new(),
        health_check_node_port: None,
    }
}

fn name(number: u8) -> ServiceName {
    ServiceName { namespace: "table".into(), name: format!("service-{number}").into() }
}

pub(super) fn port(name: &str, protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port }
}

/// One slice for each family of the Service, as the controller makes them.
fn slices(service: &Service) -> Vec<EndpointSlice> {
    let slice = |family: Family| {
        let endpoints = endpoints(service.created).into_iter().map(|endpoint| Endpoint {
            address: match (family, endpoint.address) {
                (Family::V6, IpAddr::V4(address)) => twin(address).into(),
                (_, address) => address,
            },
            ..endpoint
        });
        let ports = service.ports.iter().map(|p| SlicePort {
            name: p.name.clone(),
            protocol: p.protocol,
            port: POD_PORT,
        });
        EndpointSlice {
            service: service.name.clone(),
            name: format!("slice-{family}").into(),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        }
    };
    let families: BTreeSet<_> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
    families.into_iter().map(slice).collect()
}

fn endpoints(number: i64) -> Vec<Endpoint> {
    let (here, far) = (endpoint(POD, "here"), endpoint(FAR_POD, "there"));
    let in_zone =
        |e: Endpoint, zone: &str| Endpoint { zone_hints: [Name::from(zone)].into_iter().collect(), ..e };
    let on_node = |e: Endpoint| Endpoint { node_hints: e.node.clone().into_iter().collect(), ..e };
    let stopped = |e: Endpoint| Endpoint { ready: false, serving: false, ..e };
    let terminating = |e: Endpoint| Endpoint { ready: false, terminating: true, ..e };
    match number {
        2 | 22 => vec![],
        4 | 6 | 20 | 23 => vec![far],
        9 => vec![terminating(here), terminating(stopped(far))],
        10 => vec![stopped(here), Endpoint { ready: false, ..far }],
        11 => vec![in_zone(here, "a"), in_zone(far, "b")],
        12 => vec![on_node(here), on_node(far)],
        13 => vec![in_zone(here, "a"), far],
        14 => vec![in_zone(here, "b"), in_zone(far, "c")],
        15 | 16 => vec![terminating(here), far],
        25 => vec![here, terminating(endpoint(OTHER_POD, "here"))],
        26 => vec![terminating(far)],
        17 => [here, far].map(|e| Endpoint { serving: false, ..e }).into(),
        _ => vec![here, far],
    }
}

pub(super) fn endpoint(address: Ipv4Addr, node: &str) -> Endpoint {
    Endpoint {
        address: address.into(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        zone_hints: Hints::default(),
        node_hints: Hints::default(),
    }
}
