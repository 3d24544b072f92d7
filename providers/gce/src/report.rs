//! The report for the Service's status.
//!
//! Owns: the report. Leaves to others: writing it, what is said of nodes' health (`report/health`).
//! Invariants: the address as soon as it forwards anything, whatever its targets' health (law 10), with an error at each port
//! that nothing forwards. During a replacement the old one stays until the new one forwards all ports.

mod health;
mod ports;

use std::net::IpAddr;

use portico_provider::{
    Desired, Fact, Ingress, IngressAddress, IpFamily, IpMode, LoadBalancer, Obstacle, PortStatus, Report,
    Targets, Topic, Truth,
};

use crate::cloud::Operation;
use crate::config::Config;
use crate::observed::Observed;
use crate::observed::frontends::{ObservedFrontend, existing_frontends};
use crate::plan::frontend::choose;
use crate::plan::targets::serving_scheme;
use crate::plan::{backends, only_removes, plan};
use crate::resource::{Endpoint, NO_ADDRESS};
use crate::subset::elsewhere;
use crate::wanted::{behind_desired, translate};

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
    let mut ingress: Vec<Ingress> = serving.iter().map(|ip| ingress(desired, *ip, observed)).collect();
    ingress.sort();
    let plan = plan(Desired::Present(desired), Some(observed), config);
    let unsupported = plan.blocked().iter().find(|it| it.obstacle == Obstacle::Unsupported);
    let adds_nodes = |operation: &Operation| operation.target.kind.is_group();
    let settled =
        observed.running().is_none_or(adds_nodes) && only_removes(&plan, observed) && unsupported.is_none();
    let lacking = ports::lacking(&ingress);
    let ready = settled && serving.len() == desired.ip_families.len() && lacking.is_none();
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
            let doing = doing.unwrap_or_else(|| "the load balancer is being made".to_owned());
            let ports = lacking.map(|ports| format!("; {ports}")).unwrap_or_default();
            fact(Topic::Provisioned, Truth::False, "Provisioning", format!("{doing}{ports}"))
        }
    };
    // A snapshot knows nothing of health, and says nothing.
    let healthy = observed
        .nodes()
        .map(|nodes| health::fact(&desired.ip_families, &nodes, fitting(desired, observed, config)));
    let facts = std::iter::once(provisioned)
        .chain(healthy)
        .chain(accepted(desired, observed, config))
        .chain(foreign(observed));
    Report { ingress, ready, facts: facts.collect(), unread: Vec::new() }
}

/// Forwarding rules of others on this Service's backend service; Portico leaves them.
fn foreign(observed: &Observed) -> Option<Fact> {
    let rules: Vec<&str> = observed.foreign_rules().into_iter().collect();
    let message = format!(
        "forwarding rules that Portico did not create send to its backend service: {}; delete them by hand if they should \
         not",
        rules.join(", ")
    );
    (!rules.is_empty()).then(|| fact(Topic::NothingForeign, Truth::False, "ForeignRule", message))
}

/// How many nodes are to be in its groups.
fn fitting(desired: &LoadBalancer, observed: &Observed, config: &Config) -> usize {
    let scheme = serving_scheme(observed).unwrap_or(desired.scheme);
    let (groups, zones) = behind_desired(desired, backends(observed, config), scheme, &config.region);
    observed.without_refused(&groups, &zones).values().map(std::collections::BTreeSet::len).sum()
}

fn fact(topic: Topic, holds: Truth, reason: &str, message: String) -> Fact {
    Fact { topic, holds, reason: reason.to_owned(), message }
}

/// The address that clients should use: that of the chosen frontend when it serves every port, else of one that they know,
/// else of any that does, else of the chosen as soon as a rule of it is accepted.
fn serving(desired: &LoadBalancer, family: IpFamily, observed: &Observed, config: &Config) -> Option<IpAddr> {
    let mut frontends = existing_frontends(observed);
    frontends.retain(|it| it.family() == family);
    let whole = |it: &&ObservedFrontend<'_>| {
        desired.listeners.iter().all(|listener| {
            it.rules.iter().any(|rule| rule.forwards.covers(listener.protocol, listener.port.get()))
        })
    };
    let wanted = translate(desired, config).ok();
    let choices = wanted.map(|wanted| choose(desired, &wanted, observed)).unwrap_or_default();
    let chosen = choices.into_iter().filter_map(|choice| choice.frontend).find(|it| it.family == family);
    let chosen = chosen.map(|frontend| frontend.id);
    let published = desired.published_ips();
    let ranked = [
        frontends.iter().find(|it| Some(&it.id) == chosen.as_ref() && whole(it)),
        frontends.iter().find(|it| published.contains(&it.ip)),
        frontends.iter().find(whole),
        frontends.iter().find(|it| Some(&it.id) == chosen.as_ref()),
    ];
    ranked.into_iter().flatten().next().map(|it| it.ip)
}

fn ingress(desired: &LoadBalancer, ip: IpAddr, observed: &Observed) -> Ingress {
    let mut ports: Vec<PortStatus> = desired
        .listeners
        .iter()
        .map(|listener| ports::status(listener, ip, &desired.owner, observed))
        .collect();
    ports.sort();
    Ingress { address: IngressAddress::Ip(ip), ip_mode: Some(IpMode::Vip), ports }
}

/// So many nodes are named; the rest are counted.
const NAMED: usize = 3;

/// Nodes that Google takes no traffic to, while the others serve.
fn accepted(desired: &LoadBalancer, observed: &Observed, config: &Config) -> Option<Fact> {
    let scheme = serving_scheme(observed).unwrap_or(desired.scheme);
    let (groups, zones) = behind_desired(desired, backends(observed, config), scheme, &config.region);
    let lacking = observed.lacks(&groups, &zones).into_iter();
    let mut all: Vec<String> = lacking
        .map(|((zone, Endpoint { instance, ip }), refusal)| {
            let at = if *ip == NO_ADDRESS { String::new() } else { format!(" at {ip}") };
            format!("{instance} in {zone}{at} ({})", refusal.message)
        })
        .collect();
    if let Targets::Nodes(nodes) = &desired.targets {
        let far = elsewhere(nodes, &config.region);
        all.extend(far.into_iter().map(|(zone, Endpoint { instance, .. })| {
            format!("{instance} in {zone} (not in region {})", config.region)
        }));
    }
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = all.len().checked_sub(NAMED).filter(|more| *more > 0);
    let more = more.map(|more| format!("; and {more} more")).unwrap_or_default();
    let message = format!(
        "{} nodes cannot be taken, and the others serve: {named}{more}. A node's spec.providerID must name its instance \
         and zone, its InternalIP the instance's first interface in --gce-network; they are offered again from time to \
         time. Or exclude it: label node.kubernetes.io/exclude-from-external-load-balancers",
        all.len()
    );
    (!all.is_empty()).then(|| fact(Topic::TargetsAccepted, Truth::False, "TargetsRefused", message))
}
