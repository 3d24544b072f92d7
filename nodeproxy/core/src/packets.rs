//! The packet table: one small cluster, and the outcome of connections in it, behaviour by behaviour.
//!
//! Owns the cases as data; the cluster is in `packets/cluster.rs`. The same table runs on the oracle, on the
//! interpreter of the ruleset, and with real packets on each dataplane. Network namespaces can have these
//! addresses as they are.
//!
//! Invariant: every kind of [`Outcome`] and every [`Client`] occurs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    interface::InterfaceName,
    oracle::{Outcome, Packet, Source},
    table::{Backend, Family, Frontend, Protocol},
};

pub mod affinity;
mod cluster;
pub mod interfaces;
pub mod invalid;
pub mod matrix;

pub use cluster::{cluster_events, empty_cluster, proxy_mode_addresses, virtual_addresses};

/// This node's address; NodePorts answer on it.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// Another address of this node; NodePorts do not answer on it.
pub const OTHER_NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// A further address of this node on which NodePorts answer, though the Node object does not name it.
pub const FURTHER_NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 3);
/// A host that is no part of the cluster, on the node's network.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 9);
/// A pod on this node, endpoint of most Services.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 2);
/// Another pod on this node. It is an endpoint of one Service only, and terminates there.
pub const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 3);
/// A pod on another node, endpoint of most Services.
pub const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 201, 1, 2);
/// Another pod on another node; endpoint of none.
pub const OTHER_FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 201, 1, 3);
/// An address in the range of `ClusterIP`s that no Service has. A host outside answers on it, so that the tests
/// notice a packet that was not dropped.
pub const UNALLOCATED: Ipv4Addr = vip(99);
/// Port on which the pods serve, TCP and UDP.
pub const POD_PORT: u16 = 8080;

/// The client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// [`OTHER_POD`].
    Pod,
    /// [`POD`], which is an endpoint itself.
    Endpoint,
    /// [`NODE`].
    Node,
    /// [`OTHER_FAR_POD`].
    FarPod,
    /// [`OUTSIDE`].
    Outside,
}

/// Expected outcome for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One of these pods, by its IPv4 address, and the source that it sees.
    Pods(&'static [(Ipv4Addr, Source)]),
    /// The error "connection refused".
    Refused,
    /// The client gets no answer.
    Dropped,
    /// The packet is forwarded as it came.
    NotOurs,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name of the behaviour.
    pub name: &'static str,
    /// Where the packet comes from.
    pub from: Client,
    /// Address, protocol and port that it dials.
    pub to: (IpAddr, Protocol, u16),
    /// What must become of the packet.
    pub expect: Expect,
}

/// The IPv6 address that goes with an IPv4 address of the table: each of its numbers is one of the last six
/// groups.
pub const fn twin(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    Ipv6Addr::new(0xfd00, 0, a as u16, b as u16, 0, 0, c as u16, d as u16)
}

const fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, last)
}
const fn lb(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last)
}
const fn case(name: &'static str, from: Client, to: (Ipv4Addr, u16), expect: Expect) -> Case {
    Case { name, from, to: (IpAddr::V4(to.0), Protocol::Tcp, to.1), expect }
}
/// The same over IPv6, to the twin of an address.
const fn case6(name: &'static str, from: Client, to: (Ipv4Addr, u16), expect: Expect) -> Case {
    Case { name, from, to: (IpAddr::V6(twin(to.0)), Protocol::Tcp, to.1), expect }
}
/// The same over another protocol.
const fn over(protocol: Protocol, case: Case) -> Case {
    Case { to: (case.to.0, protocol, case.to.2), ..case }
}

const BOTH: Expect = Expect::Pods(&[(POD, Source::Preserved), (FAR_POD, Source::Preserved)]);
const BOTH_MASQUERADED: Expect = Expect::Pods(&[(POD, Source::Masqueraded), (FAR_POD, Source::Masqueraded)]);
const HERE: Expect = Expect::Pods(&[(POD, Source::Preserved)]);
const HAIRPIN: Expect = Expect::Pods(&[(POD, Source::Masqueraded), (FAR_POD, Source::Preserved)]);

