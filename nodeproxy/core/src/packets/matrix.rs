//! The policy matrix: 16 Services with different traffic policies and places of endpoints, dialled by every
//! client at every kind of address over both families.
//!
//! Owns the Services and the packets, as data. There is no expected outcome here: the tests compare the oracle,
//! the tracer, the ruleset and real packets with each other.

use std::net::{IpAddr, Ipv4Addr};

use super::{Case, Client, Expect, FAR_POD, NODE, POD, POD_PORT, cluster, lb, twin, vip};
use crate::{
    input::{Endpoint, EndpointSlice, Event, Service, SlicePort, TrafficPolicy},
    oracle::Packet,
    table::{Family, Protocol},
};

/// Number of the first Service.
const FIRST: u8 = 100;
/// NodePort of the first Service.
const FIRST_NODE_PORT: u16 = 30_200;

/// Places of endpoints. On the node itself is a pod with `hostNetwork`.
const PLACES: [&[(Ipv4Addr, &str)]; 4] = [
    &[(POD, "here")],
    &[(FAR_POD, "there")],
    &[(POD, "here"), (FAR_POD, "there")],
    &[(NODE, "here"), (FAR_POD, "there")],
];
const POLICIES: [TrafficPolicy; 2] = [TrafficPolicy::Cluster, TrafficPolicy::Local];
/// Where packets of the matrix come from.
pub const CLIENTS: [Client; 5] =
    [Client::Pod, Client::Endpoint, Client::Node, Client::FarPod, Client::Outside];

/// One packet of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Where the packet comes from.
    pub from: Client,
    /// Its first packet.
    pub packet: Packet,
}

/// The Services with their slices.
pub fn services() -> Vec<Event> {
    shapes()
        .flat_map(|(number, internal, external, endpoints)| service(number, internal, external, endpoints))
        .collect()
}

fn shapes() -> impl Iterator<Item = (u8, TrafficPolicy, TrafficPolicy, &'static [(Ipv4Addr, &'static str)])> {
    let policies = POLICIES.into_iter().flat_map(|internal| POLICIES.map(|external| (internal, external)));
    let shapes = policies.flat_map(|(internal, external)| PLACES.map(|places| (internal, external, places)));
    (FIRST..).zip(shapes).map(|(number, (internal, external, places))| (number, internal, external, places))
}

fn node_port(number: u8) -> u16 {
    FIRST_NODE_PORT + u16::from(number - FIRST)
}

/// Every client at every address of every Service.
pub fn cells() -> Vec<Cell> {
    let ways = |number| [(vip(number), 80), (NODE, node_port(number)), (lb(number), 80)];
    let dialled = shapes().flat_map(|(number, ..)| ways(number));
    let dialled = dialled.flat_map(|(address, port)| [false, true].map(|v6| (in_family(address, v6), port)));
    let cell = |from: Client, (address, port)| {
        let case = Case { name: "", from, to: (address, Protocol::Tcp, port), expect: Expect::NotOurs };
        Cell { from, packet: case.packet() }
    };
    dialled.flat_map(|to| CLIENTS.map(|from| cell(from, to))).collect()
}

/// The addresses that must be routed to the node.
pub fn virtual_addresses() -> Vec<IpAddr> {
    let addresses = shapes().flat_map(|(number, ..)| [vip(number), lb(number)]);
    addresses.flat_map(|address| [false, true].map(|v6| in_family(address, v6))).collect()
}

fn in_family(address: Ipv4Addr, v6: bool) -> IpAddr {
    if v6 { twin(address).into() } else { address.into() }
}

fn service(
    number: u8,
    internal: TrafficPolicy,
    external: TrafficPolicy,
    places: &[(Ipv4Addr, &str)],
) -> Vec<Event> {
    let both = |address: Ipv4Addr| vec![in_family(address, false), in_family(address, true)];
    let service = Service {
        cluster_ips: both(vip(number)),
        load_balancer_vips: both(lb(number)),
        internal_policy: internal,
        external_policy: external,
        ..cluster::service(number, Some(node_port(number)), &[])
    };
    let endpoint = |(address, node): &(Ipv4Addr, &str), v6| Endpoint {
        address: in_family(*address, v6),
        ..cluster::endpoint(*address, node)
    };
    let slice = |v6| EndpointSlice {
        service: service.name.clone(),
        name: format!("slice-{}", if v6 { Family::V6 } else { Family::V4 }).into(),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: POD_PORT }],
        endpoints: places.iter().map(|place| endpoint(place, v6)).collect(),
    };
    let slices = [false, true].map(slice).map(Event::Slice);
    slices.into_iter().chain([Event::Service(service)]).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::empty_cluster, *};
    use crate::{
        input::Config,
        model::Model,
        oracle::{self, Outcome, Source},
        trace,
        walk::{self, PacketContext},
    };

    fn mk_model() -> Model {
        let mut model = Model::new(Config::default());
        for event in empty_cluster().into_iter().chain(services()) {
            model.apply(event);
        }
        model
    }

    #[test]
    fn the_oracle_the_tracer_and_the_ruleset_agree_on_every_cell() {
        let model = mk_model();
        let cells = cells();
        assert_eq!(cells.len(), 16 * 3 * 5 * 2);
        for Cell { packet, .. } in cells {
            let said = oracle::outcome(&model, &packet);
            assert_eq!(trace::trace(&model, &packet).outcome(), said, "{packet:?}");
            assert_eq!(
                walk::walk(model.shadow().desired(), PacketContext::of(&model), &packet),
                said,
                "{packet:?}"
            );
        }
    }

    #[test]
    fn an_endpoint_on_the_nodes_network_sees_every_client_that_is_not_the_node_itself() {
        let model = mk_model();
        let mut seen = 0;
        for Cell { from, packet } in cells() {
            let Outcome::Backends(backends) = oracle::outcome(&model, &packet) else { continue };
            let of_node = backends.iter().filter(|(backend, _)| model.node_info().has(backend.address));
            for (_, source) in of_node {
                assert_eq!(*source == Source::Preserved, from != Client::Node, "{packet:?}");
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen}");
    }
}
