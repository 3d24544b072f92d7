//! The status of a Service: addresses and conditions, and the Events that follow from a change.
//!
//! Owns: composing them. Leaves to others: writing them (`writer`), where the facts come from (the provider).
//! Invariants: the same situation gives the same status, except for times. A condition keeps its time while its status stays.
//! Addresses that are shown are not removed because a read failed, a field is wrong, or the load balancer is being replaced: the
//! provider claims its address by what the status shows.

use k8s_openapi::api::core::v1::{LoadBalancerIngress, PortStatus, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use portico_provider::{Fact, Ingress, IngressAddress, IpMode, Report, Topic, Truth};

use crate::cache::service;
use crate::desired::problem::{Problem, sentence};
use crate::provision::track::Progress;
use crate::reconcile::events::{Notice, Severity};

/// Whether what the Service asks for can be done.
pub(crate) const ACCEPTED: &str = "portico.dev/Accepted";
/// Whether the load balancer is as the Service wants it.
pub(crate) const SYNCED: &str = "portico.dev/Synced";

/// The longest message the API server takes; <https://pkg.go.dev/k8s.io/apimachinery/pkg/apis/meta/v1#Condition>.
const LONGEST_MESSAGE: usize = 32_768;

/// How a message begins that nothing is done about at the moment.
const WAITING_FOR: &str = "waiting for ";

/// All that we own of a Service's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StatusPatch {
    /// `status.loadBalancer.ingress`.
    pub(crate) ingress: Vec<LoadBalancerIngress>,
    /// Our conditions, in the order of their types.
    pub(crate) conditions: Vec<Condition>,
}

impl StatusPatch {
    /// All that a Service shows of it.
    pub(crate) fn shown(service: &Service) -> Self {
        let mut conditions = service::our_conditions(service);
        conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
        Self { ingress: service::ingress(service).to_vec(), conditions }
    }
}

/// The source of the addresses of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// The provider reports them: true whatever the Service has become.
    Provider,
    /// The Service shows them, or they are removed. Refused as [`crate::reconcile::api::ClusterError::Conflict`] if it is no longer as it was seen: one
    /// that was seen before its address was published would take that away.
    Seen,
}

/// The parts that a status is composed of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    /// The Service as last seen.
    pub(crate) service: &'a Service,
    /// The provider's report; `None`: there is none.
    pub(crate) report: Option<&'a Report>,
    /// Problems that the user has to fix.
    pub(crate) problems: &'a [Problem],
    pub(crate) warnings: &'a [Problem],
    pub(crate) progress: &'a Progress,
}

impl Situation<'_> {
    /// The source of the addresses of [`Self::status`].
    pub(crate) fn basis(&self) -> Basis {
        let released = matches!(self.progress, Progress::Releasing(_));
        if !released && self.reported().is_some() { Basis::Provider } else { Basis::Seen }
    }

    /// The report, if it says where clients connect.
    fn reported(&self) -> Option<&Report> {
        self.report.filter(|report| report.ready || !report.ingress.is_empty())
    }

    /// The status, with times from `before` where nothing changed.
    pub(crate) fn status(&self, before: &[Condition], now: Timestamp) -> StatusPatch {
        // The API keeps whole seconds; anything finer would never read back as it was written.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let Self { service, report, problems, warnings, progress } = *self;
        if let Progress::Releasing(what) = progress {
            let fact =
                (Topic::Provisioned.condition_type(), Truth::False, "Releasing".to_owned(), what.clone());
            return StatusPatch {
                ingress: Vec::new(),
                conditions: vec![stamped(service, before, now, fact)],
            };
        }
        let ingress = match self.reported() {
            Some(report) => report.ingress.iter().map(entry).collect(),
            None => service::ingress(service).to_vec(),
        };
        let mut facts = vec![accepted(problems, warnings), provisioned(report, problems, progress, before)];
        facts.extend(synced(problems, progress, before));
        facts.extend(report.iter().flat_map(|report| &report.facts).filter_map(other_fact));
        let unread = report.into_iter().flat_map(|report| &report.unread).map(|topic| topic.condition_type());
        let unsaid: Vec<_> = unread.filter(|type_| facts.iter().all(|fact| fact.0 != *type_)).collect();
        let kept = before.iter().filter(|condition| unsaid.contains(&condition.type_.as_str())).cloned();
        let said = facts.into_iter().map(|fact| stamped(service, before, now, fact));
        let mut conditions: Vec<_> = said.chain(kept).collect();
        conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
        StatusPatch { ingress, conditions }
    }
}

