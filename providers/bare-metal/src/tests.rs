//! What bare metal reports, and the contract suite.

use std::collections::BTreeSet;
use std::time::Duration;

use portico_provider::contract::{self, CloudFixture, Registered, Variation};
use portico_provider::{
    ClusterUid, Desired, ExternalTrafficPolicy, Field, HealthCheck, IngressAddress, IpFamily, IpMode,
    Listener, LoadBalancer, LoadBalancerProvider, NodeName, NodeTarget, Owner, Port, Protocol, ProxyProtocol,
    Report, Scheme, ServiceName, Targets,
};

use crate::{BareMetalProvider, Config};

fn mk_port(number: u16) -> Port {
    Port::try_from(number).unwrap()
}

fn mk_node(name: &str, internal: &[&str], external: &[&str], has_ready_endpoints: bool) -> NodeTarget {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    NodeTarget {
        name: NodeName(name.to_owned()),
        addresses: parse(internal),
        external_addresses: parse(external),
        provider_id: None,
        zone: None,
        has_ready_endpoints,
    }
}

fn mk_owner() -> Owner {
    Owner {
        cluster: "c".parse().unwrap(),
        service: "s".parse().unwrap(),
        name: ServiceName::new("default", "frontend").unwrap(),
    }
}

fn mk_load_balancer(owner: Owner) -> LoadBalancer {
    let listener = |protocol, port, node_port| Listener {
        protocol,
        port: mk_port(port),
        name: String::new(),
        node_port: Some(mk_port(node_port)),
    };
    LoadBalancer {
        health_check: HealthCheck::node_proxy(),
        ..LoadBalancer::plain(
            owner,
            [listener(Protocol::Tcp, 80, 30080), listener(Protocol::Udp, 53, 30053)].into(),
            Targets::Nodes(BTreeSet::from([
                mk_node("b", &["10.0.0.2", "fd00::2"], &[], false),
                mk_node("a", &["10.0.0.1"], &["192.0.2.1"], true),
            ])),
        )
    }
}

fn report(publish_node_addresses: bool, desired: &LoadBalancer) -> Report {
    BareMetalProvider::new(Config { publish_node_addresses }).report(desired, None)
}

fn published(report: &Report) -> Vec<String> {
    assert!(report.ingress.iter().all(|ingress| ingress.ip_mode == Some(IpMode::Proxy)));
    let text = |address: &IngressAddress| address.to_string();
    report.ingress.iter().map(|ingress| text(&ingress.address)).collect()
}

#[test]
fn the_condition_names_every_node_port_and_address() {
    let report = report(false, &mk_load_balancer(mk_owner()));
    assert!(report.ingress.is_empty());
    assert_eq!(report.facts[0].reason, "NodePortOnly");
    assert_eq!(
        report.facts[0].message,
        "there is no load balancer here: for TCP/80 use 10.0.0.2:30080 or 192.0.2.1:30080; \
         for UDP/53 use 10.0.0.2:30053 or 192.0.2.1:30053"
    );
}

#[test]
fn under_the_local_policy_only_nodes_with_ready_endpoints_are_published() {
    let mut desired = mk_load_balancer(mk_owner());
    assert_eq!(published(&report(true, &desired)), ["10.0.0.2", "192.0.2.1"]);
    desired.external_traffic_policy = ExternalTrafficPolicy::Local;
    assert_eq!(published(&report(true, &desired)), ["192.0.2.1"]);
    desired.targets = Targets::Nodes(BTreeSet::from([mk_node("b", &["10.0.0.2"], &[], false)]));
    let none = report(true, &desired);
    assert!(none.ingress.is_empty());
    assert_eq!(none.facts[0].reason, "NoNodes");
}

#[test]
fn addresses_are_of_the_services_families() {
    let mut desired = mk_load_balancer(mk_owner());
    desired.ip_families = vec![IpFamily::IPv6, IpFamily::IPv4];
    assert_eq!(published(&report(true, &desired)), ["10.0.0.2", "192.0.2.1", "fd00::2"]);
    desired.ip_families = vec![IpFamily::IPv6];
    let only_v6 = report(true, &desired);
    assert_eq!(published(&only_v6), ["fd00::2"]);
    assert!(only_v6.facts[0].message.contains("[fd00::2]:30080"), "{}", only_v6.facts[0].message);
}

#[test]
fn a_service_without_node_ports_is_told_how_to_get_them() {
    let mut desired = mk_load_balancer(mk_owner());
    desired.listeners =
        desired.listeners.into_iter().map(|port| Listener { node_port: None, ..port }).collect();
    assert_eq!(report(true, &desired).facts[0].reason, "NoNodePorts");
    let plan = BareMetalProvider::new(Config::default()).plan(Desired::Present(&desired), None);
    assert_eq!(plan.blocked().len(), 2);
    assert!(plan.to_string().contains("allocateLoadBalancerNodePorts"), "{plan}");
}

struct Metal;

impl CloudFixture for Metal {
    type Provider = BareMetalProvider;

    fn provider(&self, _cluster: &ClusterUid) -> BareMetalProvider {
        BareMetalProvider::new(Config { publish_node_addresses: true })
    }

    fn base(&self, owner: Owner) -> LoadBalancer {
        mk_load_balancer(owner)
    }

    fn variations(&self, base: &LoadBalancer) -> Vec<Variation> {
        let policy = ExternalTrafficPolicy::Local;
        let desired = LoadBalancer { external_traffic_policy: policy, ..base.clone() };
        vec![Variation { field: Field::ExternalTrafficPolicy, desired }]
    }

    fn unsupported(&self, base: &LoadBalancer) -> Vec<Variation> {
        let requested = ["192.0.2.9".parse().unwrap()].into();
        let variation = |field, desired| Variation { field, desired };
        vec![
            variation(
                Field::ProxyProtocol,
                LoadBalancer { proxy_protocol: ProxyProtocol::V2, ..base.clone() },
            ),
            variation(Field::Scheme, LoadBalancer { scheme: Scheme::Internal, ..base.clone() }),
            variation(
                Field::RequestedAddresses,
                LoadBalancer { requested_addresses: requested, ..base.clone() },
            ),
            variation(Field::TargetKind, LoadBalancer { targets: Targets::Pods([].into()), ..base.clone() }),
        ]
    }

    fn count(&self, observed: &std::convert::Infallible) -> usize {
        match *observed {}
    }

    async fn pause(&self, _duration: Duration) {}

    async fn registered(&self, _owner: &Owner) -> Registered {
        Registered::new()
    }
}

#[tokio::test]
async fn bare_metal_keeps_the_contract() {
    contract::run(&Metal).await.unwrap();
}
