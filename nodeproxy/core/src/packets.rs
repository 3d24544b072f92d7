//! The packet table: one small cluster and what becomes of connections in it, behaviour by behaviour.
//!
//! Owns the cases as data, so that the same table runs on the oracle, on the interpreter of the ruleset, and with real
//! packets on each dataplane. The addresses are meant to be given to network namespaces as they are.
//!
//! Invariant: every kind of [`Outcome`] and every [`Client`] occurs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    input::{
        Endpoint, EndpointSlice, Event, Name, NodeFacts, Service, ServiceName, ServicePort, SlicePort,
        TrafficPolicy,
    },
    oracle::{Outcome, Packet, Source},
    table::{Backend, Frontend, Protocol},
};

/// This node's address; NodePorts answer on it.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// A host that is no part of the cluster, on the node's network.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 9);
/// A pod on this node, endpoint of most Services.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 2);
/// Another pod on this node; endpoint of none.
pub const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 3);
/// A pod on another node, endpoint of most Services.
pub const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 201, 1, 2);
/// Port on which the pods serve, TCP and UDP.
pub const POD_PORT: u16 = 8080;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// [`OTHER_POD`].
    Pod,
    /// [`POD`], which is an endpoint itself.
    Endpoint,
    /// [`NODE`].
    Node,
    /// [`OUTSIDE`].
    Outside,
}

/// What the client should get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One of these pods, and whom it sees.
    Pods(&'static [(Ipv4Addr, Source)]),
    /// "Connection refused".
    Refused,
    /// Nothing.
    Dropped,
    /// The packet goes on as if we were not there.
    NotOurs,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The behaviour.
    pub name: &'static str,
    /// Who connects.
    pub from: Client,
    /// Address, protocol and port that it dials.
    pub to: (Ipv4Addr, Protocol, u16),
    /// What it should get.
    pub expect: Expect,
}

const fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, last)
}
const fn lb(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last)
}
const fn case(name: &'static str, from: Client, to: (Ipv4Addr, u16), expect: Expect) -> Case {
    Case { name, from, to: (to.0, Protocol::Tcp, to.1), expect }
}

const BOTH: Expect = Expect::Pods(&[(POD, Source::Preserved), (FAR_POD, Source::Preserved)]);
const BOTH_MASQUERADED: Expect = Expect::Pods(&[(POD, Source::Masqueraded), (FAR_POD, Source::Masqueraded)]);
const HERE: Expect = Expect::Pods(&[(POD, Source::Preserved)]);
const HAIRPIN: Expect = Expect::Pods(&[(POD, Source::Masqueraded), (FAR_POD, Source::Preserved)]);

use Client::{Endpoint as AnEndpoint, Node, Outside, Pod};

