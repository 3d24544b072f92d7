//! Instance groups, which all Services of a cluster share.
//!
//! Owns: who makes them, who fills them, who takes them away, and who may have their nodes. Leaves to others: crashes
//! (`crash`). Invariant: the emulator lets an instance be in one load-balanced instance group only.

use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, ProviderError, ReadMode, Targets, contract,
};
use portico_provider_gce::Backends;
use serde_json::Value;

use crate::emulator::{Emulator, REGION, is_write};
use crate::fixture::{GceFixture, Provider, mk_nodes, round, settle};

fn groups(fixture: &GceFixture) -> usize {
    fixture.emulator.of("instanceGroups").len()
}

async fn is_gone(provider: &Provider, desired: &LoadBalancer) -> bool {
    provider.observe(&desired.owner, ReadMode::Full).await.unwrap().is_none()
}

#[tokio::test]
async fn with_instance_groups_the_provider_keeps_every_promise_of_the_contract() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::sharing(emulator).await;
    let foreign = fixture.emulator.foreign();
    Box::pin(contract::run(&fixture)).await.unwrap();
    assert_eq!(fixture.emulator.foreign(), foreign, "somebody else's resources were touched");
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn services_share_one_group_a_zone_and_a_node_costs_one_call_for_all_of_them() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::sharing(emulator).await;
    let mut all = ["one", "two", "three"].map(|name| fixture.desired(name));
    all[2].scheme = portico_provider::Scheme::Internal;
    let provider = fixture.one(&all[0].owner.cluster);
    let mut to = async |nodes: Targets| {
        fixture.emulator.news();
        for desired in &mut all {
            desired.targets = nodes.clone();
            settle(&provider, Desired::Present(desired)).await.unwrap();
        }
        let mut calls = fixture.emulator.news();
        calls.retain(|line| is_write(line));
        calls.iter().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    to(mk_nodes(&[0, 2])).await;
    assert_eq!(groups(&fixture), 2);
    let services = fixture.emulator.of("backendServices");
    let groups_of = |service: &Value| service["backends"].as_array().unwrap().len();
    assert_eq!(services.iter().map(groups_of).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(fixture.emulator.of("networkEndpointGroups").len(), 0);
    assert_eq!(to(mk_nodes(&[0, 1, 2])).await, ["compute.instanceGroups.addInstances"]);
    assert_eq!(to(mk_nodes(&[1, 2])).await, ["compute.instanceGroups.removeInstances"]);
    // A restart reads what is in the groups once, and finds nothing to do.
    fixture.emulator.news();
    let fresh = fixture.one(&all[0].owner.cluster);
    let inventory = fresh.inventory().await.unwrap();
    let reads = fixture.emulator.news();
    assert!(reads.len() <= 12, "{reads:?}");
    for desired in &all {
        let observed = &inventory.services[&desired.owner.service].observed;
        let plan = fresh.plan(Desired::Present(desired), Some(observed));
        assert!(plan.is_settled(), "{plan}");
    }
    for (number, desired) in all.iter().enumerate() {
        assert_eq!(groups(&fixture), 2, "before {number}");
        settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
        assert!(is_gone(&provider, desired).await);
    }
    assert_eq!(fixture.emulator.ours(""), Vec::<String>::new(), "whoever goes last takes them along");
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn whoever_goes_while_others_go_or_come_leaves_nothing_and_takes_nothing() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::sharing(emulator).await;
    let [one, two, new] = ["one", "two", "new"].map(|name| fixture.desired(name));
    let provider = fixture.one(&one.owner.cluster);
    for desired in [&one, &two] {
        settle(&provider, Desired::Present(desired)).await.unwrap();
    }
    // Two go and one comes, turn by turn.
    let mut coming = new.clone();
    for _ in 0..60 {
        for desired in [&one, &two] {
            round(&provider, Desired::Absent(&desired.owner)).await.unwrap();
        }
        match round(&provider, Desired::Present(&coming)).await {
            Ok((_, now)) => coming = now.unwrap(),
            // Its group went between two of its calls: that passes.
            Err(error) => assert!(matches!(error, ProviderError::Unavailable { .. }), "{error}"),
        }
    }
    assert!(is_gone(&provider, &one).await && is_gone(&provider, &two).await);
    let observed = provider.observe(&new.owner, ReadMode::Full).await.unwrap();
    assert!(provider.report(&coming, observed.as_ref()).ready && groups(&fixture) == 2);
    // And the last two at once.
    settle(&provider, Desired::Present(&one)).await.unwrap();
    for _ in 0..30 {
        for desired in [&one, &new] {
            round(&provider, Desired::Absent(&desired.owner)).await.unwrap();
        }
    }
    assert!(is_gone(&provider, &one).await && is_gone(&provider, &new).await);
    assert_eq!(fixture.emulator.ours(""), Vec::<String>::new());
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn nodes_that_are_in_another_controllers_group_are_told_with_the_remedy() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::sharing(emulator).await;
    let zone = format!("{REGION}-b");
    fixture
        .emulator
        .insert(&format!("zones/{zone}/instanceGroups"), r#"{"name": "k8s-ig--1234567890abcdef"}"#);
    fixture.emulator.settle();
    fixture.emulator.insert(
        &format!("zones/{zone}/instanceGroups/k8s-ig--1234567890abcdef/addInstances"),
        &format!(r#"{{"instances": [{{"instance": "zones/{zone}/instances/node-0"}}]}}"#),
    );
    fixture.emulator.settle();
    fixture.emulator.insert(
        &format!("regions/{REGION}/backendServices"),
        &format!(
            r#"{{"name": "k8s-be", "protocol": "TCP", "healthChecks": ["regions/{REGION}/healthChecks/k8s2-contract-created-hc"],
            "backends": [{{"group": "zones/{zone}/instanceGroups/k8s-ig--1234567890abcdef", "balancingMode": "CONNECTION"}}]}}"#
        ),
    );
    fixture.emulator.settle();
    let foreign = fixture.emulator.foreign();
    let desired = fixture.desired("refused");
    let provider = fixture.one(&desired.owner.cluster);
    let error = settle(&provider, Desired::Present(&desired)).await.unwrap_err();
    assert_eq!(error.reason(), "Conflict", "{error}");
    let reported = error.to_string();
    assert!(
        reported.contains("node-0")
            && reported.contains("k8s-ig--")
            && reported.contains("--gce-backends neg"),
        "{reported}"
    );
    settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
    assert_eq!(fixture.emulator.ours(""), Vec::<String>::new());
    assert_eq!(fixture.emulator.foreign(), foreign);
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_load_balancer_keeps_what_it_was_made_with_and_takes_it_along_whatever_the_flag_says_later() {
    let Some(emulator) = Emulator::start() else { return };
    let mut fixture = GceFixture::sharing(emulator).await;
    let mut old = fixture.desired("old");
    settle(&fixture.one(&old.owner.cluster), Desired::Present(&old)).await.unwrap();
    fixture.backends = Backends::EndpointGroups;
    let new = fixture.desired("new");
    let provider = fixture.one(&old.owner.cluster);
    provider.inventory().await.unwrap();
    settle(&provider, Desired::Present(&new)).await.unwrap();
    old.targets = mk_nodes(&[1, 2]);
    settle(&provider, Desired::Present(&old)).await.unwrap();
    assert_eq!((groups(&fixture), fixture.emulator.of("networkEndpointGroups").len()), (2, 2));
    settle(&provider, Desired::Absent(&old.owner)).await.unwrap();
    assert_eq!((groups(&fixture), fixture.emulator.of("networkEndpointGroups").len()), (0, 2));
    settle(&provider, Desired::Absent(&new.owner)).await.unwrap();
    assert_eq!(fixture.emulator.ours(""), Vec::<String>::new());
}

#[tokio::test]
async fn a_zone_that_one_service_has_left_keeps_its_group_for_as_long_as_another_has_it() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::sharing(emulator).await;
    let [mut one, mut two] = ["one", "two"].map(|name| fixture.desired(name));
    let provider = fixture.one(&one.owner.cluster);
    for desired in [&one, &two] {
        settle(&provider, Desired::Present(desired)).await.unwrap();
    }
    // The last node of a zone has gone, and only one of them has been planned since.
    for (desired, left) in [(&mut one, 2), (&mut two, 1)] {
        desired.targets = mk_nodes(&[0, 1]);
        settle(&provider, Desired::Present(desired)).await.unwrap();
        assert_eq!(groups(&fixture), left);
    }
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn groups_that_a_newcomer_is_about_to_have_stay_whoever_goes_or_has_no_node_there() {
    let Some(emulator) = Emulator::start() else { return };
    let mut fixture = GceFixture::sharing(emulator).await;
    let [one, new, mut other] = ["one", "new", "other"].map(|name| fixture.desired(name));
    settle(&fixture.one(&one.owner.cluster), Desired::Present(&one)).await.unwrap();
    // Its first calls are made, and none of them refers to the groups yet.
    round(&fixture.one(&one.owner.cluster), Desired::Present(&new)).await.unwrap();
    fixture.emulator.settle();
    settle(&fixture.one(&one.owner.cluster), Desired::Absent(&one.owner)).await.unwrap();
    assert_eq!(groups(&fixture), 2, "who referred to them last is gone");
    fixture.backends = Backends::EndpointGroups;
    other.targets = mk_nodes(&[0]);
    let provider = fixture.one(&one.owner.cluster);
    provider.inventory().await.unwrap();
    settle(&provider, Desired::Present(&other)).await.unwrap();
    assert_eq!(groups(&fixture), 2, "who needs none has no say in them");
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn groups_that_nobody_has_are_shown_as_their_makers_so_that_they_can_be_collected() {
    let Some(emulator) = Emulator::start() else { return };
    let mut fixture = GceFixture::sharing(emulator).await;
    let desired = fixture.desired("vanished");
    settle(&fixture.one(&desired.owner.cluster), Desired::Present(&desired)).await.unwrap();
    fixture.emulator.forget_all_but("/instanceGroups/");
    fixture.backends = Backends::EndpointGroups;
    let provider = fixture.one(&desired.owner.cluster);
    let inventory = provider.inventory().await.unwrap();
    assert_eq!(inventory.services.keys().collect::<Vec<_>>(), [&desired.owner.service]);
    settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
    assert!(provider.inventory().await.unwrap().services.is_empty());
    assert_eq!(fixture.emulator.ours(""), Vec::<String>::new());
}
