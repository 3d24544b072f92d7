//! The Service's status: its load balancer's addresses, ports and conditions.
//!
//! Owns: the report. Leaves to others: writing it, the status of each port (`report/ports`), other owners' resources
//! (`report/foreign`). Invariants: the hostname as soon as AWS returns it, whatever else; during a replacement the old
//! hostname until the new one serves (law 10).

mod foreign;
mod ports;

use portico_provider::{Fact, Ingress, IngressAddress, LoadBalancer, Report, Scheme, Targets, Topic, Truth};

use crate::cloud::refusal::{self, Refusal};
use crate::cloud::resources::{Health, LifeState, Listener, Target};
use crate::observed::{Balancer, Observed, Snapshot, View};
use crate::plan::{hostname, mismatch};
use crate::quotas::Quotas;
use crate::wanted::{PRESERVE_CLIENT, translate};
use crate::wanted::{Wanted, WantedListener};
use ports::Ports;

pub(crate) fn report(quotas: &Quotas, desired: &LoadBalancer, observed: Option<&Observed>) -> Report {
    let mut report = match observed {
        None => unmade(),
        Some(Observed::Snapshot(snapshot)) => by_tags(desired, snapshot),
        Some(Observed::Full(view)) => full(quotas, desired, view),
    };
    if report.ready {
        report.facts.extend(hairpin(quotas, desired));
        report.facts.extend(observed.and_then(refused));
    }
    report
}

/// An internal load balancer that keeps clients' addresses: where it picks the machine that a connection comes from,
/// source and destination are the same there, and the connection times out. From outside, clients have come through
/// a gateway by then.
fn hairpin(quotas: &Quotas, desired: &LoadBalancer) -> Option<Fact> {
    let wanted = translate(desired, quotas).ok()?;
    let keeps = |listener: &&WantedListener| {
        listener.attributes.get(PRESERVE_CLIENT).is_some_and(|value| value == "true")
    };
    let ports: Vec<String> =
        wanted.listeners.values().filter(keeps).map(|listener| listener.spec.port.to_string()).collect();
    if wanted.scheme != Scheme::Internal || ports.is_empty() {
        return None;
    }
    let what = match desired.targets {
        Targets::Nodes(_) => "nodes, and pods on them,",
        Targets::Pods(_) => "pods behind it",
    };
    let message = format!(
        "{what} that connect to port {} time out whenever they are given themselves as the target, as their address is \
         kept: let them use the cluster IP, or set annotation {} to {PRESERVE_CLIENT}=false (not possible for UDP)",
        ports.join(", "),
        crate::capabilities::GROUP_ATTRIBUTES
    );
    Some(fact(Topic::ReachableFromTargets, Truth::False, "ClientAddressKept", message))
}

/// Targets that AWS did not take: the others serve.
fn refused(observed: &Observed) -> Option<Fact> {
    let all: Vec<(&Target, &Health)> = match observed {
        Observed::Full(view) => view.target_groups.values().flat_map(|group| &group.targets).collect(),
        Observed::Snapshot(snapshot) => snapshot.targets.iter().flatten().flat_map(|(_, its)| its).collect(),
    };
    let refused: Vec<(&Target, &Refusal)> = all
        .iter()
        .filter_map(|(target, health)| match health {
            Health::Refused(refusal) => Some((*target, refusal)),
            _ => None,
        })
        .collect();
    if refused.is_empty() {
        return None;
    }
    let message = format!(
        "AWS refuses {} of {} targets; the others serve, and these are offered again from time to time: {}",
        refused.len(),
        all.len(),
        refusal::describe(&refused)
    );
    Some(fact(Topic::TargetsAccepted, Truth::False, "TargetsRefused", message))
}

/// The synced hash says that all was done, and the status where; targets' health is read when there is something to do.
fn by_tags(desired: &LoadBalancer, snapshot: &Snapshot) -> Report {
    if let (Some(_), Some(hostname)) = (&snapshot.synced, hostname(desired, snapshot)) {
        return Report {
            ingress: vec![ingress(hostname)],
            ready: true,
            facts: vec![provisioned(hostname)],
            unread: unread(snapshot),
        };
    }
    let message = "not all of it has been made or read yet".to_owned();
    let facts = vec![fact(Topic::Provisioned, Truth::Unknown, "Unfinished", message)];
    Report { facts, ..Report::default() }
}

