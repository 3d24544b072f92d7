//! The report for the Service's status.
//!
//! Owns: the report. Leaves to others: writing it.
//! Invariant: addresses as soon as the daemon has them, whatever its targets' health (law 10). What is said holds for each
//! port of the Service; one for which it does not hold is named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portico_provider::{
    Fact, Ingress, IngressAddress, IpMode, ListenerKey, LoadBalancer, PortStatus, Report, Topic, Truth,
};

use crate::api::{State, View};

pub(crate) fn report(desired: &LoadBalancer, observed: Option<&View>) -> Report {
    let Some(view) = observed else {
        let message = "no load balancer has been made yet".to_owned();
        return Report {
            facts: vec![fact(Topic::Provisioned, Truth::False, "NotCreated", message)],
            ..Report::default()
        };
    };
    let faults = faults(desired, view);
    Report {
        ingress: ingress(desired, view, &faults),
        ready: view.state == State::Active && faults.is_empty(),
        facts: vec![provisioned(view, &faults), healthy(desired, view)],
        unread: Vec::new(),
    }
}

fn fact(topic: Topic, holds: Truth, reason: &str, message: String) -> Fact {
    Fact { topic, holds, reason: reason.to_owned(), message }
}

/// Why a port is not served.
#[derive(Debug)]
struct Fault {
    reason: &'static str,
    message: String,
}

/// Ports of the Service that are not served, each with why.
fn faults(desired: &LoadBalancer, view: &View) -> BTreeMap<ListenerKey, Fault> {
    let fault = |key: ListenerKey| match view.listener_errors.get(&key) {
        Some(error) => Some(Fault { reason: "ListenFailed", message: error.clone() }),
        None if view.spec.listeners.contains_key(&key) => None,
        None => {
            let message = format!("{key} is not served yet: the load balancer has no such listener");
            Some(Fault { reason: "ListenerMissing", message })
        }
    };
    let keys = desired.listeners.iter().map(portico_provider::Listener::key);
    keys.filter_map(|key| Some((key, fault(key)?))).collect()
}

fn ingress(desired: &LoadBalancer, view: &View, faults: &BTreeMap<ListenerKey, Fault>) -> Vec<Ingress> {
    let port = |listener: &portico_provider::Listener| PortStatus {
        listener: listener.key(),
        error: faults.get(&listener.key()).map(|fault| format!("portico.dev/{}", fault.reason)),
    };
    let ports: Vec<PortStatus> = desired.listeners.iter().map(port).collect();
    let entry = |address: &_| Ingress {
        address: IngressAddress::Ip(*address),
        // Connections end here and new ones go to the targets: a packet that a node served by itself would have
        // another source than one that came through, and no PROXY header (k8s#66607).
        ip_mode: Some(IpMode::Proxy),
        ports: ports.clone(),
    };
    view.addresses.iter().map(entry).collect()
}

fn provisioned(view: &View, faults: &BTreeMap<ListenerKey, Fault>) -> Fact {
    if view.state == State::Provisioning {
        let message = "the load balancer is being made".to_owned();
        return fact(Topic::Provisioned, Truth::False, "Provisioning", message);
    }
    if let Some(first) = faults.values().next() {
        let messages: Vec<&str> = faults.values().map(|fault| fault.message.as_str()).collect();
        return fact(Topic::Provisioned, Truth::False, first.reason, messages.join("; "));
    }
    let addresses: Vec<String> = view.addresses.iter().map(ToString::to_string).collect();
    let message = format!("serving at {}", addresses.join(", "));
    fact(Topic::Provisioned, Truth::True, "Provisioned", message)
}

/// The health of one listener's targets, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Capacity {
    /// There are none.
    None,
    /// All fail their check.
    Unhealthy,
    /// None is healthy, and some are not known yet.
    Unknown,
    /// At least one is healthy.
    Healthy,
}

fn capacity(targets: &BTreeSet<SocketAddr>, view: &View) -> Capacity {
    if targets.is_empty() {
        Capacity::None
    } else if !targets.is_disjoint(&view.healthy_targets) {
        Capacity::Healthy
    } else if targets.is_disjoint(&view.unknown_targets) {
        Capacity::Unhealthy
    } else {
        Capacity::Unknown
    }
}

fn healthy(desired: &LoadBalancer, view: &View) -> Fact {
    let behind = |key: &ListenerKey| view.spec.listeners.get(key);
    let keys: BTreeSet<ListenerKey> = desired.listeners.iter().map(portico_provider::Listener::key).collect();
    let each: BTreeMap<ListenerKey, Capacity> =
        keys.iter().filter_map(|key| Some((*key, capacity(behind(key)?, view)))).collect();
    let all: BTreeSet<SocketAddr> = keys.iter().filter_map(behind).flatten().copied().collect();
    let passing = all.intersection(&view.healthy_targets).count();
    let message = format!("{passing} of {} targets pass their health check", all.len());
    if view.state == State::Provisioning {
        return fact(Topic::TargetsHealthy, Truth::Unknown, "Provisioning", message);
    }
    let of = |capacity| {
        let ports =
            each.iter().filter(|(_key, found)| **found == capacity).map(|(key, _found)| key.to_string());
        Some(ports.collect::<Vec<_>>().join(", ")).filter(|ports| !ports.is_empty())
    };
    let (none, unhealthy, unknown) = (of(Capacity::None), of(Capacity::Unhealthy), of(Capacity::Unknown));
    let open = "traffic goes to all of them, as a health check can be wrong too";
    let clauses = [
        none.map(|ports| format!("no target for {ports}")),
        unhealthy.map(|ports| format!("none passes for {ports}: {open}")),
        unknown.map(|ports| format!("not known yet for {ports}")),
    ];
    let message = [Some(message)].into_iter().chain(clauses).flatten().collect::<Vec<_>>().join("; ");
    let (holds, reason) = match each.values().min().copied().unwrap_or(Capacity::None) {
        Capacity::None => (Truth::False, "NoTargets"),
        Capacity::Unhealthy => (Truth::False, "AllUnhealthy"),
        Capacity::Unknown => (Truth::Unknown, "Registering"),
        Capacity::Healthy => (Truth::True, "TargetsHealthy"),
    };
    fact(Topic::TargetsHealthy, holds, reason, message)
}

#[cfg(test)]
mod tests;
