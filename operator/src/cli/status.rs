//! `portico-operator status`: how every Service with a load balancer stands, by what its status says.
//!
//! Owns: reading and printing it. Leaves to others: writing statuses (`status`).
//! Invariant: the API server is all it asks; it works without any provider's credentials.

use std::process::ExitCode;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use super::{answer, code, table};
use crate::args::{ServiceName, StatusArgs};
use crate::cache::service::{self, HELD_BY, ServiceKey, ServiceType};

pub(super) async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let StatusArgs { services: names, namespace, classes, running: _, output } = args;
    let client = crate::reconcile::api::client().await.context("no way to the API server")?;
    let listed = Api::<Service>::all(client).list(&ListParams::default()).await;
    let services = listed.context("Services cannot be listed")?.items;
    let mut lines = Vec::new();
    for ServiceName(key) in &names {
        if !services.iter().any(|service| ServiceKey::of(service) == *key) {
            bail!("there is no Service {key}");
        }
    }
    for service in &services {
        let key = ServiceKey::of(service);
        let line = Line::of(service, &classes);
        let asked = names.iter().any(|ServiceName(name)| *name == key);
        let here = namespace.as_ref().is_none_or(|namespace| key.namespace == *namespace);
        if asked || (names.is_empty() && here && has_balancer(service) && !line.anothers) {
            lines.push(line);
        }
    }
    answer(output, &lines, || text(&lines, !names.is_empty(), Timestamp::now()))?;
    Ok(code(lines.iter().any(|line| !line.is_fine())))
}

/// Whether it has a load balancer, or asks for one.
fn has_balancer(service: &Service) -> bool {
    ServiceType::of(service) == ServiceType::LoadBalancer
        || service::has_finalizer(service)
        || !service::our_conditions(service).is_empty()
}

/// Whether its class or its state is another controller's, and no operator of Portico has written to it. `classes`: those of
/// Portico beside `portico.dev/…`.
fn is_anothers(service: &Service, classes: &[String]) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_ref());
    let foreign = class.is_some_and(|class| !class.starts_with("portico.dev/") && !classes.contains(class));
    let unknown = !service::has_finalizer(service) && service::our_conditions(service).is_empty();
    unknown && (foreign || service::served_by_another(service).is_some())
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(skip)]
    anothers: bool,
    service: String,
    #[serde(rename = "type")]
    type_: String,
    class: Option<String>,
    addresses: Vec<String>,
    conditions: Vec<Condition>,
}

impl Line {
    fn of(service: &Service, classes: &[String]) -> Self {
        let spec = service.spec.as_ref();
        let held_by = service.metadata.annotations.as_ref().and_then(|all| all.get(HELD_BY).cloned());
        let class = spec.and_then(|spec| spec.load_balancer_class.clone());
        Self {
            service: ServiceKey::of(service).to_string(),
            type_: spec.and_then(|spec| spec.type_.clone()).unwrap_or_else(|| "ClusterIP".to_owned()),
            class: class.or(held_by),
            addresses: service::published(service).iter().map(ToString::to_string).collect(),
            conditions: service::our_conditions(service)
                .into_iter()
                .chain(service::waits_for_release(service).cloned())
                .collect(),
            anothers: is_anothers(service, classes),
        }
    }

    fn is_fine(&self) -> bool {
        self.anothers || !self.conditions.is_empty() && self.odd().is_empty()
    }

    /// Conditions that do not hold.
    fn odd(&self) -> Vec<&Condition> {
        self.conditions.iter().filter(|condition| condition.status != "True").collect()
    }

    fn state(&self) -> String {
        if self.anothers {
            return "another controller's".to_owned();
        }
        if self.conditions.is_empty() {
            return "nobody reports on it".to_owned();
        }
        let odd = self.odd();
        let word = |it: &&Condition| format!("{}={} {}", short(&it.type_), it.status, it.reason);
        if odd.is_empty() {
            "as wanted".to_owned()
        } else {
            odd.iter().map(word).collect::<Vec<_>>().join(", ")
        }
    }