/// Tags say nothing of targets, and of those that this process registered not whether they are healthy.
fn unread(snapshot: &Snapshot) -> Vec<Topic> {
    let accepted = snapshot.targets.is_none().then_some(Topic::TargetsAccepted);
    std::iter::once(Topic::TargetsHealthy).chain(accepted).collect()
}

fn unmade() -> Report {
    let message = "no load balancer has been made yet".to_owned();
    Report { facts: vec![fact(Topic::Provisioned, Truth::False, "NotCreated", message)], ..Report::default() }
}

fn fact(topic: Topic, holds: Truth, reason: &str, message: String) -> Fact {
    Fact { topic, holds, reason: reason.to_owned(), message }
}

fn ingress(hostname: &str) -> Ingress {
    Ingress { address: IngressAddress::Hostname(hostname.to_owned()), ip_mode: None, ports: Vec::new() }
}

fn provisioned(hostname: &str) -> Fact {
    fact(Topic::Provisioned, Truth::True, "Provisioned", format!("serving at {hostname}"))
}

fn full(quotas: &Quotas, desired: &LoadBalancer, view: &View) -> Report {
    let Some(balancer) = shown(quotas, desired, view) else { return unmade() };
    let (name, hostname) = (&balancer.described.name, &balancer.described.hostname);
    let ports = Ports::of(desired, view, balancer);
    let mut report = Report { ingress: vec![ingress(hostname)], ..Report::default() };
    report.facts.push(match &balancer.described.state {
        LifeState::Active | LifeState::Impaired(_) => {
            report.ready = ports.all_have_listeners();
            report.ingress[0].ports = ports.statuses();
            ports.provisioned(balancer)
        }
        LifeState::Provisioning => {
            let message = format!(
                "load balancer {name} is being made: {hostname} serves when AWS says that it is active"
            );
            fact(Topic::Provisioned, Truth::False, "Provisioning", message)
        }
        LifeState::Failed(why) => {
            report.ingress.clear();
            let message = format!("AWS could not make load balancer {name}: {why}");
            fact(Topic::Provisioned, Truth::False, "ProvisioningFailed", message)
        }
    });
    if balancer.serves() {
        report.facts.push(ports.healthy());
        report.facts.extend(foreign::report(desired, view, balancer));
    }
    report
}

/// The one clients should use: it serves, and fits if any does.
fn shown<'a>(quotas: &Quotas, desired: &LoadBalancer, view: &'a View) -> Option<&'a Balancer> {
    let wanted = translate(desired, quotas).ok();
    let rank = |balancer: &&Balancer| {
        let serves = matches!(balancer.described.state, LifeState::Active | LifeState::Impaired(_));
        let fits =
            wanted.as_ref().is_some_and(|wanted| mismatch(wanted, balancer, &view.subnet_names).is_none());
        let taken_in = wanted.as_ref().is_none_or(|wanted| has_taken_in(view, balancer, wanted));
        (!serves, !taken_in, !fits)
    };
    view.load_balancers.values().filter(|it| it.is_used()).min_by_key(rank)
}

/// Whether a shared load balancer, which serves others already, does the same for this Service: all of its listeners are
/// there, and targets behind them were asked. One of its own takes longer to be made than that.
fn has_taken_in(view: &View, balancer: &Balancer, wanted: &Wanted<'_>) -> bool {
    if balancer.shared.is_none() {
        return true;
    }
    let asked = |listener: &Listener| {
        let group = view.target_groups.values().find(|it| Some(&it.described.id) == listener.group.as_ref());
        group.is_some_and(|group| {
            let mut all = group.targets.values();
            group.targets.is_empty() || all.any(|health| !matches!(health, Health::Initial | Health::Unused))
        })
    };
    wanted
        .listeners
        .keys()
        .filter(|port| !balancer.taken.contains_key(port))
        .all(|port| balancer.listeners.get(port).is_some_and(asked))
}
