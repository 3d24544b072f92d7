//! Services that go up, change and go down, and what that costs.

use super::super::*;
use super::fixture::*;
use crate::testing::{mk_node, mk_service, with};
use portico_provider::ProviderError;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn a_service_goes_up_and_down_again_and_nothing_is_left() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    for type_ in ["ClusterIP", "NodePort"] {
        fixture.cluster.apply(typed("web", type_));
        settle().await;
        assert_eq!(fixture.costs(), (1, 0, 0), "{type_}: only the first listing");
    }
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(fixture.existing(), ["web"]);
    assert_eq!(fixture.addresses("web"), ["192.0.2.1"]);
    let conditions = fixture.conditions("web");
    assert_eq!(conditions["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(conditions["Synced"], "True/AsDesired");
    assert_eq!(conditions["Accepted"], "True/Accepted");
    let service = fixture.cluster.get("web").unwrap();
    assert!(service::has_finalizer(&service));
    let part = "cloud.test/load-balancer";
    assert_eq!(service.metadata.annotations.unwrap().get(part).map(String::as_str), Some("lb-1"));
    fixture.cluster.apply(typed("web", "NodePort"));
    settle().await;
    assert_eq!(fixture.existing(), [""; 0]);
    let service = fixture.cluster.get("web").unwrap();
    assert!(service.metadata.annotations.iter().flatten().all(|(key, _)| key != part), "taken back");
    assert!(!service::has_finalizer(&service) && service::ingress(&service).is_empty());
    assert!(fixture.conditions("web").is_empty());
    assert_eq!(fixture.reasons("web").last().unwrap(), "Released");
}

#[tokio::test(start_paused = true)]
async fn the_finalizer_is_there_before_anything_exists_and_goes_after_it() {
    let fixture = Fixture::calm();
    let _running = fixture.start().await;
    fixture.cluster.with(|cluster| cluster.failing = 2);
    fixture.cluster.apply(mk_service("web"));
    sleep(Duration::from_millis(10)).await;
    assert!(!service::has_finalizer(&fixture.cluster.get("web").unwrap()));
    assert!(fixture.existing().is_empty(), "no provider call without the finalizer");
    settle().await;
    assert_eq!(fixture.existing(), ["web"]);
    let failure = || ProviderError::unavailable("delete", "x");
    fixture.cloud.with(|cloud| cloud.failures = vec![failure(), failure()]);
    fixture.cluster.delete("web");
    sleep(Duration::from_millis(200)).await;
    assert!(fixture.cluster.get("web").is_some(), "held while something is left");
    assert_eq!(fixture.conditions("web")["LoadBalancerProvisioned"], "False/Releasing");
    settle().await;
    assert!(fixture.cluster.get("web").is_none() && fixture.existing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_as_desired_costs_nothing_however_often_it_is_reconciled() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    let (before, events) = (fixture.costs(), fixture.reasons("web").len());
    for _ in 0..10 {
        running.requeue_all();
        settle().await;
    }
    assert_eq!(fixture.costs().1, before.1);
    assert_eq!(fixture.costs().2, before.2);
    assert_eq!(fixture.reasons("web").len(), events);
}

#[tokio::test(start_paused = true)]
async fn what_was_said_of_a_refused_service_is_taken_back_when_it_goes_down() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports = None));
    settle().await;
    assert_eq!(fixture.conditions("web")["Accepted"], "False/InvalidField");
    assert!(!service::has_finalizer(&fixture.cluster.get("web").unwrap()), "nothing to hold");
    fixture.cluster.apply(typed("web", "ClusterIP"));
    settle().await;
    assert!(fixture.conditions("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_reaches_every_load_balancer_in_one_update() {
    let fixture = Fixture::calm();
    let running = fixture.start().await;
    for name in ["a", "b"] {
        fixture.cluster.apply(mk_service(name));
    }
    settle().await;
    let before = fixture.costs();
    for index in 1..=5 {
        running.node(mk_node(&format!("node-{index}"), &format!("10.0.0.{index}"), true));
    }
    settle().await;
    let targets = fixture
        .cloud
        .with(|cloud| cloud.existing.values().map(|(spec, _)| spec.targets.len()).collect::<Vec<_>>());
    assert_eq!(targets, [5, 5]);
    assert_eq!(fixture.costs().1 - before.1, 2, "five nodes, one update each");
    assert_eq!(fixture.costs().2, before.2, "and no status write");
    running.node(mk_node("node-1", "10.0.0.1", true));
    settle().await;
    assert_eq!(fixture.costs().1 - before.1, 2, "a heartbeat is no change");
}
