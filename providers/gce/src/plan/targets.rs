//! Nodes into and out of groups that exist, whatever becomes of everything else.
//!
//! Owns: promise 13: the steps for nodes, and which nodes belong into which group. Leaves to others: making groups, and
//! everything that is not about nodes (`plan`). Invariants: it reads nothing of the Service but what the cluster offers. An
//! operation on another thing is not waited for. A group never holds fewer nodes than its seal says. While no wanted node
//! is in any group, nobody leaves. Packets keep their port, so a port that the Service lost is shut by the firewall.

use std::collections::BTreeSet;

use portico_provider::{Backends as Offered, Plan, Protocol, Scheme};

use crate::config::Config;
use crate::names::Names;
use crate::observed::{Observed, is_running, synced_hash};
use crate::plan::draft::Draft;
use crate::plan::{POLL_AFTER, backends};
use crate::resource::{
    AddressRef, BackendService, Backends, Endpoint, Firewall, Forwards, Groups, Id, Kind, Resource, Verdict,
};
use crate::step::Step;
use crate::subset::Zones;
use crate::wanted::behind;

/// Brings nodes to the groups of what serves.
pub(crate) fn plan(offered: &Offered, observed: &Observed, config: &Config) -> Plan<Step> {
    let mut plan = Plan::nothing("the groups hold the nodes that the cluster offers");
    let Some(scheme) = serving_scheme(observed) else { return plan };
    let Offered { owner, nodes, external_traffic_policy, .. } = offered;
    let (groups, chosen) =
        behind(owner, nodes, *external_traffic_policy, backends(observed, config), scheme, &config.region);
    let all = of_existing(observed, &groups, chosen);
    let fit = observed.without_refused(&groups, &all);
    let mut draft = Draft::new(owner, observed);
    shut_lost_ports(offered, observed, &mut draft);
    if observed.is_listed() {
        let busy = move_nodes(observed, &groups, &all, &fit, &mut draft);
        if let Some(operation) = busy.and_then(|id| observed.operations.get(&id)) {
            plan = plan.wait(format!("{} of {}", operation.verb, operation.target), POLL_AFTER);
        }
    } else if ![&fit, &all].iter().any(|zones| observed.holds(&groups, zones)) {
        plan = plan.wait("a look at the nodes in its groups", POLL_AFTER);
    }
    draft.finish(plan)
}

/// The scheme that decides how many nodes there are: of two, as during a replacement, that of the more.
pub(crate) fn serving_scheme(observed: &Observed) -> Option<Scheme> {
    let external = observed.services().any(|service| service.scheme == Scheme::External);
    let first = observed.services().next()?;
    Some(if external { Scheme::External } else { first.scheme })
}

/// Nodes of zones that have a group; of a zone without nodes, that there are none.
fn of_existing(observed: &Observed, groups: &Groups, mut chosen: Zones) -> Zones {
    let existing =
        observed.resources.keys().filter(|id| id.kind == groups.backends.kind() && id.name == groups.name);
    existing
        .filter_map(|id| id.zone.clone())
        .map(|zone| {
            let nodes = chosen.remove(&zone).unwrap_or_default();
            (zone, nodes)
        })
        .collect()
}

/// A group that an operation is at work on is left for later: the answer names one.
fn move_nodes(
    observed: &Observed,
    groups: &Groups,
    all: &Zones,
    fit: &Zones,
    draft: &mut Draft<'_>,
) -> Option<Id> {
    let staffed = is_staffed(observed, groups, all);
    let (mut busy, mut left, mut leaves) = (None, Zones::new(), false);
    for (zone, wanted) in fit {
        let id = groups.in_zone(zone);
        let present: BTreeSet<Endpoint> =
            observed.endpoints.get(&id).into_iter().flat_map(|members| members.keys()).cloned().collect();
        let missing: Vec<Endpoint> = wanted.difference(&present).cloned().collect();
        let gone: Vec<Endpoint> = present.difference(wanted).filter(|_| staffed).cloned().collect();
        left.insert(zone.clone(), present.intersection(wanted).cloned().collect());
        if observed.operations.get(&id).is_some_and(is_running) {
            busy = (!missing.is_empty() || !gone.is_empty()).then_some(id).or(busy);
            continue;
        }
        leaves |= !gone.is_empty();
        draft.attach(id.clone(), missing);
        draft.detach(id, gone);
    }
    if leaves && groups.backends == Backends::EndpointGroups {
        for service in observed.services() {
            draft.note(Resource::BackendService(BackendService {
                synced_hash: Some(synced_hash(&left)),
                ..service.clone()
            }));
        }
    }
    busy
}

/// Whether anybody who is wanted is in a group, or nobody is wanted: then others may leave.
pub(super) fn is_staffed(observed: &Observed, groups: &Groups, wanted: &Zones) -> bool {
    let mut wanted = wanted.iter().filter(|(_, nodes)| !nodes.is_empty()).peekable();
    let present = |(zone, nodes): (&String, &BTreeSet<Endpoint>)| {
        let members = observed.endpoints.get(&groups.in_zone(zone));
        members.is_some_and(|members| nodes.iter().any(|node| members.contains_key(node)))
    };
    wanted.peek().is_none() || wanted.any(present)
}

/// No client reaches a port any more that the Service does not have. One that it has again, and that a rule forwards, is let
/// in again. A port that no rule lists was never let in here with these senders, so that it waits for the rest of the plan.
fn shut_lost_ports(offered: &Offered, observed: &Observed, draft: &mut Draft<'_>) {
    let names = Names::of(&offered.owner);
    if offered.listeners.is_empty() {
        return;
    }
    for name in ["fw", "fw6"].map(|part| names.part(part)) {
        let id = Id { kind: Kind::Firewall, zone: None, name };
        let Some(Resource::Firewall(firewall)) = observed.resources.get(&id) else { continue };
        let Verdict::Allow(now) = &firewall.verdict else { continue };
        let has = offered.listeners.iter().map(|it| (it.protocol, it.port.get()));
        let ports =
            has.filter(|port| now.contains(port) || is_forwarded(observed, firewall, *port)).collect();
        if ports != *now {
            draft.shrink(Resource::Firewall(Firewall { verdict: Verdict::Allow(ports), ..firewall.clone() }));
        }
    }
}

/// Whether a rule at the firewall's addresses lists this very port, or all ports, and the firewall shuts all of them.
fn is_forwarded(observed: &Observed, firewall: &Firewall, (protocol, port): (Protocol, u16)) -> bool {
    let shut = firewall.verdict == Verdict::Allow(BTreeSet::new());
    observed.rules().any(|rule| {
        let here = match rule.address {
            AddressRef::Ip(ip) => firewall.destinations.iter().any(|net| net.contains(&ip)),
            AddressRef::Named(_) => false,
        };
        let listed = matches!(rule.forwards, Forwards::Ports(..)) || shut;
        here && listed && rule.forwards.covers(protocol, port)
    })
}
