//! Nodes that are not as their Node objects say: one of them must not keep the others out.
//!
//! Owns: what Google's refusals come to on the wire. Leaves to others: when a node is offered again (`refused`, on paper).
//! Invariant: the emulator takes all endpoints of a call or none, in Google's words.

use std::collections::BTreeSet;

use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, NodeName, NodeTarget, ReadMode, Targets, Topic,
};

use crate::emulator::{Emulator, PROJECT, REGION};
use crate::fixture::{GceFixture, Provider, mk_nodes, round};

/// A Node that says of itself to be this instance, at this address.
pub(crate) fn mk_claim(name: &str, zone: &str, last: u8) -> NodeTarget {
    NodeTarget {
        name: NodeName(name.to_owned()),
        addresses: BTreeSet::from([[10, 128, 0, last].into()]),
        external_addresses: BTreeSet::new(),
        provider_id: Some(format!("gce://{PROJECT}/{zone}/{name}")),
        zone: Some(zone.to_owned()),
        has_ready_endpoints: true,
    }
}

pub(crate) fn with(targets: Targets, more: &[NodeTarget]) -> Targets {
    let Targets::Nodes(mut nodes) = targets else { return targets };
    nodes.extend(more.iter().cloned());
    Targets::Nodes(nodes)
}

/// Goes on until only nodes that were refused are waited for.
async fn serve(provider: &Provider, desired: &LoadBalancer) {
    let mut now = desired.clone();
    for _ in 0..40 {
        let (_, next) = round(provider, Desired::Present(&now)).await.unwrap();
        now = next.unwrap();
        let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
        let plan = provider.plan(Desired::Present(&now), observed.as_ref());
        let waits_for_nodes =
            plan.waiting().is_none_or(|waiting| waiting.what.contains("Google to take node"));
        if plan.steps().is_empty() && waits_for_nodes {
            return;
        }
    }
    unreachable!("does not come to rest");
}

/// The instances behind it, and what is said of those that are not.
async fn seen(provider: &Provider, desired: &LoadBalancer) -> (BTreeSet<String>, Option<String>) {
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap().unwrap();
    let report = provider.report(desired, Some(&observed));
    assert!(report.ready && report.ingress.len() == 1, "{report:?}");
    let refused = report.facts.into_iter().find(|fact| fact.topic == Topic::TargetsAccepted);
    let nodes =
        observed.endpoints.values().flat_map(|group| group.keys()).map(|endpoint| endpoint.instance.clone());
    (nodes.collect(), refused.map(|fact| fact.message))
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn nodes_that_google_refuses_keep_nobody_else_out_and_are_told_by_name() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let zone = |letter| format!("{REGION}-{letter}");
    let b = zone("b");
    let elsewhere = format!(
        r#"{{"name": "other-network", "machineType": "zones/{b}/machineTypes/e2-small", "networkInterfaces":
        [{{"network": "global/networks/other", "networkIP": "10.128.0.40"}}]}}"#
    );
    fixture.emulator.insert(&format!("zones/{b}/instances"), &elsewhere);
    let mut desired = fixture.desired("unfit");
    let unfit = [
        mk_claim("node-0", &b, 77),
        mk_claim("gone", &b, 30),
        mk_claim("node-1", &zone("c"), 3),
        mk_claim("other-network", &b, 40),
        mk_claim("far", "us-east1-b", 9),
    ];
    desired.targets = with(mk_nodes(&[1, 2]), &unfit);
    let provider = fixture.one(&desired.owner.cluster);
    serve(&provider, &desired).await;
    let (nodes, reported) = seen(&provider, &desired).await;
    assert_eq!(nodes, names(&["node-1", "node-2"]));
    let reported = reported.unwrap();
    assert!(reported.starts_with("5 nodes cannot be taken") && reported.contains("providerID"), "{reported}");
    assert!(reported.contains("node-0 in europe-west1-b at 10.128.0.77 (Invalid value"), "{reported}");

    // Nobody offers them again before their time: neither this Service nor another, which has heard of them.
    let attempts =
        || fixture.emulator.log().iter().filter(|it| it.contains(".attachNetworkEndpoints ")).count();
    let before = attempts();
    for _ in 0..5 {
        serve(&provider, &desired).await;
    }
    assert_eq!(attempts(), before);
    let other = LoadBalancer { targets: desired.targets.clone(), ..fixture.desired("unfit-too") };
    serve(&provider, &other).await;
    assert_eq!(attempts(), before + 2, "one for each zone");
    let (nodes, reported) = seen(&provider, &other).await;
    assert!(nodes == names(&["node-1", "node-2"]) && reported.is_some());

    // What is written down is what is in the groups: a restart with the nodes as they are reads no group and has no invalidate.
    let fit = LoadBalancer { targets: mk_nodes(&[1, 2]), ..desired.clone() };
    let inventory = fixture.one(&desired.owner.cluster).inventory().await.unwrap();
    let observed = &inventory.services[&desired.owner.service].observed;
    let plan = provider.plan(Desired::Present(&fit), Some(observed));
    assert!(plan.is_settled(), "{plan}");
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_node_that_was_refused_is_taken_when_it_is_put_right_and_the_old_stay_while_no_new_one_fits() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let zone = format!("{REGION}-b");
    let mut desired = fixture.desired("righted");
    desired.targets = mk_nodes(&[0]);
    let provider = fixture.one(&desired.owner.cluster);
    serve(&provider, &desired).await;
    let new = mk_claim("new", &zone, 50);
    desired.targets = Targets::Nodes(BTreeSet::from([new.clone()]));
    serve(&provider, &desired).await;
    assert_eq!(seen(&provider, &desired).await.0, names(&["node-0"]), "whoever is to follow is not there");
    let body = format!(
        r#"{{"name": "new", "machineType": "zones/{zone}/machineTypes/e2-small", "networkInterfaces":
        [{{"network": "global/networks/default", "networkIP": "10.128.0.50"}}]}}"#
    );
    fixture.emulator.insert(&format!("zones/{zone}/instances"), &body);
    // Another process has not heard of it, as this one would not have in an hour.
    let provider = fixture.one(&desired.owner.cluster);
    serve(&provider, &desired).await;
    assert_eq!(seen(&provider, &desired).await, (names(&["new"]), None));
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_node_that_an_operation_fails_on_is_refused_too() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let fault = r#"{"match": "attachNetworkEndpoints", "code": "INVALID_USAGE", "http": 400,
        "message": "Specified IP address 10.128.0.2 doesn't belong to the instance node-0."}"#;
    fixture.emulator.hook("fault", Some(fault));
    let desired = fixture.desired("late");
    let provider = fixture.one(&desired.owner.cluster);
    serve(&provider, &desired).await;
    let (nodes, reported) = seen(&provider, &desired).await;
    assert_eq!(nodes, names(&["node-1", "node-2"]));
    assert!(reported.is_some_and(|reported| reported.contains("node-0")));
}