/// The table.
pub const CASES: &[Case] = &[
    case("a pod reaches a ClusterIP and is seen as itself", Pod, (vip(1), 80), BOTH),
    case("an endpoint that reaches itself is masqueraded", AnEndpoint, (vip(1), 80), HAIRPIN),
    case("the node reaches a ClusterIP, masqueraded", Node, (vip(1), 80), BOTH_MASQUERADED),
    case("an outside client of a ClusterIP is masqueraded", Outside, (vip(1), 80), BOTH_MASQUERADED),
    Case { name: "UDP to a ClusterIP", from: Pod, to: (vip(1), Protocol::Udp, 53), expect: BOTH },
    case("a second port of the same Service", Pod, (vip(1), 81), BOTH),
    case("a port that the Service lacks is refused", Pod, (vip(1), 82), Expect::Refused),
    case("an unallocated ClusterIP is dropped", Pod, (vip(99), 80), Expect::Dropped),
    case("an address outside all ranges is not ours", Pod, (OUTSIDE, 80), Expect::NotOurs),
    case("a NodePort from outside is masqueraded", Outside, (NODE, 30080), BOTH_MASQUERADED),
    case("a NodePort from the node itself", Node, (NODE, 30080), BOTH_MASQUERADED),
    case("a NodePort from a pod", Pod, (NODE, 30080), BOTH_MASQUERADED),
    case("a load balancer's VIP from outside", Outside, (lb(1), 80), BOTH_MASQUERADED),
    case("a Service without endpoints refuses on its ClusterIP", Pod, (vip(2), 80), Expect::Refused),
    case("a Service without endpoints refuses on its NodePort", Outside, (NODE, 30082), Expect::Refused),
    case("internalTrafficPolicy Local stays on the node", Pod, (vip(3), 80), HERE),
    case("internalTrafficPolicy Local without endpoint here drops", Pod, (vip(4), 80), Expect::Dropped),
    case("externalTrafficPolicy Local keeps the client and the node", Outside, (NODE, 30085), HERE),
    case("externalTrafficPolicy Local, VIP from outside", Outside, (lb(5), 80), HERE),
    case("externalTrafficPolicy Local short-circuits pods", Pod, (lb(5), 80), BOTH),
    case("externalTrafficPolicy Local short-circuits the node", Node, (lb(5), 80), BOTH_MASQUERADED),
    case("externalTrafficPolicy Local leaves the ClusterIP alone", Pod, (vip(5), 80), BOTH),
    case("externalTrafficPolicy Local without endpoint here drops", Outside, (NODE, 30086), Expect::Dropped),
    case(
        "externalTrafficPolicy Local without endpoint here still serves pods",
        Pod,
        (NODE, 30086),
        Expect::Pods(&[(FAR_POD, Source::Preserved)]),
    ),
    case("loadBalancerSourceRanges admit", Outside, (lb(7), 80), BOTH_MASQUERADED),
    case("loadBalancerSourceRanges keep out", Pod, (lb(7), 80), Expect::Dropped),
    case("loadBalancerSourceRanges do not concern NodePorts", Pod, (NODE, 30087), BOTH_MASQUERADED),
    case("session affinity reaches the same endpoints", Pod, (vip(8), 80), BOTH),
    case("only a terminating endpoint that still serves", Pod, (vip(9), 80), HERE),
    case("only unready endpoints refuse", Pod, (vip(10), 80), Expect::Refused),
    case("hints keep traffic in the zone", Pod, (vip(11), 80), HERE),
];

impl Client {
    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Pod => OTHER_POD,
            Self::Endpoint => POD,
            Self::Node => NODE,
            Self::Outside => OUTSIDE,
        }
    }
}

impl Case {
    /// The first packet of the connection.
    pub fn packet(&self) -> Packet {
        let (address, protocol, port) = self.to;
        Packet {
            source: self.from.address().into(),
            from_node: self.from == Client::Node,
            to: Frontend { address: address.into(), protocol, port },
        }
    }

    /// The expectation in the oracle's words.
    pub fn outcome(&self) -> Outcome {
        match self.expect {
            Expect::Pods(pods) => {
                let backend = |pod: Ipv4Addr| Backend { address: pod.into(), port: POD_PORT };
                Outcome::Backends(pods.iter().map(|(pod, source)| (backend(*pod), *source)).collect())
            }
            Expect::Refused => Outcome::Refused,
            Expect::Dropped => Outcome::Dropped,
            Expect::NotOurs => Outcome::NotOurs,
        }
    }
}

/// The cluster of the table, as seen on [`NODE`], with default configuration.
pub fn world() -> Vec<Event> {
    let node = NodeFacts {
        name: "here".into(),
        zone: Some("a".into()),
        addresses: vec![NODE.into()],
        node_port_addresses: vec![NODE.into()],
        pod_cidrs: "10.201.0.0/16".parse().into_iter().collect(),
    };
    let ranges = "10.96.0.0/24".parse().into_iter().collect();
    let mut events = vec![Event::Node(node), Event::ServiceCidrs(ranges)];
    for service in services() {
        events.push(Event::Slice(slice(&service)));
        events.push(Event::Service(service));
    }
    events
}

