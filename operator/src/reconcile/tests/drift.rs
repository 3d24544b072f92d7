//! Drift: found, reported, counted, and repaired or left.

use super::super::*;
use super::fixture::*;
use portico_limits::Priority as CallPriority;
use portico_provider::{LoadBalancer, ProviderError, ReadMode};
use tokio::time::sleep;

use crate::provision::trigger::Drift;
use crate::testing::{mk_node, mk_service, with};

/// A fixture whose operator audits everything every ten minutes and lists next to never.
fn audited(drift: Drift) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.audit = Duration::from_mins(10);
    fixture.settings.policy.drift = drift;
    fixture.settings.policy.resync = Duration::from_hours(10);
    fixture
}

/// Another program closes a load balancer to all clients.
fn tamper(fixture: &Fixture, name: &str) {
    fixture.cloud.with(|cloud| {
        let (spec, _) = cloud.existing.values_mut().find(|(spec, _)| spec.owner.name.name() == name).unwrap();
        spec.source_ranges.insert("192.0.2.0/24".parse().unwrap());
    });
}

fn is_tampered(fixture: &Fixture) -> bool {
    fixture.cloud.with(|cloud| cloud.existing.values().any(|(spec, _)| !spec.source_ranges.is_empty()))
}

#[tokio::test(start_paused = true)]
async fn the_audit_finds_a_difference_that_no_listing_was_read_for_and_puts_it_right() {
    let fixture = audited(Drift::Repair);
    let running = fixture.start().await;
    for name in ["a", "b", "c"] {
        fixture.cluster.apply(mk_service(name));
    }
    settle().await;
    tamper(&fixture, "b");
    fixture.cloud.with(|cloud| cloud.called_at.clear());
    sleep(Duration::from_mins(12)).await;
    assert!(!is_tampered(&fixture));
    let best = fixture.cloud.with(|cloud| cloud.called_at.clone());
    let steps = best.iter().filter(|best| **best == CallPriority::Targets).count();
    assert!(best.len() > 3 && steps == 1, "reads come last, the repair does not: {best:?}");
    assert_eq!(fixture.reasons("b").iter().filter(|reason| *reason == "Drifted").count(), 1);
    assert!(!fixture.reasons("a").contains(&"Drifted".to_owned()));
    assert_eq!(fixture.conditions("b")["Synced"], "True/AsDesired");
    assert_eq!(
        running.metric("drift"),
        ["portico_operator_drift_total{trigger=\"audit\",field=\"spec.loadBalancerSourceRanges\"} 1"]
    );
    assert_eq!(
        running.metric("unexpected_changes"),
        ["portico_operator_unexpected_changes_total{trigger=\"audit\"} 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_audit_costs_one_read_a_round_for_each_service_and_nothing_else() {
    let fixture = audited(Drift::Repair);
    let running = fixture.start().await;
    for index in 0..5 {
        fixture.cluster.apply(mk_service(&format!("s{index}")));
    }
    settle().await;
    let before = fixture.costs();
    sleep(Duration::from_mins(100)).await;
    let (reads, writes, cluster) = fixture.costs();
    assert_eq!((writes, cluster), (before.1, before.2), "what is as wanted is neither changed nor reported");
    let audits = reads - before.0;
    assert!((49..=51).contains(&audits), "5 Services, 10 rounds: {audits} reads");
    let least = fixture.cloud.with(|cloud| cloud.read_modes.iter().rev().take(49).min().copied());
    assert_eq!(least, Some(ReadMode::Full), "an audit believes nothing");
    assert!(running.metric("drift").is_empty() && running.metric("unexpected").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_does_not_wait_for_the_audit_of_its_service() {
    let fixture = audited(Drift::Repair);
    fixture.cloud.with(|cloud| cloud.audits_wait = Duration::from_mins(1));
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    let is_audited = || fixture.cloud.with(|cloud| cloud.called_at.contains(&CallPriority::Background));
    while !is_audited() {
        sleep(Duration::from_secs(1)).await;
    }
    let began = Instant::now();
    fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    let is_changed = |spec: &LoadBalancer| spec.listeners.iter().any(|listener| listener.port.get() == 81);
    while !fixture.cloud.with(|cloud| cloud.existing.values().any(|(spec, _)| is_changed(spec))) {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    settle().await;
    assert_eq!(fixture.conditions("web")["Synced"], "True/AsDesired");
    assert!(running.metric("drift").is_empty() && running.metric("unexpected").is_empty());
}

#[tokio::test(start_paused = true)]
async fn drift_that_is_only_reported_stays_until_the_service_changes() {
    let fixture = audited(Drift::Report);
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    tamper(&fixture, "web");
    fixture.cloud.with(|cloud| cloud.read_modes.clear());
    sleep(Duration::from_mins(30)).await;
    assert!(is_tampered(&fixture), "it was only to be reported");
    let read_modes = fixture.cloud.with(|cloud| cloud.read_modes.clone());
    assert!(
        read_modes.iter().all(|mode| *mode == ReadMode::Full) && !read_modes.is_empty(),
        "{read_modes:?}"
    );
    assert_eq!(fixture.conditions("web")["Synced"], "False/Drifted");
    assert_eq!(fixture.conditions("web")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(fixture.reasons("web").iter().filter(|reason| *reason == "Drifted").count(), 1, "told once");
    let plans = plan::known(&running.reconciler);
    assert!(plans[0].to_string().contains("update load balancer of default/web: it differs"), "{}", plans[0]);
    assert!(running.metric("unexpected_changes").is_empty(), "nothing was changed");
    fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    settle().await;
    assert!(!is_tampered(&fixture));
    assert_eq!(fixture.conditions("web")["Synced"], "True/AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_and_is_taken_back_is_no_drift() {
    let fixture = Fixture { cluster: Fixture::calm().cluster, ..audited(Drift::Report) };
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    fixture.cloud.with(|cloud| cloud.failures.push(ProviderError::unavailable("execute", "x")));
    fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    sleep(Duration::from_millis(30)).await;
    tamper(&fixture, "web");
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    assert!(!is_tampered(&fixture), "the go was asked for, and puts all right");
    assert!(running.metric("drift").is_empty(), "{:?}", running.metric("drift"));
}

#[tokio::test(start_paused = true)]
async fn what_a_listing_shows_is_counted_apart_from_what_users_and_nodes_change() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    running.node(mk_node("n", "10.0.0.1", true));
    settle().await;
    assert!(running.metric("unexpected_changes").is_empty(), "{:?}", running.metric("unexpected_changes"));
    tamper(&fixture, "web");
    sleep(Duration::from_mins(11)).await;
    assert!(!is_tampered(&fixture));
    assert_eq!(
        running.metric("unexpected_changes"),
        ["portico_operator_unexpected_changes_total{trigger=\"resync\"} 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_while_no_operator_ran_is_repaired_and_counts_as_no_drift() {
    let fixture = Fixture::new();
    let first = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    drop(first);
    tamper(&fixture, "web");
    let second = fixture.start().await;
    settle().await;
    assert!(!is_tampered(&fixture));
    assert!(second.metric("unexpected_changes").is_empty(), "an ordinary take-over");
    assert!(second.metric("drift").is_empty(), "{:?}", second.metric("drift"));
    assert!(!fixture.reasons("web").contains(&"Drifted".to_owned()), "targets may have changed meanwhile");
}
