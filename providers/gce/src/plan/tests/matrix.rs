//! Each specification to each other one, with a client that never goes away.
//!
//! Owns: the matrix. Leaves to others: what the steps do on the wire (`tests/emulated`).
//! Invariant: whoever may send to a port of both specifications, at the address that the status shows, reaches a node
//! after every single step.

use super::*;
use crate::plan::firewalls::ALLOW;
use crate::resource::Verdict;

const CLIENT: &str = "192.0.2.0/24";
const CLIENT_V6: &str = "2001:db8::/64";

fn both_families() -> Vec<IpFamily> {
    vec![IpFamily::IPv4, IpFamily::IPv6]
}

/// A specification by name.
fn specs() -> Vec<(&'static str, LoadBalancer)> {
    let base = || mk_desired(&[TCP80, UDP53], &[1, 2, 3]);
    let with = |change: &dyn Fn(&mut LoadBalancer)| {
        let mut desired = base();
        change(&mut desired);
        desired
    };
    let option = |it: &mut LoadBalancer, pairs: &[(&str, &str)]| {
        it.options = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    };
    let local = |it: &mut LoadBalancer| {
        it.external_traffic_policy = ExternalTrafficPolicy::Local;
        it.health_check = Some(HealthCheck::local_endpoints(Port::try_from(31_000).unwrap()));
    };
    let sticky = SessionAffinity::ClientIp { timeout: Duration::from_hours(1) };
    let many: Vec<_> = (80..90).map(|port| (Protocol::Tcp, port)).collect();
    vec![
        ("base", base()),
        ("one port less, one more", with(&|it| it.listeners = mk_listeners(&[TCP80, (Protocol::Tcp, 443)]))),
        ("many ports", with(&|it| it.listeners = mk_listeners(&many))),
        ("other nodes", with(&|it| it.targets = mk_desired(&[], &[3, 4]).targets)),
        ("affinity", with(&|it| it.session_affinity = sticky)),
        (
            "strong affinity",
            with(&|it| {
                it.session_affinity = sticky;
                option(it, &[("networking.gke.io/l4-strong-session-affinity", "enabled")]);
            }),
        ),
        ("local", with(&local)),
        (
            "weighted",
            with(&|it| {
                local(it);
                option(it, &[("networking.gke.io/weighted-load-balancing", "pods-per-node")]);
            }),
        ),
        ("sources", with(&|it| it.source_ranges = BTreeSet::from([CLIENT.parse().unwrap()]))),
        (
            "sources and deny",
            with(&|it| {
                it.source_ranges =
                    BTreeSet::from([CLIENT.parse().unwrap(), "203.0.113.0/24".parse().unwrap()]);
                option(it, &[("portico.dev/gce-deny-firewall", "true")]);
            }),
        ),
        ("internal", with(&|it| it.scheme = Scheme::Internal)),
        (
            "internal, global access",
            with(&|it| {
                it.scheme = Scheme::Internal;
                option(it, &[("networking.gke.io/internal-load-balancer-allow-global-access", "true")]);
            }),
        ),
        ("dual-stack", with(&|it| it.ip_families = both_families())),
        ("IPv6", with(&|it| it.ip_families = vec![IpFamily::IPv6])),
        (
            "internal, dual-stack",
            with(&|it| {
                it.scheme = Scheme::Internal;
                it.ip_families = both_families();
            }),
        ),
        ("standard tier", with(&|it| option(it, &[("cloud.google.com/network-tier", "Standard")]))),
        ("named", with(&|it| option(it, &[("networking.gke.io/load-balancer-ip-addresses", "front-door")]))),
        ("exact", with(&|it| it.requested_addresses = BTreeSet::from([[198, 51, 100, 77].into()]))),
    ]
}

/// Whether a packet of the client to this port reaches a node.
fn reaches(observed: &Observed, ip: IpAddr, protocol: Protocol, port: u16) -> bool {
    let client: IpNet = if ip.is_ipv4() { CLIENT } else { CLIENT_V6 }.parse().unwrap();
    let rules = observed.rules().filter(|rule| rule.address == AddressRef::Ip(ip));
    let mut services = rules
        .filter(|rule| rule.forwards.covers(protocol, port))
        .filter_map(|rule| observed.services().find(|service| service.name == rule.backend_service));
    let staffed = services.any(|service| {
        service.groups.iter().any(|(zone, name)| {
            let id = Id { kind: service.backends.kind(), zone: Some(zone.clone()), name: name.clone() };
            observed.endpoints.get(&id).is_some_and(|nodes| !nodes.is_empty())
        })
    });
    let firewalls = observed.resources.values().filter_map(|resource| match resource {
        Resource::Firewall(firewall) => Some(firewall),
        _ => None,
    });
    let applies = |it: &&Firewall| {
        let here = it.destinations.is_empty() || it.destinations.iter().any(|net| net.contains(&ip));
        here && it.sources.iter().any(|net| net.contains(&client))
    };
    let let_in = firewalls.filter(applies).any(|it| match &it.verdict {
        Verdict::Allow(ports) => it.priority == ALLOW && ports.contains(&(protocol, port)),
        Verdict::DenyAll | Verdict::Foreign => false,
    });
    staffed && let_in
}

#[test]
fn each_specification_becomes_each_other_one_without_losing_a_client() {
    each_becomes_each_other(&mk_config());
}

#[test]
fn and_so_it_does_with_instance_groups() {
    each_becomes_each_other(&Config { backends: Backends::InstanceGroups, ..mk_config() });
}

fn each_becomes_each_other(config: &Config) {
    let (specs, mut transitions) = (specs(), 0);
    for (from_name, from) in &specs {
        for (to_name, to) in &specs {
            for consent in [Replacement::NeedsConsent, Replacement::Allowed] {
                let (mut observed, mut next) = (Observed::default(), 0);
                carry_out_watched(config, &mut from.clone(), &mut observed, &mut next, |_, _| {});
                let mut to = LoadBalancer { replacement: consent, ..to.clone() };
                let both: Vec<_> =
                    from.listeners.iter().filter(|it| to.listeners.contains(it)).cloned().collect();
                // The status shows what it showed before the change.
                let report = crate::report::report(from, Some(&observed), config);
                to.published = report.ingress.into_iter().map(|it| it.address).collect();
                let text =
                    carry_out_watched(config, &mut to, &mut observed, &mut next, |desired, observed| {
                        for listener in &both {
                            // A family that is wanted no more is no loss.
                            let wanted = |ip: &IpAddr| desired.ip_families.contains(&IpFamily::of(*ip));
                            for ip in desired.published_ips().into_iter().filter(wanted) {
                                let reached = reaches(observed, ip, listener.protocol, listener.port.get());
                                assert!(reached, "{from_name} to {to_name} loses {listener:?} at {ip}");
                            }
                        }
                    });
                let frontends = existing_frontends(&observed);
                let held_back =
                    consent == Replacement::NeedsConsent && frontends.len() < to.ip_families.len();
                assert!(
                    held_back || frontends.len() == to.ip_families.len(),
                    "{from_name} to {to_name}: {text}"
                );
                for (listener, frontend) in
                    to.listeners.iter().flat_map(|it| frontends.iter().map(move |f| (it, f)))
                {
                    let reached = reaches(&observed, frontend.ip, listener.protocol, listener.port.get());
                    assert!(reached, "{from_name} to {to_name}: {listener:?}\n{text}");
                }
                transitions += 1;
            }
        }
    }
    assert_eq!(transitions, 2 * specs.len() * specs.len());
}