const FAR: Expect = Expect::Pods(&[(FAR_POD, Source::Preserved)]);
const FAR_MASQUERADED: Expect = Expect::Pods(&[(FAR_POD, Source::Masqueraded)]);
const HERE_MASQUERADED: Expect = Expect::Pods(&[(POD, Source::Masqueraded)]);
use Client::{Endpoint as AnEndpoint, FarPod, Node, Outside, Pod};

/// The rows of the table.
pub const CASES: &[Case] = &[
    case("a pod reaches a ClusterIP and is seen as itself", Pod, (vip(1), 80), BOTH),
    case("an endpoint that reaches itself is masqueraded", AnEndpoint, (vip(1), 80), HAIRPIN),
    case("the node reaches a ClusterIP, masqueraded", Node, (vip(1), 80), BOTH_MASQUERADED),
    case("an outside client of a ClusterIP is masqueraded", Outside, (vip(1), 80), BOTH_MASQUERADED),
    over(Protocol::Udp, case("UDP to a ClusterIP", Pod, (vip(1), 53), BOTH)),
    over(
        Protocol::Udp,
        case("a UDP port that the Service lacks is refused", Pod, (vip(1), 54), Expect::Refused),
    ),
    over(Protocol::Sctp, case("SCTP to a ClusterIP", Pod, (vip(1), 9), BOTH)),
    over(
        Protocol::Udp,
        case("UDP of an outside client to a ClusterIP", Outside, (vip(1), 53), BOTH_MASQUERADED),
    ),
    over(Protocol::Udp, case("UDP to a NodePort", Outside, (NODE, 30053), BOTH_MASQUERADED)),
    case("a second port of the same Service", Pod, (vip(1), 81), BOTH),
    case("a port that the Service lacks is refused", Pod, (vip(1), 82), Expect::Refused),
    case("a port that the Service lacks is refused to the node itself", Node, (vip(1), 82), Expect::Refused),
    case(
        "a port that the Service lacks is refused to clients outside",
        Outside,
        (vip(1), 82),
        Expect::Refused,
    ),
    case("an unallocated ClusterIP is dropped", Pod, (UNALLOCATED, 80), Expect::Dropped),
    case("an unallocated ClusterIP is dropped for the node itself", Node, (UNALLOCATED, 80), Expect::Dropped),
    case("an address outside all ranges is not ours", Pod, (OUTSIDE, 81), Expect::NotOurs),
    case(
        "spec.externalIPs take nobody's address unless that is allowed",
        Pod,
        (OUTSIDE, 80),
        Expect::NotOurs,
    ),
    case("a NodePort from outside is masqueraded", Outside, (NODE, 30080), BOTH_MASQUERADED),
    case("a NodePort from the node itself", Node, (NODE, 30080), BOTH_MASQUERADED),
    case("a NodePort from a pod", Pod, (NODE, 30080), BOTH_MASQUERADED),
    case("a NodePort from an endpoint of its own", AnEndpoint, (NODE, 30080), BOTH_MASQUERADED),
    case(
        "a NodePort on another of the node's addresses",
        Outside,
        (OTHER_NODE_ADDRESS, 30080),
        Expect::NotOurs,
    ),
    case(
        "a NodePort on a further address that --nodeport-addresses chose",
        Outside,
        (FURTHER_NODE_ADDRESS, 30080),
        BOTH_MASQUERADED,
    ),
    case("a NodePort on localhost is not served", Node, (Ipv4Addr::LOCALHOST, 30080), Expect::NotOurs),
    case("a load balancer's VIP from outside", Outside, (lb(1), 80), BOTH_MASQUERADED),
    case("a load balancer's VIP from a pod", Pod, (lb(1), 80), BOTH_MASQUERADED),
    case(
        "an ipMode Proxy address is left to the load balancer, from a pod",
        Pod,
        (OUTSIDE, 83),
        Expect::NotOurs,
    ),
    case(
        "an ipMode Proxy address is left to the load balancer, from the node",
        Node,
        (OUTSIDE, 83),
        Expect::NotOurs,
    ),
    case("a Service without endpoints refuses on its ClusterIP", Pod, (vip(2), 80), Expect::Refused),
    case("a Service without endpoints refuses on its NodePort", Outside, (NODE, 30082), Expect::Refused),
    case("a Service without endpoints refuses on its VIP", Outside, (lb(2), 80), Expect::Refused),
    case(
        "a Service without endpoints refuses the node itself on its VIP",
        Node,
        (lb(2), 80),
        Expect::Refused,
    ),
    case(
        "policies Local refuse on the ClusterIP, too, when no node has an endpoint",
        Pod,
        (vip(22), 80),
        Expect::Refused,
    ),
    case(
        "policies Local refuse on the NodePort, too, when no node has an endpoint",
        Outside,
        (NODE, 30102),
        Expect::Refused,
    ),
    case("internalTrafficPolicy Local stays on the node", Pod, (vip(3), 80), HERE),
    case("internalTrafficPolicy Local, from the node", Node, (vip(3), 80), HERE_MASQUERADED),
    case("internalTrafficPolicy Local, from outside", Outside, (vip(3), 80), HERE_MASQUERADED),
    case(
        "internalTrafficPolicy Local falls back to an endpoint here that terminates",
        Pod,
        (vip(16), 80),
        HERE,
    ),
    case(
        "internalTrafficPolicy Local uses no terminating endpoint while another here is ready",
        Node,
        (vip(25), 80),
        HERE_MASQUERADED,
    ),
    case(
        "externalTrafficPolicy Local uses no terminating endpoint while another here is ready",
        Outside,
        (NODE, 30105),
        HERE,
    ),
    case(
        "internalTrafficPolicy Local drops when the only endpoint terminates on another node",
        Pod,
        (vip(26), 80),
        Expect::Dropped,
    ),
    case(
        "internalTrafficPolicy Local and an endpoint that reaches itself",
        AnEndpoint,
        (vip(3), 80),
        HERE_MASQUERADED,
    ),
    case("internalTrafficPolicy Local does not concern NodePorts", Outside, (NODE, 30083), BOTH_MASQUERADED),
    case("internalTrafficPolicy Local without endpoint here drops", Pod, (vip(4), 80), Expect::Dropped),
    case(
        "internalTrafficPolicy Local without endpoint here drops for the node itself",
        Node,
        (vip(4), 80),
        Expect::Dropped,
    ),
    case(
        "internalTrafficPolicy Local without endpoint here drops, though the NodePort has one elsewhere",
        Pod,
        (vip(23), 80),
        Expect::Dropped,
    ),
    case("that NodePort leads to the endpoint elsewhere", Outside, (NODE, 30103), FAR_MASQUERADED),
    case("externalTrafficPolicy Local keeps the client and the node", Outside, (NODE, 30085), HERE),
    case("externalTrafficPolicy Local, VIP from outside", Outside, (lb(5), 80), HERE),
    case("externalTrafficPolicy Local, VIP from another node's pod", FarPod, (lb(5), 80), HERE),
    case("externalTrafficPolicy Local short-circuits pods", Pod, (lb(5), 80), BOTH),
    case("externalTrafficPolicy Local short-circuits the node", Node, (lb(5), 80), BOTH_MASQUERADED),
    case("externalTrafficPolicy Local leaves the ClusterIP alone", Pod, (vip(5), 80), BOTH),
    case("externalTrafficPolicy Local without endpoint here drops", Outside, (NODE, 30086), Expect::Dropped),
    case("externalTrafficPolicy Local without endpoint here still serves pods", Pod, (NODE, 30086), FAR),
    case(
        "externalTrafficPolicy Local and an endpoint that reaches itself",
        AnEndpoint,
        (NODE, 30085),
        HAIRPIN,
    ),
    case("externalTrafficPolicy Local serves another node's pod from here", FarPod, (NODE, 30085), HERE),
    case(
        "externalTrafficPolicy Local masquerades another node's pod when there is no endpoint here",
        FarPod,
        (NODE, 30086),
        FAR_MASQUERADED,
    ),
    case("a pod of another node reaches a ClusterIP as itself", FarPod, (vip(1), 80), BOTH),
    case(
        "externalTrafficPolicy Local falls back to an endpoint here that terminates",
        Outside,
        (NODE, 30095),
        HERE,
    ),
    case("that fallback is not for pods, which use those that are ready", Pod, (NODE, 30095), FAR),
    case("a health check node port is left to whoever answers it", Outside, (NODE, 32005), Expect::NotOurs),
    case("loadBalancerSourceRanges admit", Outside, (lb(7), 80), BOTH_MASQUERADED),
    case("loadBalancerSourceRanges keep out", Pod, (lb(7), 80), Expect::Dropped),
    case("loadBalancerSourceRanges do not concern NodePorts", Pod, (NODE, 30087), BOTH_MASQUERADED),
    case("loadBalancerSourceRanges do not concern the ClusterIP", Pod, (vip(7), 80), BOTH),
    case("loadBalancerSourceRanges keep the node itself out", Node, (lb(7), 80), Expect::Dropped),
    case("loadBalancerSourceRanges of everybody keep nobody out", Pod, (lb(21), 80), BOTH_MASQUERADED),
    case("session affinity reaches the same endpoints", Pod, (vip(8), 80), BOTH),
    case("session affinity and a client outside", Outside, (vip(8), 80), BOTH_MASQUERADED),
    case("only a terminating endpoint that still serves", Pod, (vip(9), 80), HERE),
    case("only unready endpoints refuse", Pod, (vip(10), 80), Expect::Refused),
    case("hints keep traffic in the zone", Pod, (vip(11), 80), HERE),
    case("hints count for NodePorts, too", Outside, (NODE, 30091), HERE_MASQUERADED),
    case("hints keep traffic on the node", Pod, (vip(12), 80), HERE),
    case("hints that an endpoint lacks do not count", Pod, (vip(13), 80), BOTH),
    case("hints that do not name this zone do not count", Pod, (vip(14), 80), BOTH),
    case("publishNotReadyAddresses: ready, though it does not serve", Pod, (vip(17), 80), BOTH),
    case("a dual-stack Service over IPv4", Pod, (vip(18), 80), BOTH),
    case6("a dual-stack Service over IPv6", Pod, (vip(18), 80), BOTH),
    case6("a NodePort over IPv6", Outside, (NODE, 30098), BOTH_MASQUERADED),
    case6("externalTrafficPolicy Local over IPv6", FarPod, (NODE, 30101), FAR_MASQUERADED),
    case6("an IPv4 Service has no NodePort over IPv6", Outside, (NODE, 30080), Expect::NotOurs),
    case6("an IPv6 Service", Pod, (vip(19), 80), BOTH),
    case6("an IPv6 Service, from outside", Outside, (vip(19), 80), BOTH_MASQUERADED),
    case6("an IPv6 Service, from the node itself", Node, (vip(19), 80), BOTH_MASQUERADED),
    case6("an endpoint that reaches itself over IPv6", AnEndpoint, (vip(19), 80), HAIRPIN),
    case6("externalTrafficPolicy Local short-circuits pods over IPv6", Pod, (NODE, 30101), FAR),
    case("an IPv6 Service has no NodePort over IPv4", Outside, (NODE, 30099), Expect::NotOurs),
    case6("a port that the Service lacks is refused over IPv6", Pod, (vip(18), 82), Expect::Refused),
    case6("an unallocated ClusterIP is dropped over IPv6", Pod, (UNALLOCATED, 80), Expect::Dropped),
];

