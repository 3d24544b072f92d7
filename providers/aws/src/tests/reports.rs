//! Reports, without a cloud: conditions, ports and the hostname of a view.
//!
//! Owns: what the status says. Leaves to others: what is planned (`plans`), what others put there (`foreign`).
//! Invariant: the view departs from what the Service asks by one thing.

use portico_provider::{LoadBalancer, Protocol, Scheme, Topic};

use super::plans::{mk_base, mk_view};
use super::{mk_listener, mk_options, mk_pods};
use crate::Quotas;
use crate::capabilities as key;
use crate::cloud::resources::{Health, LifeState};
use crate::observed::{Observed, View};
use crate::report::report;

#[test]
fn hairpin_traffic_that_cannot_pass_is_reported() {
    let message = |desired: &LoadBalancer| {
        let report = report(&Quotas::default(), desired, Some(&Observed::Full(mk_view(desired))));
        let mut facts = report.facts.into_iter();
        facts.find(|fact| fact.topic == Topic::ReachableFromTargets).map(|fact| fact.message)
    };
    let internal = LoadBalancer { scheme: Scheme::Internal, ..mk_base() };
    assert!(message(&internal).unwrap().contains("port 80"));
    assert_eq!(message(&mk_base()), None, "from outside, addresses are a gateway's");
    let off = mk_options(&[(key::GROUP_ATTRIBUTES, "preserve_client_ip.enabled=false")]);
    assert_eq!(message(&LoadBalancer { options: off, ..internal.clone() }), None);
    let pods = mk_pods(&["10.0.0.7"], &internal.listeners);
    assert_eq!(message(&LoadBalancer { targets: pods, ..internal }), None, "TCP to pods hides clients");
}

/// What the status says of the ports of this Service: `TargetsHealthy`, `Provisioned`, and each port's error.
fn reported(desired: &LoadBalancer, view: &View) -> (String, String, Vec<Option<String>>) {
    let report = report(&Quotas::default(), desired, Some(&Observed::Full(view.clone())));
    let of = |topic| {
        let fact = report.facts.iter().find(|fact| fact.topic == topic).unwrap();
        format!("{:?} {}: {}", fact.holds, fact.reason, fact.message)
    };
    let errors = report.ingress.iter().flat_map(|it| &it.ports).map(|port| port.error.clone()).collect();
    (of(Topic::TargetsHealthy), of(Topic::Provisioned), errors)
}

#[test]
fn each_port_is_reported_by_itself() {
    let mut desired = mk_base();
    desired.listeners.insert(mk_listener(Protocol::Tcp, 81));
    let whole = mk_view(&desired);
    let (healthy, provisioned, errors) = reported(&desired, &whole);
    assert_eq!(healthy, "True TargetsHealthy: 4 of 4 targets pass their health check");
    assert!(provisioned.starts_with("True Provisioned: serving at "), "{provisioned}");
    assert!(errors.is_empty(), "{errors:?}");
    let behind = |view: &View, port: u16| {
        let balancer = view.load_balancers.values().next().unwrap();
        balancer.listeners[&port].group.as_ref().unwrap().name().unwrap().to_owned()
    };
    let with = |health: Option<Health>| {
        let mut view = whole.clone();
        let targets = &mut view.target_groups.get_mut(&behind(&whole, 81)).unwrap().targets;
        match health {
            Some(health) => targets.values_mut().for_each(|it| *it = health.clone()),
            None => targets.clear(),
        }
        view
    };
    let table = [
        (
            Some(Health::Unhealthy),
            "False AllUnhealthy: 2 of 4",
            "serving at",
            Some("portico.dev/TargetsUnhealthy"),
        ),
        (
            Some(Health::Unused),
            "False TargetsUnused: 2 of 4",
            "but for TCP/81",
            Some("portico.dev/TargetsUnused"),
        ),
        (None, "False NoTargets: 2 of 2", "but for TCP/81", Some("portico.dev/NoTargets")),
        (Some(Health::Initial), "Unknown Registering: 2 of 4", "but for TCP/81", None),
    ];
    for (health, expected, where_, error) in table {
        let (healthy, provisioned, errors) = reported(&desired, &with(health.clone()));
        assert!(healthy.starts_with(expected) && healthy.contains("TCP/81"), "{health:?}: {healthy}");
        assert!(provisioned.starts_with("True") && provisioned.contains(where_), "{health:?}: {provisioned}");
        let expected: Vec<Option<String>> =
            error.map(|error| vec![None, Some(error.to_owned())]).unwrap_or_default();
        assert_eq!(errors, expected, "{health:?}");
    }
    let mut view = whole.clone();
    view.load_balancers.values_mut().next().unwrap().listeners.remove(&81);
    let (_, provisioned, errors) = reported(&desired, &view);
    assert!(
        provisioned.starts_with("False ListenersMissing") && provisioned.contains("TCP/81"),
        "{provisioned}"
    );
    assert_eq!(errors[1].as_deref(), Some("portico.dev/NoListener"));
    let report = report(&Quotas::default(), &desired, Some(&Observed::Full(view)));
    assert!(!report.ready && !report.ingress.is_empty(), "its address stays: {report:?}");
}

#[test]
fn the_hostname_is_published_as_soon_as_aws_returns_it_and_ready_when_it_serves() {
    let desired = mk_base();
    let mut view = mk_view(&desired);
    let balancer = view.load_balancers.values_mut().next().unwrap();
    balancer.described.state = LifeState::Provisioning;
    let hostname = balancer.described.hostname.clone();
    let of = |view: &View| report(&Quotas::default(), &desired, Some(&Observed::Full(view.clone())));
    let early = of(&view);
    assert!(!early.ready && early.ingress[0].address.to_string() == hostname, "{early:?}");
    assert!(early.facts[0].message.contains("when AWS says that it is active"), "{early:?}");
    view.load_balancers.values_mut().next().unwrap().described.state =
        LifeState::Failed("no room".to_owned());
    assert!(of(&view).ingress.is_empty() && !of(&view).ready);
}
