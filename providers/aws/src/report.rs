//! What the Service's status says about its load balancer.
//!
//! Owns: the report. Leaves to others: writing it. Invariants: the hostname as soon as the load balancer is active,
//! whatever its targets' health; during a replacement the old hostname until then (law 10).

use portico_provider::{
    Fact, Ingress, IngressAddress, LoadBalancer, PortStatus, Report, Scheme, Targets, Topic, Truth,
};

use crate::cloud::refusal::{self, Refusal};
use crate::cloud::resources::{Health, LifeState, Listener, Target};
use crate::observed::{Balancer, Observed, Snapshot, View};
use crate::plan::{hostname, mismatch};
use crate::quotas::Quotas;
use crate::translate::{PRESERVE_CLIENT, translate};
use crate::wanted::{Wanted, WantedListener};

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
        Observed::Full(view) => view.groups.values().flat_map(|group| &group.targets).collect(),
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
        refusal::told(&refused)
    );
    Some(fact(Topic::TargetsAccepted, Truth::False, "TargetsRefused", message))
}

/// A seal says that all was done, and the status where; how targets are is read when there is something to do.
fn by_tags(desired: &LoadBalancer, snapshot: &Snapshot) -> Report {
    if let (Some(_), Some(hostname)) = (&snapshot.sealed, hostname(desired, snapshot)) {
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
    let name = &balancer.facts.name;
    let (truth, reason, message) = match &balancer.facts.state {
        LifeState::Active => {
            let hostname = &balancer.facts.hostname;
            let facts = vec![provisioned(hostname), healthy(view, balancer)];
            return Report {
                ingress: vec![shown_at(desired, balancer)],
                ready: true,
                facts,
                unread: Vec::new(),
            };
        }
        LifeState::Impaired(why) => {
            let message = format!("load balancer {name} serves, but AWS cannot scale it: {why}");
            let facts =
                vec![fact(Topic::Provisioned, Truth::True, "Impaired", message), healthy(view, balancer)];
            return Report {
                ingress: vec![shown_at(desired, balancer)],
                ready: true,
                facts,
                unread: Vec::new(),
            };
        }
        LifeState::Provisioning => {
            (Truth::False, "Provisioning", format!("load balancer {name} is being made"))
        }
        LifeState::Failed(why) => {
            (Truth::False, "ProvisioningFailed", format!("AWS could not make load balancer {name}: {why}"))
        }
    };
    Report { facts: vec![fact(Topic::Provisioned, truth, reason, message)], ..Report::default() }
}

/// The one clients should use: it serves, and fits if any does.
fn shown<'a>(quotas: &Quotas, desired: &LoadBalancer, view: &'a View) -> Option<&'a Balancer> {
    let wanted = translate(desired, quotas).ok();
    let rank = |balancer: &&Balancer| {
        let serves = matches!(balancer.facts.state, LifeState::Active | LifeState::Impaired(_));
        let fits = wanted
            .as_ref()
            .is_some_and(|wanted| mismatch(desired, wanted, balancer, &view.subnet_names).is_none());
        let taken_in = wanted.as_ref().is_none_or(|wanted| has_taken_in(view, balancer, wanted));
        (!serves, !taken_in, !fits)
    };
    view.load_balancers.values().filter(|it| it.is_used()).min_by_key(rank)
}

/// Whether a shared load balancer, which serves others already, does the same for this Service: all of its listeners are
/// there, and targets behind them were asked. One of its own takes longer to be made than that.
fn has_taken_in(view: &View, balancer: &Balancer, wanted: &Wanted) -> bool {
    let Some(share) = &balancer.shared else { return true };
    let asked = |listener: &Listener| {
        let group = view.groups.values().find(|it| Some(&it.facts.id) == listener.group.as_ref());
        group.is_some_and(|group| {
            let mut all = group.targets.values();
            group.targets.is_empty() || all.any(|health| !matches!(health, Health::Initial | Health::Unused))
        })
    };
    wanted
        .listeners
        .keys()
        .filter(|port| !share.taken.contains_key(port))
        .all(|port| balancer.listeners.get(port).is_some_and(asked))
}

/// The hostname; and, where others of its group have listeners that it wants, which of its ports serve.
fn shown_at(desired: &LoadBalancer, balancer: &Balancer) -> Ingress {
    let mut shown = ingress(&balancer.facts.hostname);
    let taken = |port: u16| balancer.shared.as_ref().is_some_and(|share| share.taken.contains_key(&port));
    if desired.listeners.iter().any(|listener| taken(listener.port.get())) {
        let port = |listener: &portico_provider::Listener| PortStatus {
            listener: listener.key(),
            error: taken(listener.port.get()).then(|| "ListenerConflict".to_owned()),
        };
        shown.ports = desired.listeners.iter().map(port).collect();
    }
    shown
}

fn healthy(view: &View, balancer: &Balancer) -> Fact {
    let used = |id| balancer.listeners.values().any(|listener| listener.group.as_ref() == Some(id));
    let groups = view.groups.values().filter(|group| used(&group.facts.id));
    let health = groups.flat_map(|group| group.targets.values());
    let health: Vec<&Health> = health.filter(|health| !matches!(health, Health::Refused(_))).collect();
    let (all, good) = (health.len(), health.iter().filter(|health| ***health == Health::Healthy).count());
    let unasked = health.iter().filter(|health| ***health == Health::Initial).count();
    let message = format!("{good} of {all} targets pass their health check");
    let topic = Topic::TargetsHealthy;
    match (all, good, unasked) {
        (0, ..) => fact(topic, Truth::False, "NoTargets", "there is no target to send to".to_owned()),
        (_, 0, 0) => {
            let open = format!("{message}: traffic goes to all of them, as a health check can be wrong too");
            fact(topic, Truth::False, "AllUnhealthy", open)
        }
        (_, 0, _) => fact(topic, Truth::Unknown, "Registering", message),
        _ => fact(topic, Truth::True, "TargetsHealthy", message),
    }
}
