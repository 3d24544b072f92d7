//! Plans as text, and plans carried out on paper.
//!
//! Owns: the golden plans and the properties of any sequence of changes. Leaves to others: real calls (`tests/emulated`).
//! Invariant: the paper cloud does exactly what a step says, and completes it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use portico_provider::{
    ExternalTrafficPolicy, HealthCheck, IpFamily, Listener, NodeName, NodeTarget, Port, Protocol,
    Replacement, ServiceName, SessionAffinity, Targets,
};
use proptest::prelude::*;

use super::*;
use crate::resource::{AddressRef, Endpoint, Seen};
use crate::step::Call;
use ipnet::IpNet;

fn mk_config() -> Config {
    Config {
        project: "p".to_owned(),
        network_project: None,
        region: "r".to_owned(),
        network: "net".to_owned(),
        subnetwork: "sub".to_owned(),
        backends: Backends::EndpointGroups,
        endpoint: None,
        cluster: "cluster-1".parse().unwrap(),
    }
}

fn mk_node(number: u8) -> NodeTarget {
    NodeTarget {
        name: NodeName(format!("node-{number}")),
        addresses: BTreeSet::from([[10, 0, 0, number].into()]),
        external_addresses: BTreeSet::new(),
        provider_id: Some(format!("gce://p/r-{}/node-{number}", ["b", "c"][usize::from(number % 2)])),
        zone: None,
        has_ready_endpoints: true,
    }
}

fn mk_listeners(ports: &[(Protocol, u16)]) -> BTreeSet<Listener> {
    let listener = |(protocol, port): &(Protocol, u16)| Listener {
        protocol: *protocol,
        port: Port::try_from(*port).unwrap(),
        name: String::new(),
        node_port: None,
    };
    ports.iter().map(listener).collect()
}

fn mk_desired(ports: &[(Protocol, u16)], nodes: &[u8]) -> LoadBalancer {
    LoadBalancer {
        health_check: HealthCheck::node_proxy(),
        ..LoadBalancer::plain(
            Owner {
                cluster: "cluster-1".parse().unwrap(),
                service: "uid-1".parse().unwrap(),
                name: ServiceName::new("shop", "web").unwrap(),
            },
            mk_listeners(ports),
            Targets::Nodes(nodes.iter().map(|number| mk_node(*number)).collect()),
        )
    }
}

/// Does a step, as a cloud would that needs no time, but judges deletions by what was there `before` the plan: its
/// steps run side by side.
fn apply(before: &Observed, observed: &mut Observed, step: &Step, next: &mut u8) {
    match &step.call {
        Call::Insert { resource, otherwise: _ } | Call::Patch(resource) => {
            let mut resource = resource.clone();
            if let Resource::ForwardingRule(rule) = &mut resource
                && let AddressRef::Named(_) = rule.address
            {
                rule.address = AddressRef::Ip(NAMED.into());
            }
            if let Resource::Address(address) = &mut resource
                && address.ip.is_none()
            {
                *next += 1;
                let external = address.scheme == Scheme::External;
                let ip = if external { [198, 51, 100, *next] } else { [10, 9, 9, *next] };
                let prefix = if external { 0x2600_1900 } else { 0xfd20_0000_u128 };
                address.ip = Some(match address.family {
                    IpFamily::IPv4 => Ipv4Addr::from(ip).into(),
                    IpFamily::IPv6 => Ipv6Addr::from_bits(prefix << 96 | u128::from(*next) << 32).into(),
                });
            }
            if resource.id().kind.is_group() {
                observed.endpoints.entry(resource.id()).or_default();
            }
            observed.resources.insert(resource.id(), resource);
        }
        Call::Delete(id) => {
            // By the paper cloud's own eyes: the planner's might be what is wrong.
            assert!(
                before.rules().all(|rule| rule.backend_service != id.name),
                "{step} while a rule uses it"
            );
            let used = |it: &BackendService| {
                it.health_check == id.name
                    || it.groups.iter().any(|(zone, name)| (Some(zone), name) == (id.zone.as_ref(), &id.name))
            };
            assert!(!before.services().any(used), "{step} while a backend service uses it");
            observed.resources.remove(id);
            observed.endpoints.remove(id);
        }
        Call::Attach { group, endpoints } => {
            let group = Arc::make_mut(observed.endpoints.entry(group.clone()).or_default());
            group.extend(endpoints.iter().cloned().map(|endpoint: Endpoint| (endpoint, Seen::default())));
        }
        Call::Detach { group, endpoints } => {
            let group = Arc::make_mut(observed.endpoints.entry(group.clone()).or_default());
            group.retain(|endpoint, _| !endpoints.contains(endpoint));
        }
    }
}

