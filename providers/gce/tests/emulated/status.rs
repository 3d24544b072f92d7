//! What the status says of an address and of each port, while a load balancer is made and after somebody changed it.
//!
//! Owns: when an address is published, errors of ports, a drift that a listing shows. Leaves to others: words on health.
//! Invariant: the emulator's state is what is true.

use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, Outcome, Protocol, ReadMode, Report, Topic,
};
use portico_provider_gce::resource::Kind;

use crate::emulator::{Emulator, is_write};
use crate::fixture::{GceFixture, Provider, attempt, mk_listener, settle};

fn errors(report: &Report) -> Vec<String> {
    let ports = report.ingress.iter().flat_map(|it| &it.ports);
    ports.filter_map(|port| Some(format!("{} {}", port.listener, port.error.clone()?))).collect()
}

/// One look and its steps; the report of the look.
async fn pass(provider: &Provider, desired: &mut LoadBalancer) -> (Report, bool) {
    let observed = provider.observe_for(Desired::Present(desired), ReadMode::Cached).await.unwrap();
    let report = provider.report(desired, observed.as_ref());
    desired.published = report.ingress.iter().map(|it| it.address.clone()).collect();
    let plan = provider.plan(Desired::Present(desired), observed.as_ref());
    for planned in plan.steps() {
        if let Outcome::InProgress { .. } = provider.execute(&planned.step).await.unwrap() {
            break;
        }
    }
    (report, plan.steps().is_empty() && plan.waiting().is_none())
}

#[tokio::test]
async fn the_address_shows_as_soon_as_a_rule_is_accepted_and_nobody_is_warned_of_what_is_still_to_come() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    fixture.emulator.hook("polls", Some("5"));
    let mut desired = fixture.desired("early");
    let provider = fixture.one(&desired.owner.cluster);
    let mut shown_after = None;
    for number in 0..200 {
        let (report, settled) = pass(&provider, &mut desired).await;
        let rules = fixture.emulator.of("forwardingRules").len();
        assert!(report.ingress.is_empty() || rules > 0, "nothing listens there");
        let warned = report.facts.iter().find(|fact| fact.reason == "NoTargets");
        assert!(warned.is_none(), "pass {number}: {warned:?}");
        if !report.ingress.is_empty() && shown_after.is_none() {
            shown_after = Some(number);
            assert!(!report.ready, "it is not done yet: {report:?}");
        }
        assert!(!report.ready || errors(&report).is_empty(), "{report:?}");
        if settled {
            assert!(report.ready, "{report:?}");
            assert!(shown_after.is_some_and(|shown| shown + 5 < number), "{shown_after:?} of {number}");
            return;
        }
    }
    unreachable!("does not settle");
}

#[tokio::test]
async fn a_port_that_nothing_reaches_has_an_error_and_is_named() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut desired = fixture.desired("ports");
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    // The rule for another port cannot be made.
    desired.listeners.insert(mk_listener(Protocol::Tcp, 443));
    fixture.emulator.hook("quota", Some(r#"{"forwardingRules": 2}"#));
    settle(&provider, Desired::Present(&desired)).await.unwrap_err();
    fixture.emulator.settle();
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
    let report = provider.report(&desired, observed.as_ref());
    assert_eq!(errors(&report), ["TCP/443 portico.dev/NotForwarded"]);
    assert!(!report.ready && report.facts[0].message.contains("nothing reaches TCP/443 yet"), "{report:?}");
    // Somebody disables the firewall: no port is reached, and it is put right.
    let firewall = observed
        .unwrap()
        .resources
        .into_keys()
        .find(|id| id.kind == Kind::Firewall && id.name.ends_with("-fw") && !id.name.ends_with("hc-fw"));
    let name = firewall.unwrap().name;
    let disabled = format!(r#"{{"name": "{name}", "disabled": true}}"#);
    fixture.emulator.patch(&format!("global/firewalls/{name}"), &disabled);
    fixture.emulator.settle();
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
    let report = provider.report(&desired, observed.as_ref());
    let shut = [
        "TCP/80 portico.dev/FirewallShut",
        "TCP/443 portico.dev/NotForwarded",
        "UDP/80 portico.dev/FirewallShut",
    ];
    assert_eq!(errors(&report), shut);
    fixture.emulator.hook("quota", Some(r#"{"forwardingRules": 99}"#));
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
    let report = provider.report(&desired, observed.as_ref());
    assert!(report.ready && errors(&report).is_empty(), "{report:?}");
    assert!(report.facts.iter().all(|fact| fact.topic != Topic::TargetsAccepted));
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_rule_that_somebody_deletes_is_noticed_by_the_next_listing_and_made_again() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let desired = fixture.desired("deleted");
    let provider = fixture.one(&desired.owner.cluster);
    attempt(&provider, &desired).await.unwrap();
    let rule = fixture.emulator.of("forwardingRules")[0]["name"].as_str().unwrap().to_owned();
    fixture.emulator.delete(&format!("regions/{}/forwardingRules/{rule}", crate::emulator::REGION));
    fixture.emulator.settle();
    let inventory = provider.inventory().await.unwrap();
    let listed = &inventory.services[&desired.owner.service].observed;
    let report = provider.report(&desired, Some(listed));
    assert!(!report.ready && errors(&report).len() == 1, "{report:?}");
    let before = fixture.emulator.log().len();
    attempt(&provider, &desired).await.unwrap();
    let writes = fixture.emulator.log().split_off(before).into_iter().filter(|line| is_write(line)).count();
    assert_eq!((fixture.emulator.of("forwardingRules").len(), writes), (2, 1));
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_firewall_that_somebody_opened_is_noticed_by_the_next_listing_and_shut_again() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let desired = fixture.desired("opened");
    let provider = fixture.one(&desired.owner.cluster);
    attempt(&provider, &desired).await.unwrap();
    let before = fixture.emulator.of("firewalls");
    let all: Vec<String> = before.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect();
    for name in &all {
        for allowed in [
            r#"[{"IPProtocol": "all"}]"#,
            r#"[{"IPProtocol": "tcp"}]"#,
            r#"[{"IPProtocol": "tcp", "ports": ["80", "1000-2000"]}, {"IPProtocol": "udp", "ports": ["80"]}]"#,
            r#"[{"IPProtocol": "tcp", "ports": ["80"]}, {"IPProtocol": "icmp"}]"#,
        ] {
            let body = format!(r#"{{"name": "{name}", "allowed": {allowed}}}"#);
            fixture.emulator.patch(&format!("global/firewalls/{name}"), &body);
            fixture.emulator.settle();
            let inventory = provider.inventory().await.unwrap();
            let listed = &inventory.services[&desired.owner.service].observed;
            let plan = provider.plan(Desired::Present(&desired), Some(listed));
            assert_eq!(plan.steps().len(), 1, "{name}, {allowed}: {plan}");
            attempt(&provider, &desired).await.unwrap();
            assert_eq!(fixture.emulator.of("firewalls"), before, "{name}, {allowed}");
        }
    }
    fixture.emulator.assert_no_violations();
}