#[tokio::test]
async fn an_operation_that_fails_and_names_nobody_is_split_down_to_the_one_that_it_fails_on() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let fault = r#"{"match": "attachNetworkEndpoints", "body": "\"node-0\"", "code": "INVALID_USAGE", "http": 400,
        "message": "no", "times": 99}"#;
    fixture.emulator.hook("fault", Some(fault));
    let desired = fixture.desired("silent");
    let provider = fixture.one(&desired.owner.cluster);
    serve(&provider, &desired).await;
    let (nodes, reported) = seen(&provider, &desired).await;
    assert_eq!(nodes, names(&["node-1", "node-2"]));
    assert!(reported.is_some_and(
        |reported| reported.starts_with("1 nodes cannot be taken") && reported.contains("node-0")
    ));
}

/// Every call that changes something, but for those that move nodes.
const OTHERS: &str = "(insert|delete|update|patch)$";

/// Targets alone, as often as it takes; errors stop nothing.
async fn move_nodes(fixture: &GceFixture, desired: &LoadBalancer) {
    let provider = fixture.one(&desired.owner.cluster);
    for _ in 0..10 {
        let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap().unwrap();
        for planned in provider.plan_targets(&desired.backends(), &observed).steps() {
            drop(provider.execute(&planned.step).await);
        }
    }
}

#[tokio::test]
async fn nodes_come_and_go_whatever_else_fails_for_ever_or_never_ends() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut desired = fixture.desired("stuck");
    let provider = fixture.one(&desired.owner.cluster);
    serve(&provider, &desired).await;
    // The backend service has an operation that does not end, and later nothing but nodes can be changed at all.
    let service = fixture.emulator.of("backendServices")[0]["name"].as_str().unwrap().to_owned();
    fixture.emulator.hook("polls", Some("100000"));
    fixture.emulator.patch(&format!("regions/{REGION}/backendServices/{service}"), r#"{"timeoutSec": 31}"#);
    fixture.emulator.hook("polls", Some("1"));
    for (nodes, expected) in [(&[1, 2][..], ["node-1", "node-2"]), (&[0, 1], ["node-0", "node-1"])] {
        desired.targets = mk_nodes(nodes);
        move_nodes(&fixture, &desired).await;
        let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap().unwrap();
        let present = observed.endpoints.values().flat_map(|group| group.keys());
        assert_eq!(present.map(|it| it.instance.clone()).collect::<BTreeSet<_>>(), names(&expected));
        let fault = format!(r#"{{"match": "{OTHERS}", "status": 403, "reason": "forbidden", "times": 999}}"#);
        fixture.emulator.hook("fault", Some(&fault));
    }
}
