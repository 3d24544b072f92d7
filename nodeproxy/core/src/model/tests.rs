//! Properties over random histories: the order of events, oracle against ruleset, torn lookups, restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proptest::prelude::*;

use super::*;
use crate::{
    claims::ClaimKind,
    flows,
    input::{Endpoint, Hints, ServicePort, SlicePort, TrafficPolicy},
    interface::{InterfaceName, PodInterfaces},
    oracle::{self, Outcome, Packet},
    plan::{self, State},
    table::{Backend, List, Protocol},
    walk::{self, PacketContext},
};

mod torn;

const NODES: [&str; 2] = ["here", "there"];
const ZONES: [&str; 2] = ["a", "b"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mk_name(index: usize) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: format!("s{index}").into() }
}

fn mk_node(zone: usize, node_ports: usize, detector: bool) -> NodeInfo {
    NodeInfo {
        name: "here".into(),
        zone: Some(ZONES[zone].into()),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        node_port_addresses: vec![ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.7")][..=node_ports]
            .to_vec(),
        local_addresses: [ip("192.0.2.7"), ip("10.96.0.1")][..=zone].to_vec(),
        pod_cidrs: if detector {
            vec!["10.1.0.0/16".parse().expect("a CIDR"), "fd01::/64".parse().expect("a CIDR")]
        } else {
            Vec::new()
        },
        node_pod_cidrs: if detector {
            vec!["10.1.0.0/30".parse().expect("a CIDR"), "fd01::/126".parse().expect("a CIDR")]
        } else {
            Vec::new()
        },
    }
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

prop_compose! {
    fn service()(
        index in 0usize..3,
        ports in 1usize..3,
        node_port in prop::option::of(0u16..3),
        vip in prop::option::of(0u8..2),
        external_ip in any::<bool>(),
        internal_policy in policy(),
        external_policy in policy(),
        affinity in prop::option::of(prop_oneof![Just(10u32), Just(20)]),
        ranges in 0usize..3,
        dual in any::<bool>(),
    ) -> Service {
        let n = index + 1;
        let mut cluster_ips = vec![ip(&format!("10.96.0.{n}"))];
        if dual {
            cluster_ips.push(ip(&format!("fd96::{n}")));
        }
        let nets = ["10.1.0.0/24", "198.51.100.0/24", "192.0.2.0/24"];
        Service {
            name: mk_name(index),
            created: 10 - i64::try_from(index).expect("small"),
            cluster_ips,
            external_ips: if external_ip { vec![ip("203.0.113.200")] } else { Vec::new() },
            load_balancer_vips: vip.map(|v| ip(&format!("203.0.113.{v}"))).into_iter().collect(),
            ports: (0..ports).map(|p| ServicePort {
                name: format!("p{p}").into(),
                protocol: if p == 0 { Protocol::Tcp } else { Protocol::Udp },
                port: 80,
                node_port: node_port.map(|n| 30000 + n),
            }).collect(),
            internal_policy,
            external_policy,
            affinity,
            source_ranges: nets[..ranges].iter().map(|n| n.parse().expect("a CIDR")).collect(),
            health_check_node_port: None,
        }
    }
}

prop_compose! {
    fn endpoint()(
        last in 0u8..6,
        v6 in prop::bool::weighted(0.2),
        (ready, serving, terminating) in (prop::bool::weighted(0.7), prop::bool::weighted(0.8), prop::bool::weighted(0.3)),
        is_known in prop::bool::weighted(0.9),
        zone_hint in prop::option::weighted(0.6, 0usize..2),
        node_hint in prop::option::weighted(0.3, 0usize..2),
    ) -> Endpoint {
        Endpoint {
            address: match (v6, last) {
                // On the host network of this node.
                (false, 0) => ip("192.0.2.1"),
                (true, 0) => ip("2001:db8::1"),
                (false, last) => ip(&format!("10.1.0.{last}")),
                (true, last) => ip(&format!("fd01::{last}")),
            },
            ready,
            serving,
            terminating,
            // An address is on one node; a slice may not say which.
            node: is_known.then(|| NODES[usize::from(last % 2)].into()),
            zone_hints: zone_hint.map(|z| ZONES[z].into()).into_iter().collect(),
            node_hints: node_hint.map(|n| NODES[n].into()).into_iter().collect(),
        }
    }
}

prop_compose! {
    fn slice()(
        index in 0usize..3,
        name in 0usize..2,
        ports in 1usize..3,
        endpoints in prop::collection::vec(endpoint(), 0..5),
    ) -> EndpointSlice {
        EndpointSlice {
            service: mk_name(index),
            name: format!("slice-{name}").into(),
            ports: (0..ports).map(|p| SlicePort {
                name: format!("p{p}").into(),
                protocol: if p == 0 { Protocol::Tcp } else { Protocol::Udp },
                port: 8080,
            }).collect(),
            endpoints,
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service().prop_map(Event::Service),
        1 => (0usize..3).prop_map(|i| Event::ServiceGone(mk_name(i))),
        6 => slice().prop_map(Event::Slice),
        1 => (0usize..3, 0usize..2).prop_map(|(i, n)| Event::SliceGone {
            service: mk_name(i),
            name: format!("slice-{n}").into(),
        }),
        1 => (0usize..2, 0usize..3, any::<bool>()).prop_map(|(z, n, d)| Event::Node(mk_node(z, n, d))),
        1 => any::<bool>().prop_map(|wide| Event::ServiceCidrs(vec![
            if wide { "10.96.0.0/16" } else { "10.96.0.0/24" }.parse().expect("a CIDR"),
        ])),
    ]
}

/// A random history. Most begin with the node, because without it no endpoint is local.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = prop::option::weighted(0.9, Just(Event::Node(mk_node(0, 1, true))));
    let rest = prop::collection::vec(event(), 1..30);
    (node, rest).prop_map(|(node, rest)| node.into_iter().chain(rest).collect())
}

fn mk_config() -> Config {
    Config { external_ips: true, ..Config::default() }
}

fn mk_model(events: impl IntoIterator<Item = Event>) -> Model {
    let mut model = Model::new(mk_config());
    for event in events {
        model.apply(event);
    }
    model
}

/// The events that describe the final objects, services last.
fn last_of_each(events: &[Event]) -> Vec<Event> {
    let mut last = BTreeMap::new();
    for event in events {
        let key = match event {
            Event::Slice(s) => (0, s.service.to_string(), s.name.to_string()),
            Event::SliceGone { service, name } => (0, service.to_string(), name.to_string()),
            Event::Node(_) => (1, String::new(), String::new()),
            Event::ServiceCidrs(_) => (2, String::new(), String::new()),
            Event::Service(s) => (3, s.name.to_string(), String::new()),
            Event::ServiceGone(name) => (3, name.to_string(), String::new()),
        };
        last.insert(key, event.clone());
    }
    last.into_values().collect()
}

/// The backends of each frontend's lists.
type Slots = BTreeMap<(Frontend, List), BTreeSet<Backend>>;

/// A state without the order of its slots.
fn unordered(state: &State) -> (BTreeMap<Key, Value>, Slots) {
    let (mut rest, mut slots) = (BTreeMap::new(), BTreeMap::<_, BTreeSet<_>>::new());
    for (key, value) in &state.elements {
        match key {
            Key::Endpoint(_, _) | Key::AffinitySlot(_, _) => {}
            _ => {
                rest.insert(*key, *value);
            }
        }
        if let Some(f) = key.frontend() {
            for list in [List::Cluster, List::Local] {
                slots.entry((f, list)).or_default().extend(state.slots(&f, list));
            }
        }
    }
    (rest, slots)
}

fn mk_interface(name: &str) -> InterfaceName {
    name.parse().expect("a name")
}

fn packets() -> Vec<Packet> {
    let clients = [
        ("10.1.0.1", Some("veth1")),
        ("10.1.0.1", Some("eth0")),
        ("192.0.2.1", None),
        ("198.51.100.5", Some("eth0")),
        ("198.51.100.5", Some("veth1")),
        ("203.0.113.0", None),
        ("fd01::1", Some("veth1")),
        ("2001:db8::99", Some("eth0")),
    ];
    let v4 = [
        "10.96.0.1",
        "10.96.0.2",
        "10.96.0.9",
        "10.96.7.7",
        "192.0.2.1",
        "192.0.2.7",
        "203.0.113.0",
        "203.0.113.1",
        "203.0.113.200",
    ];
    let v6 = ["fd96::1", "fd96::2", "2001:db8::1"];
    let mut packets = Vec::new();
    for (source, interface) in clients {
        for address in v4.iter().chain(&v6) {
            if ip(source).is_ipv4() != ip(address).is_ipv4() {
                continue;
            }
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for port in [80, 81, 30000, 30001] {
                    let to = Frontend { address: ip(address), protocol, port };
                    packets.push(Packet {
                        source: ip(source),
                        from_node: interface.is_none(),
                        interface: interface.map(mk_interface),
                        to,
                    });
                }
            }
        }
    }
    packets
}

/// Every affinity endpoint of a frontend.
fn affinity_entries(state: &State, frontend: &Frontend) -> Vec<(u32, Backend)> {
    let Some(alias) = state.alias(frontend) else { return Vec::new() };
    let endpoints = state.elements.iter().filter_map(|(key, value)| match (*key, *value) {
        (Key::AffinityEndpoint(of, _, id), Value::Backend(backend)) if of == alias => Some((id, backend)),
        _ => None,
    });
    endpoints.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_where_the_final_objects_lead(events in events()) {
        let lived = mk_model(events.clone());
        let fresh = mk_model(last_of_each(&events));
        prop_assert_eq!(unordered(lived.shadow().desired()), unordered(fresh.shadow().desired()));
        prop_assert_eq!(&lived.shadow().desired().chains, &fresh.shadow().desired().chains);
        prop_assert_eq!(&lived.shadow().desired().affinity, &fresh.shadow().desired().affinity);
        prop_assert_eq!(lived.problems(), fresh.problems());
    }

    #[test]
    fn the_ruleset_does_what_the_oracle_says(
        events in events(),
        masquerade_all in any::<bool>(),
        by_interface in any::<bool>(),
    ) {
        let pod_interfaces = by_interface.then(|| PodInterfaces::Prefixed(mk_interface("veth")));
        let mut model = Model::new(Config { masquerade_all, pod_interfaces, ..mk_config() });
        for event in events {
            model.apply(event);
        }
        for packet in packets() {
            let state = model.shadow().desired();
            let walked = walk::walk(state, PacketContext::of(&model), &packet);
            prop_assert_eq!(walked, oracle::outcome(&model, &packet), "{:?}", packet);
            // And so it does with every affinity entry, whichever endpoint it names.
            for (id, last) in affinity_entries(state, &packet.to) {
                let context = PacketContext { affinity_id: Some(id), ..PacketContext::of(&model) };
                let walked = walk::walk(state, context, &packet);
                prop_assert_eq!(walked, oracle::outcome_with_affinity(&model, &packet, Some(last)), "{:?}", packet);
            }
        }
    }

    #[test]
    fn a_restart_changes_nothing_that_is_right(events in events()) {
        let lived = mk_model(events.clone());
        let kernel = lived.shadow().desired().clone();
        let mut restarted = mk_model(last_of_each(&events));
        restarted.adopt(&kernel);
        prop_assert!(restarted.shadow().is_settled(), "{}", restarted.shadow().plan());
    }

    #[test]
    fn flows_to_endpoints_that_get_new_connections_are_never_stale(events in events()) {
        let model = mk_model(events);
        let state = model.shadow().desired();
        for stale in flows::stale_flows(&model, flows::touched(&model, &model.shadow().additive())) {
            for list in [List::Cluster, List::Local] {
                for backend in state.slots(&stale.frontend, list) {
                    prop_assert!(!stale.is_stale(&stale.frontend, &backend), "{backend}");
                }
            }
            let itself = Backend { address: stale.frontend.address, port: stale.frontend.port };
            prop_assert!(stale.is_stale(&stale.frontend, &itself), "a flow from before the first endpoint");
        }
    }
}

fn mk_service(index: usize, created: i64) -> Service {
    Service {
        name: mk_name(index),
        created,
        cluster_ips: vec![ip(&format!("10.96.0.{}", index + 1))],
        external_ips: Vec::new(),
        load_balancer_vips: vec![ip("203.0.113.1")],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        source_ranges: Vec::new(),
        health_check_node_port: None,
    }
}

#[test]
fn the_older_service_keeps_a_contested_vip_and_its_heir_takes_over() {
    let vip = Frontend { address: ip("203.0.113.1"), protocol: Protocol::Tcp, port: 80 };
    let mut model = mk_model([Event::Service(mk_service(0, 20)), Event::Service(mk_service(1, 10))]);
    assert_eq!(model.holder(&vip).map(|(c, _)| c.service.clone()), Some(mk_name(1)));
    let problems: Vec<_> = model.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("ns/s0") && problems[0].contains("ns/s1"), "{problems:?}");
    model.apply(Event::ServiceGone(mk_name(1)));
    assert_eq!(model.holder(&vip).map(|(c, _)| c.service.clone()), Some(mk_name(0)));
    assert!(model.problems().is_empty());
}

