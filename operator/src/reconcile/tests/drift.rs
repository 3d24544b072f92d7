//! What somebody changes behind the operator's back: found, told, counted, and put right or left.

use super::super::*;
use super::stage::*;
use portico_limits::Priority as CallPriority;
use portico_provider::{LoadBalancer, ProviderError, ReadMode};
use tokio::time::sleep;

use crate::testing::{mk_node, mk_service, with};

/// A stage whose operator audits everything every ten minutes and lists next to never.
fn audited(drift: Drift) -> Stage {
    let mut stage = Stage::new();
    stage.audit = Duration::from_mins(10);
    stage.settings.drift = drift;
    stage.settings.resync = Duration::from_hours(10);
    stage
}

/// Somebody opens a load balancer to nobody.
fn tamper(stage: &Stage, name: &str) {
    stage.cloud.with(|cloud| {
        let (spec, _) = cloud.existing.values_mut().find(|(spec, _)| spec.owner.name.name() == name).unwrap();
        spec.source_ranges.insert("192.0.2.0/24".parse().unwrap());
    });
}

fn is_tampered(stage: &Stage) -> bool {
    stage.cloud.with(|cloud| cloud.existing.values().any(|(spec, _)| !spec.source_ranges.is_empty()))
}

#[tokio::test(start_paused = true)]
async fn the_audit_finds_a_difference_that_no_listing_was_read_for_and_puts_it_right() {
    let stage = audited(Drift::Repair);
    let running = stage.start().await;
    for name in ["a", "b", "c"] {
        stage.cluster.apply(mk_service(name));
    }
    settle().await;
    tamper(&stage, "b");
    stage.cloud.with(|cloud| cloud.called_at.clear());
    sleep(Duration::from_mins(12)).await;
    assert!(!is_tampered(&stage));
    let best = stage.cloud.with(|cloud| cloud.called_at.clone());
    let steps = best.iter().filter(|best| **best == CallPriority::Targets).count();
    assert!(best.len() > 3 && steps == 1, "reads come last, the repair does not: {best:?}");
    assert_eq!(stage.reasons("b").iter().filter(|reason| *reason == "Drifted").count(), 1);
    assert!(!stage.reasons("a").contains(&"Drifted".to_owned()));
    assert_eq!(stage.conditions("b")["Synced"], "True/AsDesired");
    assert_eq!(
        running.metric("drift"),
        ["portico_operator_drift_total{cause=\"Audit\",field=\"spec.loadBalancerSourceRanges\"} 1"]
    );
    assert_eq!(
        running.metric("unasked_changes"),
        ["portico_operator_unasked_changes_total{cause=\"Audit\"} 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_audit_costs_one_read_a_round_for_each_service_and_nothing_else() {
    let stage = audited(Drift::Repair);
    let running = stage.start().await;
    for index in 0..5 {
        stage.cluster.apply(mk_service(&format!("s{index}")));
    }
    settle().await;
    let before = stage.costs();
    sleep(Duration::from_mins(100)).await;
    let (reads, writes, cluster) = stage.costs();
    assert_eq!((writes, cluster), (before.1, before.2), "what is as wanted is neither changed nor told");
    let audits = reads - before.0;
    assert!((49..=51).contains(&audits), "5 Services, 10 rounds: {audits} reads");
    let least = stage.cloud.with(|cloud| cloud.looks.iter().rev().take(49).min().copied());
    assert_eq!(least, Some(ReadMode::Full), "an audit believes nothing");
    assert!(running.metric("drift").is_empty() && running.metric("unasked").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_does_not_wait_for_the_audit_of_its_service() {
    let stage = audited(Drift::Repair);
    stage.cloud.with(|cloud| cloud.audits_wait = Duration::from_mins(1));
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let is_audited = || stage.cloud.with(|cloud| cloud.called_at.contains(&CallPriority::Background));
    while !is_audited() {
        sleep(Duration::from_secs(1)).await;
    }
    let began = Instant::now();
    stage.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    let is_changed = |spec: &LoadBalancer| spec.listeners.iter().any(|listener| listener.port.get() == 81);
    while !stage.cloud.with(|cloud| cloud.existing.values().any(|(spec, _)| is_changed(spec))) {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    settle().await;
    assert_eq!(stage.conditions("web")["Synced"], "True/AsDesired");
    assert!(running.metric("drift").is_empty() && running.metric("unasked").is_empty());
}

#[tokio::test(start_paused = true)]
async fn drift_that_is_only_reported_stays_until_the_service_changes() {
    let stage = audited(Drift::Report);
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    tamper(&stage, "web");
    stage.cloud.with(|cloud| cloud.looks.clear());
    sleep(Duration::from_mins(30)).await;
    assert!(is_tampered(&stage), "it was only to be reported");
    let looks = stage.cloud.with(|cloud| cloud.looks.clone());
    assert!(looks.iter().all(|look| *look == ReadMode::Full) && !looks.is_empty(), "{looks:?}");
    assert_eq!(stage.conditions("web")["Synced"], "False/Drifted");
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(stage.reasons("web").iter().filter(|reason| *reason == "Drifted").count(), 1, "told once");
    let plans = running.operator.plans_known();
    assert!(plans[0].to_string().contains("update load balancer of default/web: it differs"), "{}", plans[0]);
    assert!(running.metric("unasked_changes").is_empty(), "nothing was changed");
    stage.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    settle().await;
    assert!(!is_tampered(&stage));
    assert_eq!(stage.conditions("web")["Synced"], "True/AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_and_is_taken_back_is_no_drift() {
    let stage = Stage { cluster: Stage::calm().cluster, ..audited(Drift::Report) };
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    stage.cloud.with(|cloud| cloud.failures.push(ProviderError::unavailable("execute", "x")));
    stage.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    sleep(Duration::from_millis(30)).await;
    tamper(&stage, "web");
    stage.cluster.apply(mk_service("web"));
    settle().await;
    assert!(!is_tampered(&stage), "the go was asked for, and puts all right");
    assert!(running.metric("drift").is_empty(), "{:?}", running.metric("drift"));
}

#[tokio::test(start_paused = true)]
async fn what_a_listing_shows_is_counted_apart_from_what_users_and_nodes_change() {
    let stage = Stage::new();
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    stage.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    running.node(mk_node("n", "10.0.0.1", true));
    settle().await;
    assert!(running.metric("unasked_changes").is_empty(), "{:?}", running.metric("unasked_changes"));
    tamper(&stage, "web");
    sleep(Duration::from_mins(11)).await;
    assert!(!is_tampered(&stage));
    assert_eq!(
        running.metric("unasked_changes"),
        ["portico_operator_unasked_changes_total{cause=\"Resync\"} 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_changed_while_nobody_ran_is_put_right_and_counts_as_no_drift() {
    let stage = Stage::new();
    let first = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    drop(first);
    tamper(&stage, "web");
    let second = stage.start().await;
    settle().await;
    assert!(!is_tampered(&stage));
    assert!(second.metric("unasked_changes").is_empty(), "an ordinary take-over");
    assert!(second.metric("drift").is_empty(), "{:?}", second.metric("drift"));
    assert!(!stage.reasons("web").contains(&"Drifted".to_owned()), "targets may have changed meanwhile");
}
