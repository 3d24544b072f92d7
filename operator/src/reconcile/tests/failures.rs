//! What breaks: calls, processes, providers, and what users write.

use super::super::*;
use super::stage::*;
use portico_provider::ProviderError;
use tokio::time::sleep;

use crate::testing::{mk_service, with};

#[tokio::test(start_paused = true)]
async fn a_failure_that_stays_is_told_once_however_often_it_is_tried() {
    let stage = Stage::new();
    let _running = stage.start().await;
    let failure = || ProviderError::unavailable("create", "x");
    stage.cloud.with(|cloud| cloud.failures = (0..50).map(|_| failure()).collect());
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let (writes, told) = (stage.costs().2, stage.reasons("web"));
    sleep(Duration::from_mins(8)).await;
    assert_eq!((stage.costs().2, stage.reasons("web")), (writes, told));
    assert!(stage.cloud.with(|cloud| cloud.failures.len()) < 46, "it was tried again");
}

#[tokio::test(start_paused = true)]
async fn a_provider_call_that_never_ends_holds_up_nobody_else() {
    let stage = Stage::new();
    let _running = stage.start().await;
    for name in ["slow-a", "slow-b", "slow-c"] {
        stage.cloud.with(|cloud| cloud.hanging.insert(format!("uid-{name}").parse().unwrap()));
        stage.cluster.apply(mk_service(name));
    }
    sleep(Duration::from_secs(1)).await;
    for index in 0..10 {
        stage.cluster.apply(mk_service(&format!("fast-{index}")));
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.existing().len(), 10);
    sleep(Duration::from_secs(190)).await;
    assert_eq!(stage.conditions("slow-a")["Synced"], "False/Timeout");
}

#[tokio::test(start_paused = true)]
async fn provisioning_that_takes_minutes_is_waited_for_and_survives_a_crash_without_a_second_one() {
    let stage = Stage::new();
    stage.cloud.with(|cloud| cloud.provisioning = Duration::from_mins(3));
    let first = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    sleep(Duration::from_secs(10)).await;
    let (writes, told) = (stage.costs().2, stage.reasons("web"));
    settle().await;
    assert_eq!((stage.costs().2, &stage.reasons("web")), (writes, &told), "waiting is told once");
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "False/Provisioning");
    assert!(stage.addresses("web").is_empty());
    drop(first);
    let _second = stage.start().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.conditions("web")["Synced"], "False/InProgress");
    sleep(Duration::from_secs(108)).await;
    assert!(stage.addresses("web").is_empty());
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.existing(), ["web"]);
    assert_eq!(stage.addresses("web"), ["192.0.2.1"]);
    assert_eq!(stage.conditions("web")["Synced"], "True/AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_deletion_leaves_nothing() {
    let stage = Stage::new();
    let first = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    stage.cloud.with(|cloud| cloud.hanging.insert("uid-web".parse().unwrap()));
    stage.cluster.delete("web");
    sleep(Duration::from_secs(1)).await;
    drop(first);
    stage.cloud.with(|cloud| cloud.hanging.clear());
    let _second = stage.start().await;
    settle().await;
    assert!(stage.cluster.get("web").is_none() && stage.existing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn user_errors_are_told_once_and_not_tried_again_and_take_nothing_away() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let mut wrong = mk_service("web");
    let annotations = wrong.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/scheme".to_owned(), "sideways".to_owned());
    stage.cluster.apply(wrong);
    settle().await;
    let (costs, events) = (stage.costs(), stage.reasons("web"));
    assert_eq!(events.iter().filter(|reason| *reason == "InvalidAnnotation").count(), 1);
    assert_eq!(stage.conditions("web")["Accepted"], "False/InvalidAnnotation");
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(stage.addresses("web"), ["192.0.2.1"], "what serves goes on serving");
    sleep(Duration::from_mins(5)).await;
    assert_eq!((stage.costs(), stage.reasons("web")), (costs, events));
    stage.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(stage.conditions("web")["Accepted"], "True/Accepted");
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_told_and_tried_again_only_when_the_service_changes() {
    let stage = Stage::new();
    let _running = stage.start().await;
    let full =
        || ProviderError::Exhausted { operation: "create", message: "0 of 5 addresses are free".to_owned() };
    stage.cloud.with(|cloud| cloud.failures = vec![full()]);
    stage.cluster.apply(mk_service("web"));
    sleep(Duration::from_mins(5)).await;
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "False/QuotaExceeded");
    assert!(stage.existing().is_empty(), "not tried again by itself");
    assert_eq!(stage.reasons("web").iter().filter(|reason| *reason == "QuotaExceeded").count(), 1);
    stage.cluster.apply(with(mk_service("web"), |spec| {
        spec.load_balancer_source_ranges = Some(vec!["10.0.0.0/8".to_owned()]);
    }));
    settle().await;
    assert_eq!(stage.existing(), ["web"]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_clears_no_status_and_is_met_with_patience() {
    let stage = Stage::new();
    let first = stage.start().await;
    stage.cluster.apply(mk_service("old"));
    settle().await;
    drop(first);
    stage.cloud.with(|cloud| cloud.down = true);
    let _second = stage.start().await;
    stage.cluster.apply(mk_service("new"));
    let before = stage.costs().0;
    sleep(Duration::from_secs(100)).await;
    assert!(stage.costs().0 - before < 12, "{} reads in 100 s", stage.costs().0 - before);
    assert_eq!(stage.addresses("old"), ["192.0.2.1"]);
    assert_eq!(stage.conditions("old")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(stage.conditions("new")["LoadBalancerProvisioned"], "False/ProviderUnavailable");
    stage.cloud.with(|cloud| cloud.down = false);
    sleep(Duration::from_secs(400)).await;
    assert_eq!(stage.conditions("new")["LoadBalancerProvisioned"], "True/Provisioned");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_wiped_is_written_again() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let seen = stage.cluster.get("web").unwrap();
    stage.cluster.apply_status(&seen, &StatusPatch::default(), Basis::Seen).await.unwrap();
    settle().await;
    assert_eq!(stage.addresses("web"), ["192.0.2.1"]);
}
