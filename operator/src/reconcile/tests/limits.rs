//! How much goes on at once, and how much may be taken away.

use super::super::*;
use super::fixture::*;
use tokio::time::sleep;

use crate::background::gc::limit;
use crate::testing::{mk_node, mk_service, with};

#[tokio::test(start_paused = true)]
async fn a_deletion_does_not_wait_behind_many_creations() {
    let mut fixture = Fixture::calm();
    fixture.settings.policy.concurrency = 2;
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("old"));
    settle().await;
    for index in 0..100 {
        fixture.cluster.apply(mk_service(&format!("new-{index}")));
    }
    sleep(Duration::from_millis(50)).await;
    assert!(
        running.reconciler.provisioner.waiting(crate::provision::permits::AttemptPriority::Creating) > 80,
        "two at once, the others wait"
    );
    assert_eq!(running.reconciler.queue.depth(), 0, "and hold up no worker");
    fixture.cluster.delete("old");
    sleep(Duration::from_millis(200)).await;
    assert!(fixture.cluster.get("old").is_none(), "it went among the first");
    assert!(fixture.existing().len() < 50, "while most of the others are still to come");
    settle().await;
    assert_eq!(fixture.existing().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_change_does_not_wait_behind_all_that_a_restart_has_to_catch_up_with() {
    let mut fixture = Fixture::calm();
    fixture.settings.policy.concurrency = 2;
    let running = fixture.start().await;
    for index in 0..100 {
        fixture.cluster.apply(mk_service(&format!("s{index}")));
    }
    settle().await;
    drop(running);
    let running = fixture.start().await;
    running.node(mk_node("joined", "10.0.0.1", true)); // before anybody looks: as if it had joined meanwhile
    sleep(Duration::from_millis(50)).await;
    assert!(
        running.reconciler.provisioner.waiting(crate::provision::permits::AttemptPriority::CatchingUp) > 80,
        "all have a target more"
    );
    let ranges = Some(vec!["10.0.0.0/8".to_owned()]);
    fixture.cluster.apply(with(mk_service("s99"), |spec| spec.load_balancer_source_ranges = ranges));
    sleep(Duration::from_millis(200)).await;
    let (changed, caught_up) = fixture.cloud.with(|cloud| {
        let all = || cloud.existing.values().map(|(it, _)| it);
        (
            all().filter(|it| !it.source_ranges.is_empty()).count(),
            all().filter(|it| !it.targets.is_empty()).count(),
        )
    });
    assert_eq!(changed, 1, "it went among the first, although it waited with the others already");
    assert!(caught_up < 50, "while most of the others are still to come: {caught_up}");
    settle().await;
    assert!(fixture.cloud.with(|cloud| cloud.existing.values().all(|(it, _)| it.targets.len() == 1)));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waited_provisions_what_is_wanted_by_then() {
    let mut fixture = Fixture::calm();
    fixture.settings.policy.concurrency = 1;
    fixture.cloud.with(|cloud| cloud.hanging.insert("uid-slow".parse().unwrap()));
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("slow"));
    sleep(Duration::from_millis(100)).await;
    fixture.cluster.apply(mk_service("web"));
    sleep(Duration::from_millis(100)).await;
    fixture.cluster.delete("web");
    sleep(Duration::from_mins(5)).await;
    assert!(fixture.cluster.get("web").is_none());
    let writes = fixture.cloud.with(|cloud| cloud.writes);
    assert_eq!(writes, 0, "it was never made, as nobody wanted it when its turn came");
}

#[tokio::test(start_paused = true)]
async fn many_unclaimed_load_balancers_are_deleted_in_portions() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    for index in 0..40 {
        fixture.cluster.apply(mk_service(&format!("s{index}")));
    }
    settle().await;
    for index in 0..40 {
        fixture.cluster.delete_by_force(&format!("s{index}"));
    }
    let window = Duration::from_mins(10);
    let mut collector = running.collector(limit::DeletionLimits { count: 10, share: 10, window });
    collector.collect_once().await;
    settle().await;
    for _ in 0..5 {
        collector.collect_once().await;
        settle().await;
    }
    assert_eq!(fixture.existing().len(), 36, "a tenth of 40 in ten minutes");
    assert!(running.metric("orphans").iter().any(|line| line.contains("held\"")));
    sleep(window).await;
    collector.collect_once().await;
    settle().await;
    assert_eq!(fixture.existing().len(), 33, "and a tenth of the rest, but three at least");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_vanish_together_stay_targets_for_a_while_and_a_deleted_service_does_not() {
    let fixture = Fixture::calm();
    let running = fixture.start().await;
    for index in 0..4 {
        running.node(mk_node(&format!("n{index}"), &format!("10.0.0.{index}"), true));
    }
    for name in ["web", "gone"] {
        fixture.cluster.apply(mk_service(name));
    }
    settle().await;
    for index in 1..4 {
        running.node_gone(&mk_node(&format!("n{index}"), "", true));
    }
    fixture.cluster.delete("gone");
    settle().await;
    let targets = || {
        fixture
            .cloud
            .with(|cloud| cloud.existing.values().map(|(spec, _)| spec.targets.len()).collect::<Vec<_>>())
    };
    assert_eq!(targets(), [4], "held; and the deletion was not");
    assert_eq!(running.metric("nodes_held"), ["portico_operator_nodes_held 3"]);
    sleep(Duration::from_mins(5)).await;
    assert_eq!(targets(), [1], "without any event");
}
