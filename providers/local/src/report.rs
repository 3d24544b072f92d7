//! What the Service's status says about its load balancer.
//!
//! Owns: the report. Leaves to others: writing it.
//! Invariant: addresses as soon as the daemon has them, whatever its targets' health (law 10).

use std::collections::BTreeSet;

use portico_provider::{
    Fact, Ingress, IngressAddress, IpMode, LoadBalancer, PortStatus, ProxyProtocol, Report, Topic, Truth,
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
    let ready = view.state == State::Active && view.listener_errors.is_empty();
    Report {
        ingress: ingress(desired, view),
        ready,
        facts: vec![provisioned(view), healthy(view)],
        unread: Vec::new(),
    }
}

fn fact(topic: Topic, holds: Truth, reason: &str, message: String) -> Fact {
    Fact { topic, holds, reason: reason.to_owned(), message }
}

fn ingress(desired: &LoadBalancer, view: &View) -> Vec<Ingress> {
    // Packets that a node short-cuts would arrive without the PROXY header that the pods expect (k8s#66607).
    let ip_mode = match desired.proxy_protocol {
        ProxyProtocol::Off => IpMode::Vip,
        ProxyProtocol::V2 => IpMode::Proxy,
    };
    let port = |key| PortStatus {
        listener: key,
        error: view.listener_errors.contains_key(&key).then(|| "ListenFailed".to_owned()),
    };
    let ports: Vec<PortStatus> = view.spec.listeners.keys().copied().map(port).collect();
    let entry = |address: &_| Ingress {
        address: IngressAddress::Ip(*address),
        ip_mode: Some(ip_mode),
        ports: ports.clone(),
    };
    view.addresses.iter().map(entry).collect()
}

fn provisioned(view: &View) -> Fact {
    if let Some(error) = view.listener_errors.values().next() {
        return fact(Topic::Provisioned, Truth::False, "ListenFailed", error.clone());
    }
    match view.state {
        State::Provisioning => fact(
            Topic::Provisioned,
            Truth::False,
            "Provisioning",
            "the load balancer is being made".to_owned(),
        ),
        State::Active => {
            let addresses: Vec<String> = view.addresses.iter().map(ToString::to_string).collect();
            fact(
                Topic::Provisioned,
                Truth::True,
                "Provisioned",
                format!("serving at {}", addresses.join(", ")),
            )
        }
    }
}

fn healthy(view: &View) -> Fact {
    let targets: BTreeSet<_> = view.spec.listeners.values().flatten().collect();
    judged(view.state, targets.len(), view.healthy_targets.len(), view.unknown_targets.len())
}

/// What so many targets say, of which so many are healthy and so many not known yet.
fn judged(state: State, all: usize, healthy: usize, unknown: usize) -> Fact {
    let message = format!("{healthy} of {all} targets pass their health check");
    let (holds, reason, message) = match (state, all, healthy, unknown) {
        (State::Provisioning, ..) => (Truth::Unknown, "Provisioning", message),
        (_, 0, ..) => (Truth::False, "NoTargets", "there is no target to send to".to_owned()),
        (_, _, 0, 0) => {
            let open = format!("{message}: traffic goes to all of them, as a health check can be wrong too");
            (Truth::False, "AllUnhealthy", open)
        }
        (_, _, 0, _) => (Truth::Unknown, "Registering", message),
        _ => (Truth::True, "TargetsHealthy", message),
    };
    fact(Topic::TargetsHealthy, holds, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_have_not_answered_yet_are_no_reason_to_warn() {
        assert_eq!(judged(State::Active, 2, 0, 2).holds, Truth::Unknown);
        assert_eq!(judged(State::Active, 2, 0, 1).holds, Truth::Unknown);
        assert_eq!(judged(State::Active, 2, 0, 0).reason, "AllUnhealthy");
        assert_eq!(judged(State::Active, 2, 1, 1).holds, Truth::True);
    }
}
