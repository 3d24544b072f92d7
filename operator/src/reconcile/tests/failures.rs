//! Failures of calls, processes and providers, and users' mistakes.

use super::super::*;
use super::fixture::*;
use portico_provider::ProviderError;
use tokio::time::sleep;

use crate::reconcile::status::{Basis, StatusPatch};
use crate::testing::{mk_service, with};

#[tokio::test(start_paused = true)]
async fn a_failure_that_stays_is_reported_once_however_often_it_is_tried() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    let failure = || ProviderError::unavailable("create", "x");
    fixture.cloud.with(|cloud| cloud.failures = (0..50).map(|_| failure()).collect());
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    let (writes, reported) = (fixture.costs().2, fixture.reasons("web"));
    sleep(Duration::from_mins(8)).await;
    assert_eq!((fixture.costs().2, fixture.reasons("web")), (writes, reported));
    assert!(fixture.cloud.with(|cloud| cloud.failures.len()) < 46, "it was tried again");
}

#[tokio::test(start_paused = true)]
async fn a_provider_call_that_never_ends_delays_no_other_service() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    for name in ["slow-a", "slow-b", "slow-c"] {
        fixture.cloud.with(|cloud| cloud.hanging.insert(format!("uid-{name}").parse().unwrap()));
        fixture.cluster.apply(mk_service(name));
    }
    sleep(Duration::from_secs(1)).await;
    for index in 0..10 {
        fixture.cluster.apply(mk_service(&format!("fast-{index}")));
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.existing().len(), 10);
    sleep(Duration::from_secs(190)).await;
    assert_eq!(fixture.conditions("slow-a")["Synced"], "False/Timeout");
}

#[tokio::test(start_paused = true)]
async fn provisioning_that_takes_minutes_is_waited_for_and_survives_a_crash_without_a_second_one() {
    let fixture = Fixture::new();
    fixture.cloud.with(|cloud| cloud.provisioning = Duration::from_mins(3));
    let first = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    sleep(Duration::from_secs(10)).await;
    let (writes, reported) = (fixture.costs().2, fixture.reasons("web"));
    settle().await;
    assert_eq!((fixture.costs().2, &fixture.reasons("web")), (writes, &reported), "waiting is told once");
    assert_eq!(fixture.conditions("web")["LoadBalancerProvisioned"], "False/Provisioning");
    assert!(fixture.addresses("web").is_empty());
    drop(first);
    let _second = fixture.start().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.conditions("web")["Synced"], "False/InProgress");
    sleep(Duration::from_secs(108)).await;
    assert!(fixture.addresses("web").is_empty());
    sleep(Duration::from_secs(4)).await;
    assert_eq!(fixture.existing(), ["web"]);
    assert_eq!(fixture.addresses("web"), ["192.0.2.1"]);
    assert_eq!(fixture.conditions("web")["Synced"], "True/AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_deletion_leaves_nothing() {
    let fixture = Fixture::new();
    let first = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    fixture.cloud.with(|cloud| cloud.hanging.insert("uid-web".parse().unwrap()));
    fixture.cluster.delete("web");
    sleep(Duration::from_secs(1)).await;
    drop(first);
    fixture.cloud.with(|cloud| cloud.hanging.clear());
    let _second = fixture.start().await;
    settle().await;
    assert!(fixture.cluster.get("web").is_none() && fixture.existing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn user_errors_are_reported_once_and_not_tried_again_and_take_nothing_away() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    let mut wrong = mk_service("web");
    let annotations = wrong.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/scheme".to_owned(), "sideways".to_owned());
    fixture.cluster.apply(wrong);
    settle().await;
    let (costs, events) = (fixture.costs(), fixture.reasons("web"));
    assert_eq!(events.iter().filter(|reason| *reason == "InvalidAnnotation").count(), 1);
    assert_eq!(fixture.conditions("web")["Accepted"], "False/InvalidAnnotation");
    assert_eq!(fixture.conditions("web")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(fixture.addresses("web"), ["192.0.2.1"], "what serves goes on serving");
    sleep(Duration::from_mins(5)).await;
    assert_eq!((fixture.costs(), fixture.reasons("web")), (costs, events));
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(fixture.conditions("web")["Accepted"], "True/Accepted");
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_reported_and_tried_again_only_when_the_service_changes() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    let full =
        || ProviderError::Exhausted { operation: "create", message: "0 of 5 addresses are free".to_owned() };
    fixture.cloud.with(|cloud| cloud.failures = vec![full()]);
    fixture.cluster.apply(mk_service("web"));
    sleep(Duration::from_mins(5)).await;
    assert_eq!(fixture.conditions("web")["LoadBalancerProvisioned"], "False/QuotaExceeded");
    assert!(fixture.existing().is_empty(), "not tried again by itself");
    assert_eq!(fixture.reasons("web").iter().filter(|reason| *reason == "QuotaExceeded").count(), 1);
    fixture.cluster.apply(with(mk_service("web"), |spec| {
        spec.load_balancer_source_ranges = Some(vec!["10.0.0.0/8".to_owned()]);
    }));
    settle().await;
    assert_eq!(fixture.existing(), ["web"]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_clears_no_status_and_is_met_with_patience() {
    let fixture = Fixture::new();
    let first = fixture.start().await;
    fixture.cluster.apply(mk_service("old"));
    settle().await;
    drop(first);
    fixture.cloud.with(|cloud| cloud.down = true);
    let _second = fixture.start().await;
    fixture.cluster.apply(mk_service("new"));
    let before = fixture.costs().0;
    sleep(Duration::from_secs(100)).await;
    assert!(fixture.costs().0 - before < 12, "{} reads in 100 s", fixture.costs().0 - before);
    assert_eq!(fixture.addresses("old"), ["192.0.2.1"]);
    assert_eq!(fixture.conditions("old")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(fixture.conditions("new")["LoadBalancerProvisioned"], "False/ProviderUnavailable");
    fixture.cloud.with(|cloud| cloud.down = false);
    sleep(Duration::from_secs(400)).await;
    assert_eq!(fixture.conditions("new")["LoadBalancerProvisioned"], "True/Provisioned");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_wiped_is_written_again() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    let seen = fixture.cluster.get("web").unwrap();
    fixture.cluster.apply_status(&seen, &StatusPatch::default(), Basis::Seen).await.unwrap();
    settle().await;
    assert_eq!(fixture.addresses("web"), ["192.0.2.1"]);
}