#[test]
fn a_vip_cannot_take_over_the_cluster_ip_of_a_younger_service() {
    let mut thief = mk_service(0, 1);
    thief.load_balancer_vips = vec![ip("10.96.0.2")];
    let model = mk_model([Event::Service(thief), Event::Service(mk_service(1, 99))]);
    let vip = Frontend { address: ip("10.96.0.2"), protocol: Protocol::Tcp, port: 80 };
    let (claim, _) = model.holder(&vip).expect("held");
    assert_eq!((claim.kind, &claim.service), (ClaimKind::ClusterIp, &mk_name(1)));
}

#[test]
fn a_node_port_outside_the_range_is_reported_and_not_served() {
    let mut service = mk_service(0, 1);
    service.ports[0].node_port = Some(22);
    let model = mk_model([Event::Node(mk_node(0, 0, true)), Event::Service(service)]);
    assert!(model.problems()[0].to_string().contains("--node-port-range"));
    let ssh = Frontend { address: ip("192.0.2.1"), protocol: Protocol::Tcp, port: 22 };
    assert!(model.holder(&ssh).is_none());
}

#[test]
fn an_endpoint_replaced_in_place_costs_one_put_and_no_more() {
    let mk_slice = |addresses: &[&str]| EndpointSlice {
        service: mk_name(0),
        name: "slice".into(),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: addresses
            .iter()
            .map(|a| Endpoint {
                address: ip(a),
                ready: true,
                serving: true,
                terminating: false,
                node: None,
                zone_hints: Hints::default(),
                node_hints: Hints::default(),
            })
            .collect(),
    };
    let service = Service { load_balancer_vips: Vec::new(), ..mk_service(0, 1) };
    let first = mk_slice(&["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    let mut model = mk_model([Event::Service(service), Event::Slice(first)]);
    let cold = model.shadow().additive();
    model.shadow_mut().applied(&cold, 0);
    model.apply(Event::Slice(mk_slice(&["10.1.0.1", "10.1.0.9", "10.1.0.3"])));
    let plan = model.shadow().plan();
    assert_eq!((plan.additive.len(), plan.additive.puts.len(), plan.destructive.len()), (1, 1, 0), "{plan}");
}

#[test]
fn thirty_thousand_services_stay_in_the_memory_budget_and_an_event_costs_its_own_size() {
    let mut model = Model::new(Config::default());
    model.apply(Event::Node(mk_node(0, 0, true)));
    for n in 0..30_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let name = ServiceName { namespace: "ns".into(), name: format!("service-{n}").into() };
        let cluster_ip = ip(&format!("10.{}.{b}.{c}", 96 + a));
        model.apply(Event::Service(Service {
            name: name.clone(),
            cluster_ips: vec![cluster_ip],
            load_balancer_vips: Vec::new(),
            ..mk_service(0, 0)
        }));
        let endpoints = (1..=3u8).map(|e| Endpoint {
            address: ip(&format!("10.{e}.{b}.{c}")),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(format!("node-{}", n % 100).into()),
            zone_hints: Hints::default(),
            node_hints: Hints::default(),
        });
        model.apply(Event::Slice(EndpointSlice {
            service: name,
            name: format!("service-{n}-abcde").into(),
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints: endpoints.collect(),
        }));
    }
    assert_eq!(model.services(), 30_000);
    assert!(model.shadow().heap_size() < 50 << 20, "{} bytes", model.shadow().heap_size());
    let cold = model.shadow().additive();
    model.shadow_mut().applied(&cold, 0);
    model.apply(Event::SliceGone {
        service: ServiceName { namespace: "ns".into(), name: "service-7".into() },
        name: "service-7-abcde".into(),
    });
    let plan = model.shadow().plan();
    assert_eq!((plan.additive.len(), plan.destructive.len()), (2, 3), "{plan}");
}
