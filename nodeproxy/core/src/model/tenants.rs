//! Property over pairs of Services of two namespaces: one tenant's objects never change another's packets.
//!
//! The rule is that of [`crate::claims`]: a frontend that both claim belongs to the one that precedes, and a
//! `ClusterIP` belongs to its Service on every port. The owner's packets have the same outcome as without the
//! other tenant.

use proptest::prelude::*;

use super::*;
use crate::{
    input::{Endpoint, Hints, ServicePort, SlicePort, TrafficPolicy},
    oracle::{self, Outcome, Packet},
    table::Protocol,
    walk,
};

/// Addresses of the tenants, the node and load balancers, and unused ones. Tenants claim from these.
const ADDRESSES: [&str; 6] =
    ["10.96.0.1", "10.96.0.2", "192.0.2.1", "203.0.113.1", "203.0.113.2", "198.51.100.9"];
const PORTS: [u16; 4] = [80, 81, 30_001, 30_002];
/// Sources: clients outside, and the tenants' pods.
const SOURCES: [&str; 4] = ["198.51.100.1", "192.0.2.50", "10.1.0.1", "10.1.0.2"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mk_name(tenant: usize) -> ServiceName {
    ServiceName { namespace: format!("tenant-{tenant}").into(), name: "web".into() }
}

fn some_of(addresses: &'static [&'static str]) -> impl Strategy<Value = Vec<IpAddr>> {
    prop::sample::subsequence(addresses, 0..=2).prop_map(|of| of.into_iter().map(ip).collect())
}

prop_compose! {
    /// A tenant's Service, and its slice. Addresses and numbers that the API server allocates are its own.
    fn tenant(number: usize)(
        ports in prop::sample::subsequence(&PORTS[..], 1..3),
        has_node_port in any::<bool>(),
        vips in some_of(&ADDRESSES),
        external_ips in some_of(&ADDRESSES),
        (internal, external) in (any::<bool>(), any::<bool>()),
        ranges in prop::sample::subsequence(&["198.51.100.0/24", "10.1.0.0/16", "192.0.2.1/32"][..], 0..=2),
        affinity in prop::option::of(Just(10u32)),
        created in 0i64..3,
        pods in prop::sample::subsequence(&["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"][..], 0..4),
    ) -> [Event; 2] {
        let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let node_port = u16::try_from(number).map(|n| 30_001 + n).expect("small");
        let port = |(index, port): (usize, &u16)| ServicePort {
            name: format!("{port}").into(),
            protocol: Protocol::Tcp,
            port: *port,
            node_port: (has_node_port && index == 0).then_some(node_port),
        };
        let service = Service {
            name: mk_name(number),
            created,
            cluster_ips: vec![ip(ADDRESSES[number])],
            external_ips,
            load_balancer_vips: vips,
            ports: ports.iter().enumerate().map(port).collect(),
            internal_policy: policy(internal),
            external_policy: policy(external),
            affinity,
            source_ranges: ranges.iter().map(|net| net.parse().expect("a CIDR")).collect(),
            health_check_node_port: None,
        };
        let endpoint = |address: &&str| Endpoint {
            address: ip(address),
            ready: true,
            serving: true,
            terminating: false,
            // An address is on one node, whoever names it.
            node: Some(if matches!(*address, "10.1.0.1" | "10.1.0.3") { "here" } else { "there" }.into()),
            zone_hints: Hints::default(),
            node_hints: Hints::default(),
        };
        let slice = EndpointSlice {
            service: mk_name(number),
            name: "web-x".into(),
            ports: ports.iter().map(|port| SlicePort {
                name: format!("{port}").into(),
                protocol: Protocol::Tcp,
                // Told apart by the port, whichever pods they share.
                port: 8000 + node_port % 10,
            }).collect(),
            endpoints: pods.iter().map(endpoint).collect(),
        };
        [Event::Service(service), Event::Slice(slice)]
    }
}

fn mk_model<'a>(events: impl IntoIterator<Item = &'a Event>) -> Model {
    let mut model = Model::new(Config { external_ips: true, ..Config::default() });
    model.apply(Event::Node(NodeInfo {
        name: "here".into(),
        addresses: vec![ip("192.0.2.1")],
        node_port_addresses: vec![ip("192.0.2.1")],
        pod_cidrs: vec!["10.1.0.0/16".parse().expect("a CIDR")],
        ..NodeInfo::default()
    }));
    for event in events {
        model.apply(event.clone());
    }
    model
}