type Claim = (&'static str, Truth, String, String);

fn accepted(problems: &[Problem], warnings: &[Problem]) -> Claim {
    if let Some(first) = problems.first() {
        let all: Vec<Problem> = problems.iter().chain(warnings).cloned().collect();
        return (ACCEPTED, Truth::False, first.reason().to_owned(), sentence(&all));
    }
    match warnings.first() {
        Some(first) => (ACCEPTED, Truth::True, first.reason().to_owned(), sentence(warnings)),
        None => (ACCEPTED, Truth::True, "Accepted".to_owned(), "all fields are understood".to_owned()),
    }
}

fn provisioned(
    report: Option<&Report>,
    problems: &[Problem],
    progress: &Progress,
    before: &[Condition],
) -> Claim {
    let topic = Topic::Provisioned.condition_type();
    let reported =
        report.and_then(|report| report.facts.iter().find(|fact| fact.topic == Topic::Provisioned));
    let ready = report.is_some_and(|report| report.ready);
    let shown = before.iter().find(|condition| condition.type_ == topic && condition.status == "True");
    match (progress, reported, shown) {
        // Nobody asked the provider, or it did not answer: what was provisioned still is, as far as anyone knows.
        (_, _, Some(shown)) if report.is_none() => {
            (topic, Truth::True, shown.reason.clone(), shown.message.clone())
        }
        (Progress::Failed { reason, message }, _, _) if !ready => {
            (topic, Truth::False, (*reason).to_owned(), message.clone())
        }
        // "None has been made yet" is true and no news while it is being made.
        (Progress::Working(what), _, _) if !ready && problems.is_empty() => {
            (topic, Truth::False, "Provisioning".to_owned(), what.clone())
        }
        (Progress::Waiting(what), _, _) if !ready && problems.is_empty() => {
            (topic, Truth::False, "Provisioning".to_owned(), format!("{WAITING_FOR}{what}"))
        }
        (_, Some(Fact { topic: _, holds, reason, message }), _) => {
            (topic, *holds, reason.clone(), message.clone())
        }
        _ if ready => (topic, Truth::True, "Provisioned".to_owned(), addresses(report)),
        _ if !problems.is_empty() => {
            let message = format!("not before the Service is accepted: {}", sentence(problems));
            (topic, Truth::False, "NotAccepted".to_owned(), message)
        }
        _ => (topic, Truth::False, "NotReady".to_owned(), "the provider has not finished it".to_owned()),
    }
}

fn addresses(report: Option<&Report>) -> String {
    let shown = report.into_iter().flat_map(|report| &report.ingress);
    let list: Vec<String> = shown.map(|ingress| ingress.address.to_string()).collect();
    if list.is_empty() { "it exists".to_owned() } else { format!("at {}", list.join(", ")) }
}

/// `None`: nothing to say yet. Steps that are just being executed do not change what was said: a node that comes or
/// goes must not cost two writes for each Service.
fn synced(problems: &[Problem], progress: &Progress, before: &[Condition]) -> Option<Claim> {
    let claim =
        |holds, reason: &str, message: &str| Some((SYNCED, holds, reason.to_owned(), message.to_owned()));
    match progress {
        Progress::Failed { reason, message } => claim(Truth::False, reason, message),
        _ if !problems.is_empty() => claim(Truth::False, "NotAccepted", &sentence(problems)),
        Progress::Settled => claim(Truth::True, "AsDesired", "the load balancer is as the Service wants it"),
        Progress::Waiting(what) => claim(Truth::False, "InProgress", what),
        Progress::Drifted(what) => {
            let message = format!(
                "it differs from what the Service wants, and is left so (--drift report); to be done: {what}"
            );
            claim(Truth::False, "Drifted", &message)
        }
        Progress::Working(_) => {
            let said = before.iter().find(|condition| condition.type_ == SYNCED)?;
            let holds = if said.status == "True" { Truth::True } else { Truth::False };
            claim(holds, &said.reason, &said.message)
        }
        Progress::Releasing(_) => None,
    }
}

fn other_fact(Fact { topic, holds, reason, message }: &Fact) -> Option<Claim> {
    let other = *topic != Topic::Provisioned;
    other.then(|| (topic.condition_type(), *holds, reason.clone(), message.clone()))
}

fn stamped(service: &Service, before: &[Condition], now: Timestamp, claim: Claim) -> Condition {
    let (type_, holds, reason, mut message) = claim;
    let status = match holds {
        Truth::True => "True",
        Truth::False => "False",
        Truth::Unknown => "Unknown",
    };
    let kept = before.iter().find(|old| old.type_ == type_ && old.status == status);
    message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
    Condition {
        last_transition_time: kept.map_or(Time(now), |old| old.last_transition_time.clone()),
        message,
        observed_generation: service.metadata.generation,
        reason,
        status: status.to_owned(),
        type_: type_.to_owned(),
    }
}

/// The condition of a Service that another operator or controller has to let go first.
pub(crate) fn waiting_for_release(
    service: &Service,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Condition {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    stamped(service, &[], now, (service::RELEASED, Truth::False, reason.to_owned(), message))
}

fn entry(Ingress { address, ip_mode, ports }: &Ingress) -> LoadBalancerIngress {
    let (ip, hostname) = match address {
        IngressAddress::Ip(ip) => (Some(ip.to_string()), None),
        IngressAddress::Hostname(name) => (None, Some(name.clone())),
    };
    let ports: Vec<PortStatus> = ports
        .iter()
        .map(|portico_provider::PortStatus { listener, error }| PortStatus {
            error: error.clone(),
            port: listener.port.get().into(),
            protocol: listener.protocol.to_string(),
        })
        .collect();
    let mode = |mode| match mode {
        IpMode::Vip => "VIP".to_owned(),
        IpMode::Proxy => "Proxy".to_owned(),
    };
    LoadBalancerIngress {
        hostname,
        ip,
        ip_mode: ip_mode.map(mode),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// The Events that a change of conditions is worth: every one but "all is as it should be, as always".
pub(crate) fn notices(before: &[Condition], after: &[Condition]) -> Vec<Notice> {
    let refused = after.iter().any(|it| it.type_ == ACCEPTED && it.status == "False");
    let changed = after.iter().filter_map(|new| {
        let old = before.iter().find(|old| old.type_ == new.type_);
        let same = old.is_some_and(|old| {
            (&old.status, &old.reason, &old.message) == (&new.status, &new.reason, &new.message)
        });
        // What is wrong is said by Accepted, what is done by the step's own Event.
        let twice = new.reason == "NotCreated" && refused
            || new.reason == "Provisioning" && !new.message.starts_with(WAITING_FOR);
        let quiet = matches!(new.reason.as_str(), "Accepted" | "InProgress" | "NotAccepted")
            || new.status == "Unknown"
            || twice;
        let first_sync =
            new.type_ == SYNCED && new.status == "True" && old.is_none_or(|old| old.reason == "InProgress");
        (!same && !quiet && !first_sync).then(|| notice(new))
    });
    let mut notices: Vec<Notice> = Vec::new();
    for notice in changed {
        // A failure is in two conditions, and one Event.
        if !notices.iter().any(|other| other.reason == notice.reason && other.note == notice.note) {
            notices.push(notice);
        }
    }
    notices
}

fn notice(condition: &Condition) -> Notice {
    let fine = condition.status == "True"
        || matches!(condition.reason.as_str(), "Provisioning" | "Releasing" | "NodePortOnly");
    let odd = condition.type_ == ACCEPTED;
    let action = condition.type_.rsplit('/').next().unwrap_or_default().to_owned();
    let severity = if fine && !odd { Severity::Normal } else { Severity::Warning };
    Notice { severity, reason: condition.reason.clone(), action, note: condition.message.clone() }
}

#[cfg(test)]
mod tests;