impl Client {
    /// Its IPv4 address.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Pod => OTHER_POD,
            Self::Endpoint => POD,
            Self::Node => NODE,
            Self::FarPod => OTHER_FAR_POD,
            Self::Outside => OUTSIDE,
        }
    }

    /// The interface of this node on which its packets arrive.
    pub fn interface(self) -> Option<InterfaceName> {
        let name = match self {
            Self::Endpoint => "p0",
            Self::Pod => "p1",
            Self::FarPod => "far3",
            Self::Outside => "c0",
            Self::Node => return None,
        };
        name.parse().ok()
    }
}

impl Case {
    /// The first packet of the connection.
    pub fn packet(&self) -> Packet {
        let (address, protocol, port) = self.to;
        // To itself a host speaks as what it dials.
        let source = if address.is_loopback() { address } else { self.in_family(self.from.address()) };
        Packet {
            source,
            from_node: self.from == Client::Node,
            interface: self.from.interface(),
            to: Frontend { address, protocol, port },
        }
    }

    /// An address in the family of the connection.
    pub fn in_family(&self, address: Ipv4Addr) -> IpAddr {
        match Family::of(self.to.0) {
            Family::V4 => address.into(),
            Family::V6 => twin(address).into(),
        }
    }

    /// The expectation as an outcome of the oracle.
    pub fn outcome(&self) -> Outcome {
        match self.expect {
            Expect::Pods(pods) => {
                let backend = |pod: Ipv4Addr| Backend { address: self.in_family(pod), port: POD_PORT };
                Outcome::Backends(pods.iter().map(|(pod, source)| (backend(*pod), *source)).collect())
            }
            Expect::Refused => Outcome::Refused,
            Expect::Dropped => Outcome::Dropped,
            Expect::NotOurs => Outcome::NotOurs,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{input::Config, model::Model, oracle, trace, walk};

    fn mk_model() -> Model {
        let mut model = Model::new(Config::default());
        for event in cluster_events() {
            model.apply(event);
        }
        model
    }

    /// Rows whose outcome is not the expected one, with both.
    fn wrong(outcome: impl Fn(&Model, &Packet) -> Outcome) -> BTreeMap<&'static str, [Outcome; 2]> {
        let model = mk_model();
        let outcomes =
            CASES.iter().map(|case| (case.name, [outcome(&model, &case.packet()), case.outcome()]));
        outcomes.filter(|(_, [got, expected])| got != expected).collect()
    }

    #[test]
    fn the_oracle_says_what_the_table_says() {
        let wrong = wrong(oracle::outcome);
        assert!(wrong.is_empty(), "(case, [got, expected]): {wrong:#?}");
    }

    #[test]
    fn the_tracer_says_what_the_table_says() {
        let wrong = wrong(|model, packet| trace::trace(model, packet).outcome());
        assert!(wrong.is_empty(), "(case, [got, expected]): {wrong:#?}");
    }

    #[test]
    fn the_ruleset_does_what_the_table_says() {
        let wrong = wrong(|model, packet| {
            walk::walk(model.shadow().desired(), walk::PacketContext::of(model), packet)
        });
        assert!(wrong.is_empty(), "(case, [got, expected]): {wrong:#?}");
    }

    #[test]
    fn a_health_check_node_port_counts_the_endpoints_here() {
        let model = mk_model();
        let checks: Vec<_> = model.health_checks().values().map(|c| (c.port, c.v4, c.v6)).collect();
        assert_eq!(checks, [(32005, Some(1), None)]);
    }

    #[test]
    fn the_table_has_every_client_and_every_kind_of_outcome() {
        let clients: BTreeSet<_> = CASES.iter().map(|case| case.from).collect();
        assert_eq!(clients.len(), 5);
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
