//! Targets alone, of what exists already: whatever else of the Service is refused, blocked or waited for.
//!
//! Owns: which target groups there are, behind which ports. Leaves to others: which targets each is to have
//! (`wanted/targets`), their order (`targets`). Invariants: nothing but targets is changed, beside the tag that a change
//! begins. A target group without a listener, whose name stands for no port of the Service, is left as it is.

use std::collections::BTreeMap;

use portico_provider::{Backends, IpFamily, Owner, Plan};

use super::draft::{Draft, Marked};
use super::targets::targets;
use super::{Site, read_all};
use crate::cloud::resources::{GroupShape, TargetType, Transport};
use crate::names;
use crate::observed::{Balancer, Observed, Snapshot, SyncedHash, View};
use crate::step::{Step, named};
use crate::wanted::{Offered, digest, listeners_digest, worded};

const DONE: &str = "the targets are as the cluster offers them";

pub(crate) fn plan(site: &Site, backends: &Backends, observed: &Observed) -> Plan<Step> {
    let offered = Offered::new(&site.quotas, backends);
    match observed {
        Observed::Full(view) => of_view(site, &backends.owner, &offered, view),
        Observed::Snapshot(snapshot) => of_snapshot(site, backends, &offered, snapshot),
    }
}

fn of_view(site: &Site, owner: &Owner, offered: &Offered<'_>, view: &View) -> Plan<Step> {
    let used: Vec<(&String, &Balancer)> = view.load_balancers.iter().filter(|(_, it)| it.is_used()).collect();
    let home = used.iter().find_map(|(_, it)| it.group());
    let mut draft = Draft::new(owner, home, home.is_some());
    let names: Vec<&str> = view.load_balancers.keys().map(String::as_str).collect();
    let attached: BTreeMap<_, _> = used
        .iter()
        .flat_map(|(_, it)| it.listeners.values())
        .filter_map(|listener| Some((listener.group.clone()?, (listener.spec.protocol, listener.spec.port))))
        .collect();
    let by_name = groups(owner, &names, offered);
    for (name, group) in &view.target_groups {
        let by_name = by_name.get(name).map(|(behind, _)| behind);
        if let Some(behind) = by_name.or_else(|| attached.get(&group.described.id)) {
            let (wanted, room) = offered.behind(*behind, group.described.kind);
            targets(
                &mut draft,
                site.pace,
                &named(name, &group.described.id),
                &group.targets,
                (&wanted, room),
            );
        }
    }
    for (name, balancer) in used {
        let members = view.target_groups.iter().filter(|(_, it)| it.member_of.as_ref() == balancer.group());
        let members = members.map(|(name, it)| named(name, &it.described.id));
        let target_groups = balancer.group().map(|_| members.collect()).unwrap_or_default();
        let on = Marked { load_balancer: named(name, &balancer.described.id), target_groups };
        draft.mark_dirty(&on, balancer.synced.as_ref());
    }
    draft.plan(DONE)
}

fn of_snapshot(site: &Site, backends: &Backends, offered: &Offered<'_>, snapshot: &Snapshot) -> Plan<Step> {
    let owner = &backends.owner;
    if snapshot.target_groups.is_empty() {
        return Plan::nothing("there is no target group");
    }
    let (Some((name, id)), Some(synced)) = (snapshot.only(), &snapshot.synced) else {
        return read_all(owner, "something of it is unfinished, and its targets were not read");
    };
    let by_name = groups(owner, &[name.as_str()], offered);
    let Some(known) = &snapshot.targets else {
        return if is_synced(backends, offered, &by_name, snapshot, synced) {
            Plan::nothing(DONE)
        } else {
            read_all(owner, "other targets than were finished are offered, or some are unfinished")
        };
    };
    let mut draft = Draft::new(owner, snapshot.memberships.first(), !snapshot.memberships.is_empty());
    for (group, present) in known {
        let Some(id) = snapshot.target_groups.get(group) else { continue };
        // All groups of what was finished are behind a port: the Service has lost that of any other.
        let (wanted, room) = match by_name.get(group) {
            Some((behind, kind)) => offered.behind(*behind, *kind),
            None => Default::default(),
        };
        targets(&mut draft, site.pace, &named(group, id), present, (&wanted, room));
    }
    let members = || snapshot.target_groups.iter().map(|(name, id)| named(name, id)).collect();
    let target_groups = if snapshot.memberships.is_empty() { Vec::new() } else { members() };
    draft.mark_dirty(&Marked { load_balancer: named(name, id), target_groups }, Some(synced));
    draft.plan(DONE)
}

/// Whether tags alone prove that the ports, and the targets behind them, are those that were synced.
fn is_synced(
    backends: &Backends,
    offered: &Offered<'_>,
    by_name: &Groups,
    snapshot: &Snapshot,
    synced: &SyncedHash,
) -> bool {
    let SyncedHash { spec, targets } = synced;
    let each = snapshot.target_groups.keys().map(|group| {
        let (behind, kind) = by_name.get(group)?;
        let (wanted, _) = offered.behind(*behind, *kind);
        Some(wanted.iter().map(|target| worded(kind.0, behind.1, target)).collect::<Vec<_>>())
    });
    let all: Option<Vec<Vec<String>>> = each.collect();
    let all = all.map(|all| digest(&all.into_iter().flatten().collect()));
    all.is_some() && all == *targets && spec.ends_with(&listeners_digest(&backends.listeners))
}

/// A port, and what the group behind it is.
type Groups = BTreeMap<String, ((Transport, u16), (TargetType, IpFamily))>;

/// The names that groups of this Service can have, behind these load balancers.
fn groups(owner: &Owner, load_balancers: &[&str], offered: &Offered<'_>) -> Groups {
    let mut all = Groups::new();
    for port in offered.ports() {
        for load_balancer in load_balancers {
            for shape in names::shapes() {
                let GroupShape { protocol, targets, family } = shape;
                let name = names::target_group(owner, load_balancer, port, shape);
                all.insert(name, ((protocol, port), (targets, family)));
            }
        }
    }
    all
}
