//! Each of some specifications to each other one, on the wire.
//!
//! Owns: the order of calls as the cloud sees it. Leaves to others: the whole matrix (`plan/tests/matrix`, on paper).
//! Invariant: within one change everything is made and attached before anything is detached or deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use portico_provider::{
    Desired, ExternalTrafficPolicy, HealthCheck, IpFamily, Listener, LoadBalancer, LoadBalancerProvider,
    Port, Protocol, ReadMode, Replacement, Scheme, SessionAffinity,
};
use serde_json::Value;

use crate::emulator::{Emulator, REGION, STATIC};
use crate::fixture::{GceFixture, frontends, mk_listener, mk_nodes, settle};

fn specs(fixture: &GceFixture) -> Vec<(&'static str, LoadBalancer)> {
    let base = LoadBalancer { replacement: Replacement::Allowed, ..fixture.desired("moving") };
    let option = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into_iter().collect();
    let sticky = SessionAffinity::ClientIp { timeout: Duration::from_hours(1) };
    let local = Some(HealthCheck::local_endpoints(Port::try_from(31_000).unwrap()));
    let strong = "networking.gke.io/l4-strong-session-affinity";
    vec![
        ("base", base.clone()),
        ("other nodes", LoadBalancer { targets: mk_nodes(&[1]), ..base.clone() }),
        (
            "strong affinity",
            LoadBalancer { session_affinity: sticky, options: option(strong, "enabled"), ..base.clone() },
        ),
        (
            "internal, strong affinity",
            LoadBalancer {
                scheme: Scheme::Internal,
                session_affinity: sticky,
                options: option(strong, "enabled"),
                ..base.clone()
            },
        ),
        (
            "weighted",
            LoadBalancer {
                external_traffic_policy: ExternalTrafficPolicy::Local,
                health_check: local.clone(),
                options: option("networking.gke.io/weighted-load-balancing", "pods-per-node"),
                ..base.clone()
            },
        ),
        ("dual-stack", LoadBalancer { ip_families: both_families(), ..base.clone() }),
        (
            "internal, IPv6",
            LoadBalancer {
                scheme: Scheme::Internal,
                ip_families: vec![IpFamily::IPv6],
                options: option("networking.gke.io/load-balancer-subnet", "inside"),
                ..base.clone()
            },
        ),
        (
            "internal, weighted",
            LoadBalancer {
                scheme: Scheme::Internal,
                external_traffic_policy: ExternalTrafficPolicy::Local,
                health_check: local,
                options: option("networking.gke.io/weighted-load-balancing", "pods-per-node"),
                ..base.clone()
            },
        ),
        ("many ports", LoadBalancer { listeners: (80..90).map(tcp).collect(), ..base.clone() }),
        (
            "sources and deny",
            LoadBalancer {
                source_ranges: BTreeSet::from(["192.0.2.0/24".parse().unwrap()]),
                options: option("portico.dev/gce-deny-firewall", "true"),
                ..base.clone()
            },
        ),
        (
            "standard tier",
            LoadBalancer { options: option("cloud.google.com/network-tier", "Standard"), ..base.clone() },
        ),
        ("exact", LoadBalancer { requested_addresses: BTreeSet::from([STATIC.parse().unwrap()]), ..base }),
    ]
}

fn tcp(port: i32) -> Listener {
    mk_listener(Protocol::Tcp, port)
}

fn both_families() -> Vec<IpFamily> {
    vec![IpFamily::IPv4, IpFamily::IPv6]
}

fn takes_away(line: &str) -> bool {
    line.contains(".delete ") || line.contains(".detachNetworkEndpoints ")
}

fn adds(line: &str) -> bool {
    line.contains(".insert ") || line.contains(".attachNetworkEndpoints ")
}

/// A way from the first through every ordered pair.
fn tour(count: usize) -> Vec<usize> {
    let mut tour = vec![0];
    for from in 0..count - 1 {
        tour.extend((from + 1..count).flat_map(|to| [to, from]));
        tour.push(from + 1);
    }
    tour
}

