//! Names of a load balancer's parts, under the annotations that GKE writes.
//!
//! Owns: keys and choice. Leaves to others: writing them on the Service (the operator).
//! Invariant: every key is always there; where several resources could be named it is the first by name.
//! Source of the keys: ingress-gce `pkg/l4/annotations/service.go`.

use std::collections::BTreeMap;

use portico_provider::{IpFamily, Protocol};

use crate::observed::Observed;
use crate::resource::{Firewall, ForwardingRule, Forwards, Resource};

/// The resource that a key names.
#[derive(Clone, Copy)]
enum Part {
    BackendService,
    HealthCheck,
    /// `None`: all protocols.
    Rule(IpFamily, Option<Protocol>),
    /// By the end of its name.
    Firewall(&'static str),
}

const KEYS: [(&str, Part); 14] = [
    ("service.kubernetes.io/backend-service", Part::BackendService),
    ("service.kubernetes.io/healthcheck", Part::HealthCheck),
    ("service.kubernetes.io/tcp-forwarding-rule", Part::Rule(IpFamily::IPv4, Some(Protocol::Tcp))),
    ("service.kubernetes.io/udp-forwarding-rule", Part::Rule(IpFamily::IPv4, Some(Protocol::Udp))),
    ("service.kubernetes.io/l3-forwarding-rule", Part::Rule(IpFamily::IPv4, None)),
    ("service.kubernetes.io/tcp-forwarding-rule-ipv6", Part::Rule(IpFamily::IPv6, Some(Protocol::Tcp))),
    ("service.kubernetes.io/udp-forwarding-rule-ipv6", Part::Rule(IpFamily::IPv6, Some(Protocol::Udp))),
    ("service.kubernetes.io/l3-forwarding-rule-ipv6", Part::Rule(IpFamily::IPv6, None)),
    ("service.kubernetes.io/firewall-rule", Part::Firewall("-fw")),
    ("service.kubernetes.io/firewall-rule-ipv6", Part::Firewall("-fw6")),
    ("service.kubernetes.io/firewall-rule-deny", Part::Firewall("-deny")),
    ("service.kubernetes.io/firewall-rule-deny-ipv6", Part::Firewall("-deny6")),
    ("service.kubernetes.io/firewall-rule-for-hc", Part::Firewall("-hc-fw")),
    ("service.kubernetes.io/firewall-rule-for-hc-ipv6", Part::Firewall("-hc-fw6")),
];

/// Every key, and the name that stands under it.
pub(crate) fn parts(observed: Option<&Observed>) -> BTreeMap<&'static str, Option<String>> {
    KEYS.into_iter().map(|(key, part)| (key, observed.and_then(|observed| name(part, observed)))).collect()
}

fn name(part: Part, observed: &Observed) -> Option<String> {
    observed.resources.values().find_map(|resource| match (part, resource) {
        (Part::BackendService, Resource::BackendService(service)) => Some(service.name.clone()),
        (Part::HealthCheck, Resource::HealthCheck(check)) => Some(check.name.clone()),
        (Part::Rule(family, protocol), Resource::ForwardingRule(rule)) => {
            is_of(rule, family, protocol).then(|| rule.name.clone())
        }
        (Part::Firewall(end), Resource::Firewall(firewall)) => {
            is_part(firewall, end).then(|| firewall.name.clone())
        }
        _ => None,
    })
}

fn is_of(rule: &ForwardingRule, family: IpFamily, protocol: Option<Protocol>) -> bool {
    let own = match &rule.forwards {
        Forwards::Ports(protocol, _) | Forwards::AllPorts(protocol) => Some(*protocol),
        Forwards::Everything => None,
    };
    own == protocol && rule.family == family
}

/// `…-hc-fw` ends in `-fw`, too.
fn is_part(firewall: &Firewall, end: &str) -> bool {
    let probes = |name: &str| name.contains("-hc-fw");
    firewall.name.ends_with(end) && probes(&firewall.name) == probes(end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::resource::Verdict;

    fn mk_firewall(name: &str) -> Resource {
        Resource::Firewall(Firewall {
            name: name.to_owned(),
            network: "net".to_owned(),
            priority: 999,
            sources: BTreeSet::new(),
            destinations: BTreeSet::new(),
            verdict: Verdict::DenyAll,
        })
    }

    #[test]
    fn a_firewall_for_probes_is_not_taken_for_that_of_clients() {
        let mut observed = Observed::default();
        for name in ["portico-a-hc-fw", "portico-a-hc-fw6"] {
            let firewall = mk_firewall(name);
            observed.resources.insert(firewall.id(), firewall);
        }
        let named: BTreeMap<_, _> =
            parts(Some(&observed)).into_iter().filter_map(|(key, name)| Some((key, name?))).collect();
        assert_eq!(
            named,
            BTreeMap::from([
                ("service.kubernetes.io/firewall-rule-for-hc", "portico-a-hc-fw".to_owned()),
                ("service.kubernetes.io/firewall-rule-for-hc-ipv6", "portico-a-hc-fw6".to_owned()),
            ])
        );
        assert!(parts(None).values().all(Option::is_none), "all are taken back");
    }
}
