//! What is told of nodes' health, and what it costs to know.
//!
//! Owns: who asks `getHealth`, and what becomes of the answer. Leaves to others: the words (`report/health`, on paper).
//! Invariant: it is asked only in looks at what the cloud does, and only where a group's own list leaves a question.

use std::collections::BTreeMap;

use portico_provider::{
    Desired, ExternalTrafficPolicy, HealthCheck, IpFamily, LoadBalancer, LoadBalancerProvider, Port,
    ReadMode, Topic,
};

use crate::emulator::Emulator;
use crate::fixture::{GceFixture, Provider, settle};

/// What is said, and how many calls of `getHealth` it took.
async fn reported(
    fixture: &GceFixture,
    provider: &Provider,
    desired: &LoadBalancer,
    read_mode: ReadMode,
) -> (String, usize) {
    let before = fixture.emulator.log().len();
    let observed = provider.observe(&desired.owner, read_mode).await.unwrap();
    let report = provider.report(desired, observed.as_ref());
    let fact = report.facts.into_iter().find(|fact| fact.topic == Topic::TargetsHealthy).unwrap();
    let calls = fixture.emulator.log().split_off(before);
    let asked =
        calls.iter().filter(|line| line.starts_with("compute.regionBackendServices.getHealth ")).count();
    (format!("{}: {}", fact.reason, fact.message), asked)
}

#[tokio::test]
async fn a_backend_service_is_asked_only_where_the_groups_do_not_say_that_all_is_well() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let desired = fixture.desired("well");
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let all = "TargetsHealthy: 3 of 3 nodes pass their health check".to_owned();
    assert_eq!(reported(&fixture, &provider, &desired, ReadMode::Full).await, (all.clone(), 0));
    fixture.emulator.hook("health", Some(r#"{"unlisted": "true"}"#));
    assert_eq!(
        reported(&fixture, &provider, &desired, ReadMode::Pending).await,
        (all.clone(), 2),
        "one for each zone"
    );
    assert_eq!(
        reported(&fixture, &provider, &desired, ReadMode::Cached).await,
        (all, 0),
        "nobody wants to know more"
    );
    let none = "NotProbedYet: 0 of 3 nodes pass their health check".to_owned();
    assert_eq!(reported(&fixture, &provider, &desired, ReadMode::Verify).await, (none, 0), "nor for this");
    let sick = r#"{"unlisted": "", "node-0": "UNHEALTHY"}"#;
    fixture.emulator.hook("health", Some(sick));
    let two = "TargetsHealthy: 2 of 3 nodes pass their health check".to_owned();
    assert_eq!(
        reported(&fixture, &provider, &desired, ReadMode::Pending).await,
        (two, 1),
        "of the zone that is not well"
    );
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn of_instances_the_backend_service_tells_and_a_snapshot_nothing() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::sharing(emulator).await;
    let desired = fixture.desired("instances");
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    fixture.emulator.hook("health", Some(r#"{"node-1": "UNHEALTHY"}"#));
    let two = "TargetsHealthy: 2 of 3 nodes pass their health check".to_owned();
    assert_eq!(
        reported(&fixture, &provider, &desired, ReadMode::Cached).await,
        (two, 2),
        "nothing else would tell"
    );
    let inventory = provider.inventory().await.unwrap();
    let report = provider.report(&desired, Some(&inventory.services[&desired.owner.service].observed));
    assert!(report.facts.iter().all(|fact| fact.topic != Topic::TargetsHealthy), "{report:?}");
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn both_families_and_the_weights_that_google_reads_are_told() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let weighted = ("networking.gke.io/weighted-load-balancing".to_owned(), "pods-per-node".to_owned());
    let desired = LoadBalancer {
        ip_families: vec![IpFamily::IPv4, IpFamily::IPv6],
        external_traffic_policy: ExternalTrafficPolicy::Local,
        health_check: Some(HealthCheck::local_endpoints(Port::try_from(31_000).unwrap())),
        options: BTreeMap::from([weighted]).into_iter().collect(),
        ..fixture.desired("weighed")
    };
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let health = r#"{"node-1/6": "UNHEALTHY", "node-0/weight": "4", "node-2/weight": "MISSING_WEIGHT"}"#;
    fixture.emulator.hook("health", Some(health));
    let (said, asked) = reported(&fixture, &provider, &desired, ReadMode::Full).await;
    assert_eq!(asked, 2);
    assert_eq!(
        said,
        "TargetsHealthy: 3 of 3 nodes over IPv4 and 2 of 3 nodes over IPv6 pass their health check; Google reads weights \
         of 2 nodes, 5 in all, and none of node-2 (MISSING_WEIGHT)"
    );
    fixture.emulator.assert_no_violations();
}
