//! The report of each port.
//!
//! Owns: the errors of ports. Leaves to others: which address is shown (`report`).
//! Invariant: a port without an error is forwarded by a rule at its address, and let in by Portico's firewall.
//! The words are qualified names, as Kubernetes has them in `status.loadBalancer.ingress[].ports[].error`.

use std::net::IpAddr;

use portico_provider::{Ingress, IpFamily, Listener, Owner, PortStatus};

use crate::names::Names;
use crate::observed::Observed;
use crate::resource::{AddressRef, Id, Kind, Resource, Verdict};

const NOT_FORWARDED: &str = "portico.dev/NotForwarded";
const SHUT: &str = "portico.dev/FirewallShut";

/// Of one port at one address.
pub(super) fn status(listener: &Listener, ip: IpAddr, owner: &Owner, observed: &Observed) -> PortStatus {
    let (protocol, port) = (listener.protocol, listener.port.get());
    let forwarded = observed
        .rules()
        .any(|rule| rule.address == AddressRef::Ip(ip) && rule.forwards.covers(protocol, port));
    let suffix = if IpFamily::of(ip) == IpFamily::IPv4 { "fw" } else { "fw6" };
    let id = Id { kind: Kind::Firewall, zone: None, name: Names::of(owner).part(suffix) };
    let let_in = match observed.resources.get(&id) {
        Some(Resource::Firewall(firewall)) => {
            let here = firewall.destinations.iter().any(|net| net.contains(&ip));
            let allows = match &firewall.verdict {
                Verdict::Allow(ports) => ports.contains(&(protocol, port)),
                Verdict::DenyAll => false,
                // It is put right at once, and nobody knows what it did.
                Verdict::Foreign => true,
            };
            here && allows
        }
        _ => false,
    };
    let error = match (forwarded, let_in) {
        (false, _) => Some(NOT_FORWARDED),
        (true, false) => Some(SHUT),
        (true, true) => None,
    };
    PortStatus { listener: listener.key(), error: error.map(str::to_owned) }
}

/// The ports with an error, in words.
pub(super) fn lacking(ingress: &[Ingress]) -> Option<String> {
    let ports: std::collections::BTreeSet<String> = ingress
        .iter()
        .flat_map(|it| &it.ports)
        .filter(|port| port.error.is_some())
        .map(|port| port.listener.to_string())
        .collect();
    let named: Vec<String> = ports.into_iter().collect();
    (!named.is_empty()).then(|| format!("nothing reaches {} yet", named.join(", ")))
}
