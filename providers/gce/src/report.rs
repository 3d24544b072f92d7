//! What the Service's status says about its load balancer.
//!
//! Owns: the report. Leaves to others: writing it.
//! Invariant: the address as soon as rules forward all ports, whatever its targets' health (law 10); during a
//! replacement the old one until the new one does.

use std::net::IpAddr;

use portico_provider::{
    Desired, Fact, Ingress, IngressAddress, IpFamily, IpMode, LoadBalancer, Obstacle, PortStatus, Report,
    Topic, Truth,
};

use crate::observed::Observed;
use crate::plan::frontend::{Standing, choose, standing};
use crate::plan::{only_narrows, plan};
use crate::provider::Config;
use crate::resource::Health;
use crate::wanted::translate;

pub(crate) fn report(desired: &LoadBalancer, observed: Option<&Observed>, config: &Config) -> Report {
    let Some(observed) = observed else {
        let message = "no load balancer has been made yet".to_owned();
        return Report {
            facts: vec![fact(Topic::Provisioned, Truth::False, "NotCreated", message)],
            ..Report::default()
        };
    };
    let families = desired.ip_families.iter();
    let serving: Vec<IpAddr> =
        families.filter_map(|family| serving(desired, *family, observed, config)).collect();
    let plan = plan(Desired::Present(desired), Some(observed), config);
    let unsupported = plan.blocked().iter().find(|it| it.obstacle == Obstacle::Unsupported);
    let settled = observed.running().is_none() && only_narrows(&plan) && unsupported.is_none();
    let ready = settled && serving.len() == desired.ip_families.len();
    let failure = plan.steps().iter().find_map(|planned| planned.step.after.as_ref());
    let provisioned = match (serving.is_empty(), failure) {
        (_, Some(failure)) => fact(
            Topic::Provisioned,
            Truth::False,
            "OperationFailed",
            format!("operation {} failed: {}", failure.operation, failure.error),
        ),
        (false, None) if ready => {
            let addresses: Vec<String> = serving.iter().map(ToString::to_string).collect();
            let message = format!("serving at {}", addresses.join(" and "));
            fact(Topic::Provisioned, Truth::True, "Provisioned", message)
        }
        _ => {
            let doing = observed.running().map(|it| format!("{} of {} is under way", it.verb, it.target));
            let message = doing.unwrap_or_else(|| "the load balancer is being made".to_owned());
            fact(Topic::Provisioned, Truth::False, "Provisioning", message)
        }
    };
    let mut ingress: Vec<Ingress> = serving.into_iter().map(|ip| ingress(desired, ip)).collect();
    ingress.sort();
    // A snapshot knows nothing of health, and says nothing.
    let healthy = observed.is_listed().then(|| healthy(observed));
    Report { ingress, ready, facts: std::iter::once(provisioned).chain(healthy).collect() }
}

fn fact(topic: Topic, holds: Truth, reason: &str, message: String) -> Fact {
    Fact { topic, holds, reason: reason.to_owned(), message }
}

/// The address that clients should use: that of the chosen frontend when it forwards every port, else of one that
/// they know, else of any that does.
fn serving(desired: &LoadBalancer, family: IpFamily, observed: &Observed, config: &Config) -> Option<IpAddr> {
    let mut frontends = standing(observed);
    frontends.retain(|it| it.family() == family);
    let whole = |it: &&Standing<'_>| {
        desired.listeners.iter().all(|listener| {
            it.rules.iter().any(|rule| rule.forwards.covers(listener.protocol, listener.port.get()))
        })
    };
    let wanted = translate(desired, config).ok();
    let choices = wanted.map(|wanted| choose(desired, &wanted, observed)).unwrap_or_default();
    let chosen = choices.into_iter().map(|choice| choice.frontend).find(|it| it.family == family);
    let chosen = chosen.map(|frontend| frontend.id);
    let published = desired.published_ips();
    let ranked = [
        frontends.iter().find(|it| Some(&it.id) == chosen.as_ref() && whole(it)),
        frontends.iter().find(|it| published.contains(&it.ip)),
        frontends.iter().find(whole),
    ];
    ranked.into_iter().flatten().next().map(|it| it.ip)
}

fn ingress(desired: &LoadBalancer, ip: IpAddr) -> Ingress {
    let port = |listener: &portico_provider::Listener| PortStatus { listener: listener.key(), error: None };
    let mut ports: Vec<PortStatus> = desired.listeners.iter().map(port).collect();
    ports.sort();
    Ingress { address: IngressAddress::Ip(ip), ip_mode: Some(IpMode::Vip), ports }
}

fn healthy(observed: &Observed) -> Fact {
    let all: Vec<Health> = observed.endpoints.values().flat_map(|group| group.values().copied()).collect();
    let count = |health| all.iter().filter(|it| **it == health).count();
    let (healthy, unknown) = (count(Health::Healthy), count(Health::Unknown));
    let message = format!("{healthy} of {} nodes pass their health check", all.len());
    match (all.len(), healthy, unknown) {
        (0, ..) => {
            let none = "there is no node to send to: nodes need a providerID of gce:// and an IPv4 address";
            fact(Topic::TargetsHealthy, Truth::False, "NoTargets", none.to_owned())
        }
        (_, 0, 0) => {
            let open = format!("{message}: traffic goes to all of them, as a health check can be wrong too");
            fact(Topic::TargetsHealthy, Truth::False, "AllUnhealthy", open)
        }
        (_, 0, _) => fact(Topic::TargetsHealthy, Truth::Unknown, "NotProbedYet", message),
        _ => fact(Topic::TargetsHealthy, Truth::True, "TargetsHealthy", message),
    }
}
