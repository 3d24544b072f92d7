//! Every field of `spec` is read, and every wrong one is named.

use k8s_openapi::api::core::v1::{ClientIPConfig, SessionAffinityConfig};
use portico_provider::{Probe, ProbePort};

use super::*;
use crate::desired::classes::rules::ClassRules;
use crate::testing::{CAPABILITIES, CLUSTER, mk_service, with};

fn asked(service: &Service) -> Asked {
    let owner = owner(service, &CLUSTER.parse().unwrap()).unwrap();
    parse(
        service,
        owner,
        &CAPABILITIES,
        &ClassRules::default(),
        GroupScope::Namespace,
        Backing { nodes: &[], slices: &[], admission: Admission::Any },
    )
}

fn accepted(change: impl FnOnce(&mut ServiceSpec)) -> LoadBalancer {
    *asked(&with(mk_service("web"), change)).load_balancer.unwrap()
}

fn refused(change: impl FnOnce(&mut ServiceSpec)) -> String {
    let problems = asked(&with(mk_service("web"), change)).load_balancer.unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[test]
fn every_wrong_field_is_named_in_its_own_words() {
    let affinity = |seconds| SessionAffinityConfig {
        client_ip: Some(ClientIPConfig { timeout_seconds: Some(seconds) }),
    };
    let reported = [
        (refused(|spec| spec.ports = None), "spec.ports: is empty"),
        (refused(|spec| spec.ports.as_mut().unwrap()[0].port = 70_000), "spec.ports[0]: port 70000"),
        (
            refused(|spec| spec.ports.as_mut().unwrap()[0].protocol = Some("ICMP".to_owned())),
            "spec.ports[0]: protocol \"ICMP\"",
        ),
        (
            refused(|spec| spec.external_traffic_policy = Some("Far".to_owned())),
            "spec.externalTrafficPolicy: is \"Far\"",
        ),
        (
            refused(|spec| spec.external_traffic_policy = Some("Local".to_owned())),
            "spec.healthCheckNodePort: is 0",
        ),
        (
            refused(|spec| spec.session_affinity = Some("Cookie".to_owned())),
            "spec.sessionAffinity: is \"Cookie\"",
        ),
        (
            refused(|spec| {
                spec.session_affinity = Some("ClientIP".to_owned());
                spec.session_affinity_config = Some(affinity(0));
            }),
            "timeoutSeconds: is 0",
        ),
        (
            refused(|spec| spec.load_balancer_source_ranges = Some(vec!["10/8".to_owned()])),
            "\"10/8\" is no CIDR",
        ),
        (refused(|spec| spec.load_balancer_ip = Some("1.2.3".to_owned())), "spec.loadBalancerIP: \"1.2.3\""),
        (refused(|spec| spec.ip_families = Some(vec!["IPX".to_owned()])), "spec.ipFamilies: \"IPX\""),
    ];
    for (message, expected) in reported {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let service = with(mk_service("web"), |spec| {
        spec.load_balancer_ip = Some("x".to_owned());
        spec.session_affinity = Some("Cookie".to_owned());
        spec.ports = None;
    });
    assert_eq!(asked(&service).load_balancer.unwrap_err().len(), 3);
}

#[test]
fn a_port_that_is_there_twice_is_refused_and_two_protocols_on_one_port_are_not() {
    let twice = refused(|spec| {
        let port = spec.ports.as_ref().unwrap()[0].clone();
        spec.ports.as_mut().unwrap().push(port);
    });
    assert!(twice.contains("spec.ports[1]: TCP/80 is there twice"), "{twice}");
    let both = accepted(|spec| {
        let udp = ServicePort { protocol: Some("UDP".to_owned()), ..spec.ports.as_ref().unwrap()[0].clone() };
        spec.ports.as_mut().unwrap().push(udp);
    });
    assert_eq!(both.listeners.len(), 2);
}

#[test]
fn defaults_are_those_of_the_api() {
    let plain = accepted(|_| ());
    assert_eq!(plain.session_affinity, SessionAffinity::None);
    assert_eq!(plain.external_traffic_policy, ExternalTrafficPolicy::Cluster);
    assert_eq!(plain.ip_families, [IpFamily::IPv4]);
    assert!(plain.source_ranges.is_empty() && plain.requested_addresses.is_empty());
    let sticky = accepted(|spec| spec.session_affinity = Some("ClientIP".to_owned()));
    assert_eq!(sticky.session_affinity, SessionAffinity::ClientIp { timeout: Duration::from_hours(3) });
}

#[test]
fn local_asks_each_node_on_the_health_check_node_port() {
    let local = accepted(|spec| {
        spec.external_traffic_policy = Some("Local".to_owned());
        spec.health_check_node_port = Some(31_000);
    });
    let Some(HealthCheck { probe: Probe::Http { port: ProbePort::Fixed(port), path }, .. }) =
        local.health_check
    else {
        panic!("{:?}", local.health_check)
    };
    assert_eq!((port.get(), path.as_str()), (31_000, "/healthz"));
}

#[test]
fn the_spec_wins_over_the_source_ranges_annotation() {
    let mut service = mk_service("web");
    let key = "service.beta.kubernetes.io/load-balancer-source-ranges";
    service.metadata.annotations.get_or_insert_default().insert(key.to_owned(), "10.0.0.0/8".to_owned());
    let ranges = |service: &Service| asked(service).load_balancer.unwrap().source_ranges;
    assert_eq!(ranges(&service), BTreeSet::from(["10.0.0.0/8".parse().unwrap()]));
    let both = with(service, |spec| spec.load_balancer_source_ranges = Some(vec!["192.0.2.0/24".to_owned()]));
    assert_eq!(ranges(&both), BTreeSet::from(["192.0.2.0/24".parse().unwrap()]));
}

#[test]
fn two_different_requests_for_an_address_contradict_each_other() {
    let mut service = with(mk_service("web"), |spec| spec.load_balancer_ip = Some("192.0.2.1".to_owned()));
    let annotations = service.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/addresses".to_owned(), "192.0.2.2".to_owned());
    let problems = asked(&service).load_balancer.unwrap_err();
    assert!(problems[0].to_string().contains("contradicts"), "{problems:?}");
}
