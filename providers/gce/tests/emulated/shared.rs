//! Instance groups, which all Services of a cluster share.
//!
//! Owns: who makes them, who fills them, who takes them away, and who may have their nodes. Leaves to others: crashes
//! (`crash`). Invariant: the emulator lets an instance be in one load-balanced instance group only.

use portico_provider::{Desired, LoadBalancer, LoadBalancerProvider, Look, ProviderError, Targets, contract};
use portico_provider_gce::Backends;
use serde_json::Value;

use crate::emulator::{Emulator, REGION, is_write};
use crate::world::{GceWorld, Provider, mk_nodes, round, settle};

fn groups(world: &GceWorld) -> usize {
    world.emulator.of("instanceGroups").len()
}

async fn is_gone(provider: &Provider, desired: &LoadBalancer) -> bool {
    provider.observe(&desired.owner, Look::Fresh).await.unwrap().is_none()
}

#[tokio::test]
async fn with_instance_groups_the_provider_keeps_every_promise_of_the_contract() {
    let Some(emulator) = Emulator::start() else { return };
    let world = GceWorld::sharing(emulator).await;
    let foreign = world.emulator.foreign();
    Box::pin(contract::run(&world)).await.unwrap();
    assert_eq!(world.emulator.foreign(), foreign, "somebody else's resources were touched");
    world.emulator.assert_no_violations();
}