/// All plans until nothing is left to do, as text; the status follows the report.
fn carry_out(desired: &mut LoadBalancer, observed: &mut Observed, next: &mut u8) -> String {
    carry_out_watched(&mk_config(), desired, observed, next, |_, _| {})
}

/// The same, with a look at what is there after every step, and at what the status shows.
fn carry_out_watched(
    config: &Config,
    desired: &mut LoadBalancer,
    observed: &mut Observed,
    next: &mut u8,
    mut check: impl FnMut(&LoadBalancer, &Observed),
) -> String {
    let mut text = String::new();
    for _ in 0..30 {
        let report = crate::report::report(desired, Some(observed), config);
        desired.published = report.ingress.into_iter().map(|it| it.address).collect();
        let plan = plan(Desired::Present(desired), Some(observed), config);
        assert!(plan.additive_first(), "{plan}");
        if plan.steps().is_empty() && plan.waiting().is_none() {
            return text;
        }
        text += &plan.to_string();
        text += "\n--\n";
        let before = observed.clone();
        for planned in plan.steps() {
            apply(&before, observed, &planned.step, next);
            check(desired, observed);
        }
    }
    unreachable!("never settles:\n{text}")
}

/// The paper cloud's address of every name.
const NAMED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);

const TCP80: (Protocol, u16) = (Protocol::Tcp, 80);
const UDP53: (Protocol, u16) = (Protocol::Udp, 53);

#[test]
fn creating_lays_foundations_then_targets_then_frontends() {
    let (mut observed, mut next) = (Observed::default(), 0);
    let text = carry_out(&mut mk_desired(&[TCP80, UDP53], &[1, 2]), &mut observed, &mut next);
    let golden = include_str!("golden/create.txt");
    assert_eq!(text, golden, "\n{text}");
}

#[test]
fn another_scheme_waits_for_consent_and_then_makes_the_new_before_the_old_goes() {
    let (mut observed, mut next) = (Observed::default(), 0);
    let mut desired = mk_desired(&[TCP80], &[1, 2]);
    carry_out(&mut desired, &mut observed, &mut next);
    desired.scheme = Scheme::Internal;
    let blocked = plan(Desired::Present(&desired), Some(&observed), &mk_config()).to_string();
    assert!(blocked.starts_with("blocked by scheme: ReplacementRequired"), "{blocked}");
    desired.replacement = Replacement::Allowed;
    let text = carry_out(&mut desired, &mut observed, &mut next);
    let golden = include_str!("golden/replace.txt");
    assert_eq!(text, golden, "\n{text}");
}

#[test]
fn a_port_more_and_a_port_less_interrupt_no_other() {
    let (mut observed, mut next) = (Observed::default(), 0);
    let mut desired = mk_desired(&[TCP80, (Protocol::Tcp, 81)], &[1]);
    carry_out(&mut desired, &mut observed, &mut next);
    desired.listeners = mk_listeners(&[TCP80, (Protocol::Tcp, 82)]);
    let text = carry_out(&mut desired, &mut observed, &mut next);
    assert!(!text.contains("delete forwarding rule"), "{text}");
    assert!(text.contains("for TCP 82"), "{text}");
}