/// The addresses that must be routed to the node: every `ClusterIP` and VIP.
pub fn virtual_addresses() -> BTreeSet<IpAddr> {
    let services = services();
    services.iter().flat_map(|s| s.cluster_ips.iter().chain(&s.load_balancer_vips).copied()).collect()
}

fn services() -> Vec<Service> {
    let local = TrafficPolicy::Local;
    let mut two_ports = service(1, Some(30080), &[lb(1)]);
    two_ports.ports.push(port("second", Protocol::Tcp, 81, None));
    two_ports.ports.push(port("dns", Protocol::Udp, 53, None));
    vec![
        two_ports,
        service(2, Some(30082), &[]),
        Service { internal_policy: local, ..service(3, None, &[]) },
        Service { internal_policy: local, ..service(4, None, &[]) },
        Service { external_policy: local, ..service(5, Some(30085), &[lb(5)]) },
        Service { external_policy: local, ..service(6, Some(30086), &[]) },
        Service {
            source_ranges: "10.200.0.8/29".parse().into_iter().collect(),
            ..service(7, Some(30087), &[lb(7)])
        },
        Service { affinity: Some(10_800), ..service(8, None, &[]) },
        service(9, None, &[]),
        service(10, None, &[]),
        service(11, None, &[]),
    ]
}

fn service(number: u8, node_port: Option<u16>, vips: &[Ipv4Addr]) -> Service {
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

fn port(name: &str, protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port }
}

fn slice(service: &Service) -> EndpointSlice {
    let (here, far) = (endpoint(POD, "here"), endpoint(FAR_POD, "there"));
    let stopped = Endpoint { ready: false, serving: false, ..here.clone() };
    let endpoints = match service.created {
        2 => vec![],
        4 | 6 => vec![far],
        9 => vec![
            Endpoint { ready: false, terminating: true, ..here },
            Endpoint { ready: false, serving: false, terminating: true, ..far },
        ],
        10 => vec![stopped],
        11 => [here, far]
            .into_iter()
            .map(|e| {
                let zone: Name = if e.address == IpAddr::V4(POD) { "a".into() } else { "b".into() };
                Endpoint { zone_hints: Box::new([zone]), ..e }
            })
            .collect(),
        _ => vec![here, far],
    };
    let ports = service.ports.iter().map(|p| SlicePort {
        name: p.name.clone(),
        protocol: p.protocol,
        port: POD_PORT,
    });
    EndpointSlice { service: service.name.clone(), name: "slice".into(), ports: ports.collect(), endpoints }
}

fn endpoint(address: Ipv4Addr, node: &str) -> Endpoint {
    Endpoint {
        address: address.into(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{input::Config, model::Model, oracle, trace, walk};

    fn mk_model() -> Model {
        let mut model = Model::new(Config::default());
        for event in world() {
            model.apply(event);
        }
        model
    }

    #[test]
    fn the_oracle_says_what_the_table_says() {
        let model = mk_model();
        for case in CASES {
            assert_eq!(oracle::outcome(&model, &case.packet()), case.outcome(), "{}", case.name);
        }
    }

    #[test]
    fn the_tracer_says_what_the_table_says() {
        let model = mk_model();
        for case in CASES {
            assert_eq!(trace::trace(&model, &case.packet()).outcome(), case.outcome(), "{}", case.name);
        }
    }

    #[test]
    fn the_ruleset_does_what_the_table_says() {
        let model = mk_model();
        for case in CASES {
            let walked = walk::walk(model.ledger().desired(), false, &case.packet());
            assert_eq!(walked, case.outcome(), "{}", case.name);
        }
    }

    #[test]
    fn the_table_has_every_client_and_every_kind_of_outcome() {
        let clients: BTreeSet<_> = CASES.iter().map(|case| case.from).collect();
        assert_eq!(clients.len(), 4);
        let kinds: BTreeSet<_> = CASES
            .iter()
            .map(|case| match case.expect {
                Expect::Pods(_) => 0,
                Expect::Refused => 1,
                Expect::Dropped => 2,
                Expect::NotOurs => 3,
            })
            .collect();
        assert_eq!(kinds.len(), 4);
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
    }
}
