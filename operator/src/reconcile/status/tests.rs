//! Statuses of situations, and the Events of their changes.

use super::*;
use crate::desired::problem::ProblemKind;
use crate::testing::mk_service;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn ready() -> Report {
    let address = IngressAddress::Ip("192.0.2.1".parse().unwrap());
    let ingress = Ingress { address, ip_mode: Some(IpMode::Vip), ports: Vec::new() };
    Report { ingress: vec![ingress], ready: true, ..Report::default() }
}

fn status(
    service: &Service,
    report: Option<&Report>,
    progress: &Progress,
    before: &[Condition],
) -> StatusPatch {
    Situation { service, report, problems: &[], warnings: &[], progress }.status(before, at(100))
}

fn published(status: StatusPatch) -> Service {
    let mut service = mk_service("web");
    let load_balancer = k8s_openapi::api::core::v1::LoadBalancerStatus { ingress: Some(status.ingress) };
    service.status = Some(k8s_openapi::api::core::v1::ServiceStatus {
        conditions: Some(status.conditions),
        load_balancer: Some(load_balancer),
    });
    service
}

fn reason(status: &StatusPatch, type_: &str) -> String {
    let found = status.conditions.iter().find(|condition| condition.type_.ends_with(type_)).unwrap();
    format!("{}/{}", found.status, found.reason)
}

fn failed() -> Progress {
    Progress::Failed { reason: "QuotaExceeded", message: "no address is free".to_owned() }
}

#[test]
fn addresses_are_kept_when_nothing_better_is_known() {
    let before = status(&mk_service("web"), Some(&ready()), &Progress::Settled, &[]);
    assert_eq!(before.ingress[0].ip_mode.as_deref(), Some("VIP"));
    let service = published(before.clone());
    let lost = Report::default();
    for (report, progress) in [
        (None, Progress::Settled),
        (Some(&lost), Progress::Working("create".to_owned())),
        (Some(&lost), failed()),
    ] {
        let after = status(&service, report, &progress, &before.conditions);
        assert_eq!(after.ingress, before.ingress, "{report:?} {progress:?}");
    }
    let none = Report { ready: true, ..Report::default() };
    assert!(
        status(&service, Some(&none), &Progress::Settled, &[]).ingress.is_empty(),
        "the provider says: none"
    );
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let service = mk_service("web");
    let before = status(&service, Some(&ready()), &Progress::Settled, &[]);
    let situation = Situation {
        service: &service,
        report: Some(&ready()),
        problems: &[],
        warnings: &[],
        progress: &failed(),
    };
    let after = situation.status(&before.conditions, at(200));
    let time = |type_: &str| {
        after.conditions.iter().find(|it| it.type_ == type_).unwrap().last_transition_time.0.as_second()
    };
    assert_eq!((time(ACCEPTED), time(SYNCED)), (100, 200));
    assert_eq!(reason(&after, "LoadBalancerProvisioned"), "True/Provisioned", "it still serves");
    assert_eq!(reason(&after, "Synced"), "False/QuotaExceeded");
}

#[test]
fn executing_steps_on_what_serves_changes_no_status() {
    let service = mk_service("web");
    let before = status(&service, Some(&ready()), &Progress::Settled, &[]);
    let working = Progress::Working("update targets".to_owned());
    assert_eq!(status(&published(before.clone()), Some(&ready()), &working, &before.conditions), before);
}

/// After a restart load balancers are known by their tags, which say nothing of targets.
#[test]
fn a_condition_that_was_not_read_stays_and_one_that_was_read_is_written_again() {
    let service = mk_service("web");
    let fact = |topic, holds| Fact { topic, holds, reason: "Told".to_owned(), message: "as read".to_owned() };
    let facts = vec![fact(Topic::TargetsHealthy, Truth::True), fact(Topic::TargetsAccepted, Truth::False)];
    let before = status(&service, Some(&Report { facts, ..ready() }), &Progress::Settled, &[]);
    let unread = vec![Topic::TargetsHealthy, Topic::TargetsAccepted];
    let nothing = Report { unread: unread.clone(), ..ready() };
    assert_eq!(status(&service, Some(&nothing), &Progress::Settled, &before.conditions), before);
    let healthy = Report { facts: vec![fact(Topic::TargetsHealthy, Truth::False)], unread, ..ready() };
    let after = status(&service, Some(&healthy), &Progress::Settled, &before.conditions);
    assert_eq!(reason(&after, "TargetsHealthy"), "False/Told");
    assert_eq!(after.conditions.len(), before.conditions.len());
    let read = status(&service, Some(&ready()), &Progress::Settled, &before.conditions);
    assert!(
        read.conditions.iter().all(|it| !it.type_.contains("Targets")),
        "there is nothing to say any more"
    );
}

#[test]
fn a_failure_is_one_event_and_the_same_again_is_none() {
    let service = mk_service("web");
    let first = status(&service, Some(&Report::default()), &failed(), &[]);
    let reported = notices(&[], &first.conditions);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert_eq!((reported[0].severity, reported[0].reason.as_str()), (Severity::Warning, "QuotaExceeded"));
    let again = status(&service, Some(&Report::default()), &failed(), &first.conditions);
    assert_eq!(notices(&first.conditions, &again.conditions), []);
}

#[test]
fn a_warning_is_reported_and_stops_nothing() {
    let service = mk_service("web");
    let warnings =
        [Problem::new(ProblemKind::UnknownAnnotation, "annotation portico.dev/x", "nothing reads it")];
    let report = ready();
    let settled = Progress::Settled;
    let situation = Situation {
        service: &service,
        report: Some(&report),
        problems: &[],
        warnings: &warnings,
        progress: &settled,
    };
    let status = situation.status(&[], at(100));
    assert_eq!(reason(&status, "Accepted"), "True/UnknownAnnotation");
    assert_eq!(reason(&status, "Synced"), "True/AsDesired");
    let reported = notices(&[], &status.conditions);
    assert!(
        reported.iter().any(|it| it.reason == "UnknownAnnotation" && it.severity == Severity::Warning),
        "{reported:?}"
    );
}

#[test]
fn every_condition_is_one_the_api_server_takes() {
    let service = mk_service("web");
    for progress in
        [Progress::Settled, Progress::Working("x".to_owned()), failed(), Progress::Releasing("x".into())]
    {
        for condition in status(&service, None, &progress, &[]).conditions {
            assert!(condition.reason.starts_with(|c: char| c.is_ascii_alphabetic()), "{condition:?}");
            assert!(condition.reason.chars().all(|c| c.is_ascii_alphanumeric()), "{condition:?}");
            assert!(matches!(condition.status.as_str(), "True" | "False" | "Unknown"));
        }
    }
}
