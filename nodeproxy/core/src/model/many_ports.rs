//! A Service of many ports, and of many slices that change together.

use super::*;
use crate::{
    input::{Endpoint, Hints, ServicePort, SlicePort, TrafficPolicy},
    plan::State,
    table::Protocol,
};

/// Far more ports than the API server allows in one EndpointSlice.
const PORTS: u16 = 4_000;

fn mk_name() -> ServiceName {
    ServiceName { namespace: "ns".into(), name: "many".into() }
}

fn mk_service(ports: u16, protocol: Protocol) -> Event {
    let port = |number: u16| ServicePort {
        name: format!("p{number}").into(),
        protocol,
        port: number,
        node_port: Some(20_000 + number),
    };
    Event::Service(Service {
        name: mk_name(),
        created: 1,
        cluster_ips: vec!["10.96.0.1".parse().expect("an address"), "fd96::1".parse().expect("an address")],
        external_ips: Vec::new(),
        load_balancer_vips: Vec::new(),
        ports: (1..=ports).map(port).collect(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        source_ranges: Vec::new(),
        health_check_node_port: None,
    })
}

fn mk_slice(number: u8, ports: u16, protocol: Protocol) -> Event {
    let port = |number: u16| SlicePort { name: format!("p{number}").into(), protocol, port: number };
    Event::Slice(EndpointSlice {
        service: mk_name(),
        name: format!("slice-{number}").into(),
        ports: (1..=ports).map(port).collect(),
        endpoints: vec![Endpoint {
            address: format!("10.1.0.{number}").parse().expect("an address"),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone_hints: Hints::default(),
            node_hints: Hints::default(),
        }],
    })
}

fn mk_model() -> Model {
    let mut model = Model::new(Config { node_port_range: 20_001..=24_000, ..Config::default() });
    let address = "192.0.2.1".parse().expect("an address");
    model.apply(Event::Node(NodeInfo { node_port_addresses: vec![address], ..NodeInfo::default() }));
    model
}

#[test]
fn a_service_is_compiled_once_for_all_slices_that_come_together() {
    let mut model = mk_model();
    model.apply(mk_service(3, Protocol::Tcp));
    let before = model.compiled();
    (0..20).for_each(|number| model.take(mk_slice(number, 3, Protocol::Tcp)));
    model.settle();
    assert_eq!(model.compiled() - before, 1);
    let mut one_by_one = mk_model();
    one_by_one.apply(mk_service(3, Protocol::Tcp));
    (0..20).for_each(|number| one_by_one.apply(mk_slice(number, 3, Protocol::Tcp)));
    assert_eq!(model.shadow().desired(), one_by_one.shadow().desired());
    model.settle();
    assert_eq!(model.compiled() - before, 1, "nothing is left to be done");
}

#[test]
fn thousands_of_ports_are_compiled_adopted_and_listed() {
    // With work by the square of the ports this takes minutes, and the test runner says so.
    let mut model = mk_model();
    model.apply(mk_service(PORTS, Protocol::Udp));
    for number in 0..4 {
        model.apply(mk_slice(number, PORTS, Protocol::Udp));
    }
    let elements = usize::from(PORTS) * 2 * (1 + 4) + usize::from(PORTS) + 2;
    assert_eq!(
        model.shadow().desired().elements.len(),
        elements,
        "two ways to each port, of four slots, and IPv6 has none"
    );
    let kernel: State = model.shadow().desired().clone();
    model.adopt(&kernel);
    assert!(model.shadow().is_settled());
    let frontends = crate::flows::frontends(&model);
    assert_eq!(crate::flows::stale_flows(&model, frontends).len(), usize::from(PORTS) * 3);
}

#[test]
fn thousands_of_ports_have_affinity_each_by_itself() {
    let mut model = mk_model();
    let Event::Service(service) = mk_service(PORTS, Protocol::Udp) else { unreachable!("a Service") };
    model.apply(Event::Service(Service { affinity: Some(10), ..service }));
    for number in 0..4 {
        model.apply(mk_slice(number, PORTS, Protocol::Udp));
    }
    // Two ways to each port, what they lead to once, and IPv6 has no endpoints.
    let elements = usize::from(PORTS) * (2 * 2 + 1 + 4 * 2) + usize::from(PORTS) + 2;
    assert_eq!(model.shadow().desired().elements.len(), elements);
    let kernel: State = model.shadow().desired().clone();
    let touched = crate::flows::touched(&model, &model.shadow().additive());
    assert_eq!(touched.len(), usize::from(PORTS) * 3);
    model.adopt(&kernel);
    assert!(model.shadow().is_settled());
}
