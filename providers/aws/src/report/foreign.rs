//! Resources of others on this Service's own: named, and left as they are.
//!
//! Owns: the words. Leaves to others: owners (`observe/members`), reading rules (`cloud/sdk/ec2`).
//! Invariant: a rule that admits clients whom the Service does not has a reason of its own.

use ipnet::IpNet;
use portico_provider::{Fact, LoadBalancer, Topic, Truth};

use super::fact;
use crate::cloud::resources::{ForeignRule, Rule, RuleProtocol, Source};
use crate::observed::{Balancer, View};

pub(super) fn report(desired: &LoadBalancer, view: &View, balancer: &Balancer) -> Option<Fact> {
    let front =
        || view.security_groups.values().filter(|it| balancer.described.security_groups.contains(&it.id));
    let own: Vec<&Rule> = front().flat_map(|it| &it.rules).collect();
    let (mut opening, mut others) = (Vec::new(), Vec::new());
    for security_group in front() {
        for rule in &security_group.foreign {
            let words = format!("{rule} (security group {})", security_group.id);
            if opens(desired, &own, rule) { opening.push(words) } else { others.push(words) }
        }
    }
    let name = &balancer.described.name;
    let listeners = balancer.taken.iter().filter(|(_, owner)| owner.is_none());
    let listeners: Vec<String> = listeners.map(|(port, _)| port.to_string()).collect();
    let mut parts = Vec::new();
    if !opening.is_empty() {
        parts.push(format!(
            "rules let in whom the Service does not: {}: revoke them by hand",
            opening.join(", ")
        ));
    }
    if !others.is_empty() {
        parts.push(format!("rules that Portico did not write: {}", others.join(", ")));
    }
    if !listeners.is_empty() {
        parts.push(format!(
            "load balancer {name} has another owner's listener on port {}",
            listeners.join(", ")
        ));
    }
    let reason = match (opening.is_empty(), others.is_empty(), listeners.is_empty()) {
        (false, ..) => "ForeignRuleOpens",
        (_, _, false) => "ForeignListener",
        (_, false, _) => "ForeignRule",
        _ => return None,
    };
    let message = format!("{}; all of it is left as it is", parts.join("; "));
    Some(fact(Topic::NothingForeign, Truth::False, reason, message))
}

/// Whether a rule admits clients to a port of the Service whom none of our own rules does.
fn opens(desired: &LoadBalancer, own: &[&Rule], rule: &ForeignRule) -> bool {
    let source: Option<IpNet> = rule.source.parse().ok();
    let lets_in = |own: &Rule| match (&own.source, source) {
        (Source::Range(range), Some(source)) => range.contains(&source),
        // Whoever has a security group has an address.
        (Source::Range(range), None) => range.prefix_len() == 0,
        (Source::PrefixList(list), _) => *list == rule.source,
    };
    desired.listeners.iter().any(|listener| {
        let protocol = match listener.protocol {
            portico_provider::Protocol::Tcp => RuleProtocol::Tcp,
            portico_provider::Protocol::Udp => RuleProtocol::Udp,
            portico_provider::Protocol::Sctp => return false,
        };
        let port = listener.port.get();
        let ours = own.iter().any(|it| it.protocol == protocol && it.port == port && lets_in(it));
        rule.opens(protocol, port) && !ours
    })
}