#[test]
fn more_than_five_ports_need_no_list() {
    let many = |protocol| (1..=6u16).map(move |port| (protocol, port));
    let forwards = |ports: Vec<(Protocol, u16)>| {
        let (mut observed, mut next) = (Observed::default(), 0);
        carry_out(&mut mk_desired(&ports, &[1]), &mut observed, &mut next);
        observed.rules().map(|rule| rule.forwards.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(forwards(many(Protocol::Tcp).chain([UDP53]).collect()), ["TCP, all ports", "UDP 53"]);
    assert_eq!(forwards(many(Protocol::Tcp).chain(many(Protocol::Udp)).collect()), ["L3_DEFAULT"]);
}

#[test]
fn writing_down_the_address_one_has_changes_nothing() {
    let (mut observed, mut next) = (Observed::default(), 0);
    let mut desired = mk_desired(&[TCP80], &[1]);
    carry_out(&mut desired, &mut observed, &mut next);
    desired.requested_addresses = desired.published_ips();
    let plan = plan(Desired::Present(&desired), Some(&observed), &mk_config());
    assert!(plan.is_settled(), "{plan}");
}

fn mk_any() -> impl Strategy<Value = LoadBalancer> {
    let ports = proptest::collection::btree_set((0..2u8, 1..9u16), 1..14);
    let nodes = proptest::collection::btree_set(1..9u8, 0..6);
    let sources = proptest::collection::btree_set(1..4u8, 0..3);
    (ports, nodes, sources, any::<[bool; 4]>()).prop_map(|(ports, nodes, sources, flags)| {
        let protocol = |it| if it == 0 { Protocol::Tcp } else { Protocol::Udp };
        let ports: Vec<_> = ports.into_iter().map(|(it, port)| (protocol(it), port)).collect();
        let nodes: Vec<u8> = nodes.into_iter().collect();
        let mut desired = mk_desired(&ports, &nodes);
        desired.source_ranges =
            sources.into_iter().filter_map(|it| format!("192.0.{it}.0/24").parse().ok()).collect();
        let [internal, consent, deny, affinity] = flags;
        desired.scheme = if internal { Scheme::Internal } else { Scheme::External };
        desired.replacement = if consent { Replacement::Allowed } else { Replacement::NeedsConsent };
        let options = BTreeMap::from([("portico.dev/gce-deny-firewall".to_owned(), deny.to_string())]);
        desired.options = options.into_iter().collect();
        if affinity {
            desired.session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_mins(1) };
        }
        desired
    })
}

mod matrix;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_sequence_of_changes_settles_serves_every_port_and_deletes_to_nothing(
        changes in proptest::collection::vec(mk_any(), 1..5),
    ) {
        let (mut observed, mut next) = (Observed::default(), 0);
        for mut desired in changes {
            carry_out(&mut desired, &mut observed, &mut next);
            let frontends = existing_frontends(&observed);
            prop_assert_eq!(frontends.len(), 1);
            for listener in &desired.listeners {
                let served = |rule: &&crate::resource::ForwardingRule| {
                    rule.forwards.covers(listener.protocol, listener.port.get())
                };
                prop_assert!(frontends[0].rules.iter().any(served), "{:?}", listener);
            }
            let rules: Vec<_> = observed.rules().map(|rule| &rule.address).collect();
            prop_assert!(rules.iter().all(|it| **it == AddressRef::Ip(frontends[0].ip)));
        }
        let owner = mk_desired(&[TCP80], &[]).owner;
        for _ in 0..10 {
            let plan = plan(Desired::Absent(&owner), Some(&observed), &mk_config());
            let before = observed.clone();
            for planned in plan.steps() {
                apply(&before, &mut observed, &planned.step, &mut next);
            }
        }
        prop_assert!(observed.is_empty(), "{:?}", observed);
    }
}