    /// Since when it is in that state: the last change among the conditions that make it.
    fn since(&self) -> Option<Timestamp> {
        let odd = self.odd();
        let all = if odd.is_empty() { self.conditions.iter().collect() } else { odd };
        all.iter().map(|condition| condition.last_transition_time.0).max()
    }
}

fn short(type_: &str) -> &str {
    type_.rsplit('/').next().unwrap_or(type_)
}

/// `12s`, `5m`, `3h`, `2d`: as kubectl shows ages.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn text(lines: &[Line], with_messages: bool, now: Timestamp) -> String {
    if lines.is_empty() {
        return "no Service has, or asks for, a load balancer of Portico's".to_owned();
    }
    let row = |line: &Line| {
        let addresses = if line.addresses.is_empty() { "-".to_owned() } else { line.addresses.join(",") };
        vec![
            line.service.clone(),
            line.type_.clone(),
            line.class.clone().unwrap_or_else(|| "-".to_owned()),
            addresses,
            line.since().map_or_else(|| "-".to_owned(), |since| age(since, now)),
            line.state(),
        ]
    };
    let head = ["SERVICE", "TYPE", "CLASS", "ADDRESSES", "SINCE", "STATE"].map(str::to_owned).to_vec();
    let mut text = table(&std::iter::once(head).chain(lines.iter().map(row)).collect::<Vec<_>>());
    for condition in lines.iter().filter(|_| with_messages).flat_map(|line| &line.conditions) {
        let Condition { type_, status, reason, message, .. } = condition;
        text.extend(["\n  ", short(type_), "=", status, " ", reason, ": ", message]);
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::testing::mk_service;

    fn condition(type_: &str, status: &str, reason: &str, second: i64) -> Condition {
        Condition {
            type_: format!("portico.dev/{type_}"),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: "words".to_owned(),
            last_transition_time: Time(Timestamp::from_second(second).unwrap()),
            observed_generation: None,
        }
    }

    fn line(conditions: Vec<Condition>) -> Line {
        Line { conditions, ..Line::of(&mk_service("web"), &[]) }
    }

    #[test]
    fn a_line_says_what_does_not_hold_and_since_when() {
        let fine = line(vec![
            condition("Accepted", "True", "Accepted", 10),
            condition("Synced", "True", "AsDesired", 40),
        ]);
        let odd = line(vec![
            condition("Accepted", "True", "Accepted", 90),
            condition("Synced", "False", "Throttled", 40),
        ]);
        let now = Timestamp::from_second(100).unwrap();
        let shown = text(&[fine, odd, line(Vec::new())], false, now);
        assert_eq!(
            shown,
            "SERVICE       TYPE           CLASS   ADDRESSES   SINCE   STATE\n\
             default/web   LoadBalancer   -       -           60s     as wanted\n\
             default/web   LoadBalancer   -       -           60s     Synced=False Throttled\n\
             default/web   LoadBalancer   -       -           -       nobody reports on it"
        );
        let one = text(&[line(vec![condition("Synced", "False", "Throttled", 40)])], true, now);
        assert!(one.ends_with("\n  Synced=False Throttled: words"), "{one}");
    }

    #[test]
    fn what_other_controllers_serve_is_nothing_to_do() {
        use crate::testing::with;
        let named =
            with(mk_service("web"), |spec| spec.load_balancer_class = Some("service.k8s.aws/nlb".to_owned()));
        let mut finalized = mk_service("web");
        finalized.metadata.finalizers = Some(vec!["service.kubernetes.io/load-balancer-cleanup".to_owned()]);
        for service in [named.clone(), finalized] {
            let line = Line::of(&service, &[]);
            assert!(line.anothers && line.is_fine(), "{service:?}");
            assert_eq!(line.state(), "another controller's");
        }
        assert!(!Line::of(&mk_service("web"), &[]).is_fine(), "nobody serves this one");
        let of_portico = ["service.k8s.aws/nlb".to_owned()];
        assert!(!Line::of(&named, &of_portico).is_fine(), "a class that Portico is to serve");
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| age(Timestamp::from_second(1_000_000 - seconds).unwrap(), now);
        assert_eq!(
            [ago(0), ago(119), ago(120), ago(7_200), ago(200_000), ago(-5)],
            ["0s", "119s", "2m", "2h", "2d", "0s"]
        );
    }
}