/// Outcome of a packet, by the oracle and by the elements.
fn outcomes(model: &Model, packet: &Packet) -> [Outcome; 2] {
    [
        oracle::outcome(model, packet),
        walk::walk(model.shadow().desired(), walk::PacketContext::of(model), packet),
    ]
}

fn packets() -> impl Iterator<Item = Packet> {
    let to = ADDRESSES.iter().flat_map(|address| {
        PORTS.map(|port| Frontend { address: ip(address), protocol: Protocol::Tcp, port })
    });
    to.flat_map(|to| {
        SOURCES.map(|source| Packet { source: ip(source), from_node: false, interface: None, to })
    })
}

/// Number of the tenant that owns a frontend, if one does.
fn owner(models: [&Model; 2], to: &Frontend) -> Option<usize> {
    let allocated = ADDRESSES[..2].iter().position(|address| ip(address) == to.address);
    let claims = models.map(|model| model.claims.holder(to));
    allocated.or_else(|| {
        let first = claims.into_iter().flatten().min()?;
        claims.iter().position(|claim| *claim == Some(first))
    })
}

proptest! {
    #[test]
    fn a_tenants_objects_never_change_anothers_packets(tenants in [tenant(0), tenant(1)], reversed in any::<bool>()) {
        let alone = [mk_model(&tenants[0]), mk_model(&tenants[1])];
        let [first, second] = if reversed { [1, 0] } else { [0, 1] };
        let both = mk_model(tenants[first].iter().chain(&tenants[second]));
        for packet in packets() {
            let Some(owner) = owner([&alone[0], &alone[1]], &packet.to) else { continue };
            prop_assert_eq!(
                outcomes(&both, &packet), outcomes(&alone[owner], &packet), "{:?}, of tenant {}", packet, owner
            );
        }
    }

    #[test]
    fn what_a_tenant_takes_back_is_as_if_it_had_never_been(tenants in [tenant(0), tenant(1)]) {
        let mut model = mk_model(tenants[0].iter().chain(&tenants[1]));
        model.apply(Event::ServiceGone(mk_name(0)));
        model.apply(Event::SliceGone { service: mk_name(0), name: "web-x".into() });
        let alone = mk_model(&tenants[1]);
        prop_assert_eq!(model.shadow().desired(), alone.shadow().desired());
        prop_assert_eq!(model.problems(), alone.problems());
    }
}

#[test]
fn source_ranges_hold_on_every_way_to_a_load_balancers_address() {
    let vip_and = |vip: &str, port: ServicePort, external_ips: Vec<IpAddr>| {
        Event::Service(Service {
            name: mk_name(0),
            created: 0,
            cluster_ips: vec![ip("10.96.0.1")],
            external_ips,
            load_balancer_vips: vec![ip(vip)],
            ports: vec![port],
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            source_ranges: vec!["198.51.100.0/24".parse().expect("a CIDR")],
            health_check_node_port: None,
        })
    };
    let port = |port, node_port| ServicePort { name: "".into(), protocol: Protocol::Tcp, port, node_port };
    for (way, vip, service) in [
        (
            "by the node port of the same number",
            "192.0.2.1",
            vip_and("192.0.2.1", port(30_001, Some(30_001)), vec![]),
        ),
        ("by an external IP", "203.0.113.1", vip_and("203.0.113.1", port(80, None), vec![ip("203.0.113.1")])),
        ("by the ClusterIP", "10.96.0.1", vip_and("10.96.0.1", port(80, None), vec![])),
    ] {
        let Event::Service(object) = &service else { unreachable!("a Service") };
        let to = Frontend { address: ip(vip), protocol: Protocol::Tcp, port: object.ports[0].port };
        let model = mk_model([&service]);
        for (source, admitted) in [("198.51.100.1", true), ("203.0.113.200", false)] {
            let packet = Packet { source: ip(source), from_node: false, interface: None, to };
            let dropped = outcomes(&model, &packet).map(|outcome| outcome == Outcome::Dropped);
            assert_eq!(dropped, [!admitted; 2], "{way}, from {source}");
        }
    }
}
