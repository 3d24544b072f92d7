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
    Report { ingress: ingress(desired, view), ready, facts: vec![provisioned(view), healthy(view)] }
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
    let (healthy, all) = (view.healthy_targets.len(), targets.len());
    let message = format!("{healthy} of {all} targets pass their health check");
    match (view.state, healthy, all) {
        (State::Provisioning, ..) => fact(Topic::TargetsHealthy, Truth::Unknown, "Provisioning", message),
        (_, _, 0) => {
            fact(Topic::TargetsHealthy, Truth::False, "NoTargets", "there is no target to send to".to_owned())
        }
        (_, 0, _) => {
            let open = format!("{message}: traffic goes to all of them, as a health check can be wrong too");
            fact(Topic::TargetsHealthy, Truth::False, "AllUnhealthy", open)
        }
        _ => fact(Topic::TargetsHealthy, Truth::True, "TargetsHealthy", message),
    }
}
