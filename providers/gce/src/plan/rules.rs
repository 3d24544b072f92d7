//! Forwarding rules for ports.
//!
//! Owns: which rules a frontend is missing. Leaves to others: when one goes.
//! Invariant: rules cannot change, so ports are added by further rules and a rule stays as long as any of its ports is
//! wanted. A port that is not is shut by the firewall. So no port is ever interrupted for another's sake.

use std::collections::BTreeSet;

use portico_provider::{IpFamily, Protocol};

use crate::names::fnv;
use crate::observed::Observed;
use crate::observed::frontends::existing_frontends;
use crate::resource::{AddressRef, ForwardingRule, Forwards, Place};
use crate::wanted::{Frontend, Source, Wanted};

use super::address;

/// So many ports a rule can list.
const LISTED: usize = 5;

/// The rules of a frontend.
pub(super) fn of<'a>(
    wanted: &'a Frontend,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a ForwardingRule> {
    let own = existing_frontends(observed).into_iter().filter(|it| it.id == wanted.id);
    own.flat_map(|it| it.rules)
}

/// Rules for each port that none forwards yet.
pub(super) fn missing(
    wanted: &Wanted,
    frontend: &Frontend,
    observed: &Observed,
    place: Place,
    backend_service: &str,
) -> Vec<ForwardingRule> {
    let present: Vec<&ForwardingRule> = of(frontend, observed).collect();
    let covered = |(protocol, port): &(Protocol, u16)| {
        present.iter().any(|rule| rule.forwards.covers(*protocol, *port))
    };
    let uncovered: BTreeSet<_> = wanted.ports.iter().filter(|key| !covered(key)).copied().collect();
    let Some(address) = address(frontend, observed) else { return Vec::new() };
    let subnetwork = frontend.subnetwork.clone();
    let place = subnetwork.map(|subnetwork| Place { subnetwork, ..place });
    shapes(frontend.family, &uncovered, present.is_empty())
        .into_iter()
        .map(|forwards| ForwardingRule {
            name: wanted.names.part(&suffix(&frontend.id, &forwards)),
            family: frontend.family,
            scheme: frontend.scheme,
            forwards,
            address: address.clone(),
            backend_service: backend_service.to_owned(),
            tier: frontend.tier,
            place: place.clone(),
            global_access: wanted.global_access,
        })
        .collect()
}

fn address(wanted: &Frontend, observed: &Observed) -> Option<AddressRef> {
    match (&wanted.source, address::ip(wanted, observed)) {
        (Source::Named(name), _) => Some(AddressRef::Named(name.clone())),
        (_, ip) => ip.map(AddressRef::Ip),
    }
}

/// On a new address: listed ports where they fit, else all of the protocol, else everything in one rule. Beside other
/// rules: listed ports only, as overlapping rules conflict.
///
/// One rule is all that an IPv6 address ever has: nothing says that several could share one.
pub(super) fn shapes(family: IpFamily, ports: &BTreeSet<(Protocol, u16)>, alone: bool) -> Vec<Forwards> {
    if family == IpFamily::IPv6 {
        return if ports.is_empty() { Vec::new() } else { vec![Forwards::Everything] };
    }
    let of = |protocol| -> Vec<u16> {
        ports.iter().filter(|(own, _)| *own == protocol).map(|(_, port)| *port).collect()
    };
    let all = [(Protocol::Tcp, of(Protocol::Tcp)), (Protocol::Udp, of(Protocol::Udp))];
    if alone && all.iter().all(|(_, ports)| ports.len() > LISTED) {
        return vec![Forwards::Everything];
    }
    let mut shapes = Vec::new();
    for (protocol, ports) in all {
        if alone && ports.len() > LISTED {
            shapes.push(Forwards::AllPorts(protocol));
        } else {
            let chunks = ports.chunks(LISTED);
            shapes.extend(chunks.map(|chunk| Forwards::Ports(protocol, chunk.iter().copied().collect())));
        }
    }
    shapes
}

/// `ID-tcp-1f2e`: the digest tells rules of one protocol apart.
fn suffix(id: &str, forwards: &Forwards) -> String {
    let protocol = match forwards {
        Forwards::Ports(protocol, _) | Forwards::AllPorts(protocol) => protocol.to_string().to_lowercase(),
        Forwards::Everything => "l3".to_owned(),
    };
    format!("{id}-{protocol}-{:04x}", fnv(&[&forwards.to_string()]) & 0xffff)
}

/// The same rule, with or without clients of other regions.
pub(super) fn with_access(rule: &ForwardingRule, global_access: bool) -> ForwardingRule {
    ForwardingRule { global_access, ..rule.clone() }
}