#[tokio::test]
async fn each_change_adds_before_it_takes_away() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    fixture.emulator.hook("polls", Some("0"));
    let specs = specs(&fixture);
    let provider = fixture.one(&specs[0].1.owner.cluster);
    let tour = tour(specs.len());
    let pairs: BTreeSet<_> = tour.windows(2).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!(pairs.len(), specs.len() * (specs.len() - 1));
    settle(&provider, Desired::Present(&specs[0].1)).await.unwrap();
    for pair in tour.windows(2) {
        let ((from_name, _), (to_name, to)) = (&specs[pair[0]], &specs[pair[1]]);
        fixture.emulator.news();
        settle(&provider, Desired::Present(to)).await.unwrap();
        let calls = fixture.emulator.news();
        let added = calls.iter().rposition(|line| adds(line)).unwrap_or_default();
        let taken = calls.iter().position(|line| takes_away(line)).unwrap_or(calls.len());
        assert!(added < taken || taken == calls.len(), "{from_name} to {to_name}: {calls:?}");
        let observed = provider.observe(&to.owner, ReadMode::Full).await.unwrap();
        assert!(provider.report(to, observed.as_ref()).ready, "{from_name} to {to_name}");
        let families = Some(to.ip_families.len());
        assert_eq!(observed.as_ref().map(frontends), families, "{from_name} to {to_name}");
    }
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn each_family_has_an_address_one_rule_suffices_ipv6_and_firewalls_do_not_mix_them() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let specs = specs(&fixture);
    let (_, desired) = specs.iter().find(|(name, _)| *name == "dual-stack").unwrap();
    let mut desired = desired.clone();
    desired.source_ranges =
        BTreeSet::from(["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
    let shown: Vec<String> = provider
        .report(&desired, observed.as_ref())
        .ingress
        .iter()
        .map(|it| it.address.to_string())
        .collect();
    assert!(shown.len() == 2 && shown[0].contains('.') && shown[1].starts_with("2600:"), "{shown:?}");
    let rules = fixture.emulator.of("forwardingRules");
    let six: Vec<_> = rules.iter().filter(|rule| rule["ipVersion"] == "IPV6").collect();
    assert_eq!((rules.len(), six.len()), (3, 1));
    assert_eq!(six[0]["IPProtocol"], "L3_DEFAULT");
    assert_eq!(six[0]["IPAddress"], format!("{}/96", shown[1]));
    let firewalls = fixture.emulator.of("firewalls");
    assert_eq!(firewalls.len(), 4, "{firewalls:?}");
    // One family is enough now: what the other had is gone.
    desired.ip_families = vec![IpFamily::IPv4];
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    assert_eq!(fixture.emulator.of("forwardingRules").len(), 2);
    assert_eq!(fixture.emulator.of("addresses").len(), 1);
    assert_eq!(fixture.emulator.of("firewalls").len(), 2);
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn addresses_that_the_user_reserved_are_used_by_their_names_and_stay() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    fixture.emulator.insert(
        &format!("regions/{REGION}/addresses"),
        &format!(
            r#"{{"name": "user-static-6", "ipVersion": "IPV6", "ipv6EndpointType": "NETLB",
            "subnetwork": "regions/{REGION}/subnetworks/default"}}"#
        ),
    );
    let mut desired = fixture.desired("reserved");
    desired.ip_families = vec![IpFamily::IPv6];
    let named = |names: &str| {
        [("networking.gke.io/load-balancer-ip-addresses".to_owned(), names.to_owned())].into_iter().collect()
    };
    desired.options = named("user-static-6");
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let foreign = fixture.emulator.foreign();
    let own = |(path, _): &&(String, Value)| path.ends_with("/user-static-6");
    let range = format!("{}/96", foreign.iter().find(own).unwrap().1["address"].as_str().unwrap());
    assert_eq!(fixture.emulator.of("forwardingRules")[0]["IPAddress"], range);
    // A second family with an address of its own, by its name too, comes beside it.
    desired.ip_families = vec![IpFamily::IPv6, IpFamily::IPv4];
    let blocked = provider.plan(Desired::Present(&desired), None).to_string();
    assert!(blocked.contains("one for each of the Service's 2 families"), "{blocked}");
    desired.options = named("user-static, user-static-6");
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let rules = fixture.emulator.of("forwardingRules");
    let listens = |ip: &str| rules.iter().filter(|rule| rule["IPAddress"] == ip).count();
    assert_eq!((rules.len(), listens(&range), listens(STATIC)), (3, 1, 2), "{rules:?}");
    settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
    assert_eq!(fixture.emulator.foreign(), foreign);
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn weights_and_sessions_are_written_as_the_scheme_needs_them_and_taken_back() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let specs = specs(&fixture);
    let provider = fixture.one(&specs[0].1.owner.cluster);
    for (name, policy, strong, idle) in [
        ("strong affinity", None, Some(true), Some(3600)),
        ("weighted", Some("WEIGHTED_MAGLEV"), None, None),
        ("internal, weighted", Some("WEIGHTED_GCP_RENDEZVOUS"), None, None),
        ("internal, strong affinity", None, None, Some(3600)),
        ("base", None, None, None),
    ] {
        let (_, desired) = specs.iter().find(|(other, _)| *other == name).unwrap();
        settle(&provider, Desired::Present(desired)).await.unwrap();
        let services = fixture.emulator.of("backendServices");
        assert_eq!(services.len(), 1, "{name}");
        assert_eq!(services[0]["localityLbPolicy"].as_str(), policy, "{name}");
        let tracking = &services[0]["connectionTrackingPolicy"];
        assert_eq!(tracking["enableStrongAffinity"].as_bool(), strong, "{name}: {tracking}");
        assert_eq!(tracking["idleTimeoutSec"].as_i64(), idle, "{name}: {tracking}");
    }
    fixture.emulator.assert_no_violations();
}