#[tokio::test]
async fn services_share_one_group_a_zone_and_a_node_costs_one_call_for_all_of_them() {
    let Some(emulator) = Emulator::start() else { return };
    let world = GceWorld::sharing(emulator).await;
    let mut all = ["one", "two", "three"].map(|name| world.desired(name));
    all[2].scheme = portico_provider::Scheme::Internal;
    let provider = world.one(&all[0].owner.cluster);
    let mut to = async |nodes: Targets| {
        world.emulator.news();
        for desired in &mut all {
            desired.targets = nodes.clone();
            settle(&provider, Desired::Present(desired)).await.unwrap();
        }
        let mut calls = world.emulator.news();
        calls.retain(|line| is_write(line));
        calls.iter().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    to(mk_nodes(&[0, 2])).await;
    assert_eq!(groups(&world), 2);
    let services = world.emulator.of("backendServices");
    let groups_of = |service: &Value| service["backends"].as_array().unwrap().len();
    assert_eq!(services.iter().map(groups_of).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(world.emulator.of("networkEndpointGroups").len(), 0);
    assert_eq!(to(mk_nodes(&[0, 1, 2])).await, ["compute.instanceGroups.addInstances"]);
    assert_eq!(to(mk_nodes(&[1, 2])).await, ["compute.instanceGroups.removeInstances"]);
    // A restart reads what is in the groups once, and finds nothing to do.
    world.emulator.news();
    let fresh = world.one(&all[0].owner.cluster);
    let inventory = fresh.inventory().await.unwrap();
    let reads = world.emulator.news();
    assert!(reads.len() <= 12, "{reads:?}");
    for desired in &all {
        let observed = &inventory.services[&desired.owner.service].observed;
        let plan = fresh.plan(Desired::Present(desired), Some(observed));
        assert!(plan.is_settled(), "{plan}");
    }
    for (number, desired) in all.iter().enumerate() {
        assert_eq!(groups(&world), 2, "before {number}");
        settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
        assert!(is_gone(&provider, desired).await);
    }
    assert_eq!(world.emulator.ours(""), Vec::<String>::new(), "whoever goes last takes them along");
    world.emulator.assert_no_violations();
}

#[tokio::test]
async fn whoever_goes_while_others_go_or_come_leaves_nothing_and_takes_nothing() {
    let Some(emulator) = Emulator::start() else { return };
    let world = GceWorld::sharing(emulator).await;
    let [one, two, new] = ["one", "two", "new"].map(|name| world.desired(name));
    let provider = world.one(&one.owner.cluster);
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
    let observed = provider.observe(&new.owner, Look::Fresh).await.unwrap();
    assert!(provider.report(&coming, observed.as_ref()).ready && groups(&world) == 2);
    // And the last two at once.
    settle(&provider, Desired::Present(&one)).await.unwrap();
    for _ in 0..30 {
        for desired in [&one, &new] {
            round(&provider, Desired::Absent(&desired.owner)).await.unwrap();
        }
    }
    assert!(is_gone(&provider, &one).await && is_gone(&provider, &new).await);
    assert_eq!(world.emulator.ours(""), Vec::<String>::new());
    world.emulator.assert_no_violations();
}

#[tokio::test]
async fn nodes_that_are_in_another_controllers_group_are_told_with_the_remedy() {
    let Some(emulator) = Emulator::start() else { return };
    let world = GceWorld::sharing(emulator).await;
    let zone = format!("{REGION}-b");
    world.emulator.insert(&format!("zones/{zone}/instanceGroups"), r#"{"name": "k8s-ig--1234567890abcdef"}"#);
    world.emulator.settle();
    world.emulator.insert(
        &format!("zones/{zone}/instanceGroups/k8s-ig--1234567890abcdef/addInstances"),
        &format!(r#"{{"instances": [{{"instance": "zones/{zone}/instances/node-0"}}]}}"#),
    );
    world.emulator.settle();
    world.emulator.insert(
        &format!("regions/{REGION}/backendServices"),
        &format!(
            r#"{{"name": "k8s-be", "protocol": "TCP", "healthChecks": ["regions/{REGION}/healthChecks/k8s2-contract-created-hc"],
            "backends": [{{"group": "zones/{zone}/instanceGroups/k8s-ig--1234567890abcdef", "balancingMode": "CONNECTION"}}]}}"#
        ),
    );
    world.emulator.settle();
    let foreign = world.emulator.foreign();
    let desired = world.desired("refused");
    let provider = world.one(&desired.owner.cluster);
    let error = settle(&provider, Desired::Present(&desired)).await.unwrap_err();
    assert_eq!(error.reason(), "Conflict", "{error}");
    let told = error.to_string();
    assert!(
        told.contains("node-0") && told.contains("k8s-ig--") && told.contains("--gce-backends neg"),
        "{told}"
    );
    settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
    assert_eq!(world.emulator.ours(""), Vec::<String>::new());
    assert_eq!(world.emulator.foreign(), foreign);
    world.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_load_balancer_keeps_what_it_was_made_with_and_takes_it_along_whatever_the_flag_says_later() {
    let Some(emulator) = Emulator::start() else { return };
    let mut world = GceWorld::sharing(emulator).await;
    let mut old = world.desired("old");
    settle(&world.one(&old.owner.cluster), Desired::Present(&old)).await.unwrap();
    world.backends = Backends::EndpointGroups;
    let new = world.desired("new");
    let provider = world.one(&old.owner.cluster);
    provider.inventory().await.unwrap();
    settle(&provider, Desired::Present(&new)).await.unwrap();
    old.targets = mk_nodes(&[1, 2]);
    settle(&provider, Desired::Present(&old)).await.unwrap();
    assert_eq!((groups(&world), world.emulator.of("networkEndpointGroups").len()), (2, 2));
    settle(&provider, Desired::Absent(&old.owner)).await.unwrap();
    assert_eq!((groups(&world), world.emulator.of("networkEndpointGroups").len()), (0, 2));
    settle(&provider, Desired::Absent(&new.owner)).await.unwrap();
    assert_eq!(world.emulator.ours(""), Vec::<String>::new());
}

#[tokio::test]
async fn a_zone_that_one_service_has_left_keeps_its_group_for_as_long_as_another_has_it() {
    let Some(emulator) = Emulator::start() else { return };
    let world = GceWorld::sharing(emulator).await;
    let [mut one, mut two] = ["one", "two"].map(|name| world.desired(name));
    let provider = world.one(&one.owner.cluster);
    for desired in [&one, &two] {
        settle(&provider, Desired::Present(desired)).await.unwrap();
    }
    // The last node of a zone has gone, and only one of them has been planned since.
    for (desired, left) in [(&mut one, 2), (&mut two, 1)] {
        desired.targets = mk_nodes(&[0, 1]);
        settle(&provider, Desired::Present(desired)).await.unwrap();
        assert_eq!(groups(&world), left);
    }
    world.emulator.assert_no_violations();
}

#[tokio::test]
async fn groups_that_a_newcomer_is_about_to_have_stay_whoever_goes_or_has_no_node_there() {
    let Some(emulator) = Emulator::start() else { return };
    let mut world = GceWorld::sharing(emulator).await;
    let [one, new, mut other] = ["one", "new", "other"].map(|name| world.desired(name));
    settle(&world.one(&one.owner.cluster), Desired::Present(&one)).await.unwrap();
    // Its first calls are made, and none of them refers to the groups yet.
    round(&world.one(&one.owner.cluster), Desired::Present(&new)).await.unwrap();
    world.emulator.settle();
    settle(&world.one(&one.owner.cluster), Desired::Absent(&one.owner)).await.unwrap();
    assert_eq!(groups(&world), 2, "who referred to them last is gone");
    world.backends = Backends::EndpointGroups;
    other.targets = mk_nodes(&[0]);
    let provider = world.one(&one.owner.cluster);
    provider.inventory().await.unwrap();
    settle(&provider, Desired::Present(&other)).await.unwrap();
    assert_eq!(groups(&world), 2, "who needs none has no say in them");
    world.emulator.assert_no_violations();
}

#[tokio::test]
async fn groups_that_nobody_has_are_shown_as_their_makers_so_that_they_can_be_collected() {
    let Some(emulator) = Emulator::start() else { return };
    let mut world = GceWorld::sharing(emulator).await;
    let desired = world.desired("vanished");
    settle(&world.one(&desired.owner.cluster), Desired::Present(&desired)).await.unwrap();
    world.emulator.forget_all_but("/instanceGroups/");
    world.backends = Backends::EndpointGroups;
    let provider = world.one(&desired.owner.cluster);
    let inventory = provider.inventory().await.unwrap();
    assert_eq!(inventory.services.keys().collect::<Vec<_>>(), [&desired.owner.service]);
    settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
    assert!(provider.inventory().await.unwrap().services.is_empty());
    assert_eq!(world.emulator.ours(""), Vec::<String>::new());
}
