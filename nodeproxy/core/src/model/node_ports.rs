//! NodePorts on many addresses of the node: elements by ports and by addresses, not by both at once.

use super::*;
use crate::{
    input::{Endpoint, Hints, ServicePort, SlicePort, TrafficPolicy},
    oracle::{self, Outcome, Packet},
    table::Protocol,
    walk::{self, PacketContext},
};

const PORTS: u16 = 200;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mk_name(number: u16) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: format!("s{number}").into() }
}

fn mk_service(number: u16, external_policy: TrafficPolicy, affinity: Option<u32>) -> Event {
    Event::Service(Service {
        name: mk_name(number),
        created: 1,
        cluster_ips: vec![IpAddr::from([10, 96, 1, u8::try_from(number).expect("small")])],
        external_ips: Vec::new(),
        load_balancer_vips: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: if number.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
            port: 80,
            node_port: Some(30_000 + number),
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy,
        affinity,
        source_ranges: Vec::new(),
        health_check_node_port: None,
    })
}

fn mk_slice(number: u16, nodes: &[&str]) -> Event {
    let endpoint = |(last, node): (usize, &&str)| Endpoint {
        address: ip(&format!("10.1.0.{}", last + 1)),
        ready: true,
        serving: true,
        terminating: false,
        node: Some((*node).into()),
        zone_hints: Hints::default(),
        node_hints: Hints::default(),
    };
    let protocol = if number.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
    Event::Slice(EndpointSlice {
        service: mk_name(number),
        name: "x".into(),
        ports: vec![SlicePort { name: "".into(), protocol, port: 8080 }],
        endpoints: nodes.iter().enumerate().map(endpoint).collect(),
    })
}

fn mk_node(addresses: u8) -> Event {
    Event::Node(NodeInfo {
        name: "here".into(),
        addresses: vec![ip("192.0.2.1")],
        node_port_addresses: (0..=addresses)
            .map(|last| IpAddr::from([192, 0, 2, last]))
            .chain([ip("127.0.0.1")])
            .collect(),
        ..NodeInfo::default()
    })
}

fn mk_model(addresses: u8) -> Model {
    mk_model_with(addresses, &["here", "there"])
}

/// Every Service has an endpoint on each of these nodes.
fn mk_model_with(addresses: u8, nodes: &[&str]) -> Model {
    let mut model = Model::new(Config::default());
    model.apply(mk_node(addresses));
    for number in 0..PORTS {
        model.apply(mk_service(number, TrafficPolicy::Cluster, None));
        model.apply(mk_slice(number, nodes));
    }
    model
}

#[test]
fn an_address_costs_one_element_and_a_port_costs_what_it_costs_on_one() {
    let elements = |addresses| mk_model(addresses).shadow().desired().elements.len();
    assert_eq!(elements(52) - elements(2), 50);
    assert_eq!(elements(2) - elements(1), 1, "the second address is the first that another stands in for");
}

#[test]
fn without_endpoints_an_address_costs_one_element_and_a_port_one_more_than_on_one() {
    let elements = |addresses| mk_model_with(addresses, &[]).shadow().desired().elements.len();
    assert_eq!(elements(52) - elements(2), 50);
    assert_eq!(elements(2) - elements(1), 1);
    let counts = |addresses, map| {
        let model = mk_model_with(addresses, &[]);
        model.shadow().desired().elements.keys().filter(|key| key.map() == map).count()
    };
    assert_eq!(counts(52, "no-endpoints-node-ports"), usize::from(PORTS));
    assert_eq!(counts(52, "no-endpoints"), counts(1, "no-endpoints"), "one address stands in for the others");
}

#[test]
fn ports_that_gain_and_lose_endpoints_end_as_ports_that_always_had_them() {
    let mut model = mk_model_with(3, &[]);
    for nodes in [&["here", "there"][..], &[], &["there"]] {
        for number in 0..PORTS {
            model.apply(mk_slice(number, nodes));
        }
        assert_eq!(model.shadow().desired(), mk_model_with(3, nodes).shadow().desired());
    }
}

#[test]
fn whichever_address_a_client_dials_it_gets_the_same() {
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        for affinity in [None, Some(10)] {
            for nodes in [&[][..], &["here", "there"], &["there"], &["here"]] {
                let mut model = Model::new(Config::default());
                for event in [mk_node(3), mk_service(0, policy, affinity), mk_slice(0, nodes)] {
                    model.apply(event);
                }
                let outcomes = |last: u8| {
                    let to = Frontend {
                        address: IpAddr::from([192, 0, 2, last]),
                        protocol: Protocol::Tcp,
                        port: 30_000,
                    };
                    let packet = Packet { source: ip("198.51.100.1"), from_node: false, interface: None, to };
                    let (said, does) = (
                        oracle::outcome(&model, &packet),
                        walk::walk(model.shadow().desired(), PacketContext::of(&model), &packet),
                    );
                    assert_eq!(said, does, "{policy} {affinity:?} {nodes:?} at {last}");
                    said
                };
                let first = outcomes(1);
                assert!((0..4).all(|last| outcomes(last) == first));
                let expected = match (nodes, policy) {
                    ([], _) => Outcome::Refused,
                    (["there"], TrafficPolicy::Local) => Outcome::Dropped,
                    _ => continue,
                };
                assert_eq!(first, expected);
            }
        }
    }
}

#[test]
fn flows_of_every_address_are_listed() {
    let expected: BTreeSet<_> = (0..4).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    for change in [mk_slice(1, &["here", "there", "there"]), mk_slice(1, &[]), Event::ServiceGone(mk_name(1))]
    {
        let mut model = mk_model(3);
        let cold = model.shadow().additive();
        model.shadow_mut().applied(&cold, 0);
        model.apply(change);
        let transaction = model.shadow().additive();
        let touched = crate::flows::touched(&model, &transaction);
        let addresses: BTreeSet<_> = touched.iter().filter(|f| f.port == 30_001).map(|f| f.address).collect();
        assert!(addresses.is_superset(&expected), "{addresses:?}");
    }
}

#[test]
fn a_node_that_gets_and_loses_addresses_ends_as_one_that_had_them() {
    let mut model = mk_model(1);
    for addresses in [5, 0, 3] {
        model.apply(mk_node(addresses));
        assert_eq!(model.shadow().desired(), mk_model(addresses).shadow().desired());
    }
}
