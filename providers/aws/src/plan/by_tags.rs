//! Plans from the tags of a listing alone: nothing to do, or a change of targets.
//!
//! Owns: plans without a full view. Leaves to others: everything else, after a full read.
//! Invariant: a synced hash proves what it says; the rest is read.

use std::collections::BTreeMap;

use portico_provider::{Desired, IngressAddress, LoadBalancer, Plan};

use super::draft::{Draft, Marked};
use super::{Site, read_all, targets};
use crate::cloud::resources::{Health, Id, TargetType};
use crate::observed::{Observed, Snapshot, SyncedHash, Targets};
use crate::quotas::Quotas;
use crate::step::{Step, named};
use crate::wanted::{Wanted, spec_digest, translate};

const DONE: &str = "its tags say that this very spec was finished";

pub(super) fn plan(site: &Site, wanted: &Wanted<'_>, snapshot: &Snapshot) -> Plan<Step> {
    let desired = wanted.desired;
    let (Some(synced), Some((name, id))) = (&snapshot.synced, snapshot.only()) else {
        return read_all(&desired.owner, "something of it is unfinished");
    };
    let hash = wanted.hash();
    if synced.spec != hash.spec {
        return read_all(&desired.owner, "the Service changed");
    }
    // Clients find it by its hostname, which no tag has.
    if hostname(desired, snapshot).is_none() {
        return read_all(&desired.owner, "its hostname is in no status");
    }
    if snapshot.listeners.as_ref().is_some_and(|there| there.len() != wanted.listeners.len()) {
        return read_all(&desired.owner, "there are more listeners than ports, or fewer");
    }
    let behind = wanted.target_groups(name).map(|(name, listener)| {
        let id = snapshot.target_groups.get(&name)?;
        Some((named(&name, id), listener.takes()))
    });
    let Some(behind) = behind.collect::<Option<Vec<_>>>() else {
        return read_all(&desired.owner, "a target group is not where it was");
    };
    if *synced == hash {
        return Plan::nothing(DONE);
    }
    let Some(known) = &snapshot.targets else {
        return read_all(
            &desired.owner,
            "other targets than were finished are wanted, or some are unfinished",
        );
    };
    if !Observed::Snapshot(snapshot.clone()).covers(desired.group.as_ref()) {
        return read_all(&desired.owner, "it is not in its group yet");
    }
    let mut draft = Draft::new(&desired.owner, desired.group.as_ref(), desired.group.is_some());
    for (group, takes) in behind {
        let Some(present) = known.get(&group.name) else {
            return read_all(&desired.owner, "a target group's targets are not known");
        };
        targets::targets(&mut draft, site.pace, &group, present, takes);
    }
    let target_groups = match &desired.group {
        Some(_) => snapshot.target_groups.iter().map(|(name, id)| named(name, id)).collect(),
        None => Vec::new(),
    };
    draft.mark(&hash, &Marked { load_balancer: named(name, id), target_groups }, Some(synced));
    draft.plan(DONE)
}

/// The hostname, from the Service's status: that of the only load balancer begins with its name.
pub(crate) fn hostname<'a>(desired: &'a LoadBalancer, snapshot: &Snapshot) -> Option<&'a str> {
    let (name, _) = snapshot.only()?;
    let begins = format!("{}-", name.to_ascii_lowercase());
    let mut published = desired.published.iter().filter_map(|address| match address {
        IngressAddress::Hostname(hostname) => Some(hostname.as_str()),
        IngressAddress::Ip(_) => None,
    });
    let hostname = published.next().filter(|hostname| hostname.starts_with(&begins))?;
    published.next().is_none().then_some(hostname)
}

/// Target groups of a Service of which nothing but its targets changed since it was synced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The hash of the targets.
    pub(crate) synced: String,
    pub(crate) target_groups: BTreeMap<String, BehindListener>,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BehindListener {
    /// The target group.
    pub(crate) id: Id,
    /// The port of its targets, if they are nodes.
    pub(crate) node_port: Option<u16>,
}

/// The target groups, if a change of targets needs nothing but their present targets.
pub(crate) fn behind(quotas: &Quotas, desired: &LoadBalancer, snapshot: &Snapshot) -> Option<Behind> {
    let (name, _) = snapshot.only()?;
    let SyncedHash { spec, targets } = snapshot.synced.clone()?;
    let wanted = translate(desired, quotas).ok().filter(|_| spec == spec_digest(desired))?;
    let target_groups = wanted.target_groups(name).map(|(group, listener)| {
        let id = snapshot.target_groups.get(&group)?.clone();
        let on_nodes = listener.shape.targets == TargetType::Instance;
        let node_port = listener.targets.first().filter(|_| on_nodes).map(|target| target.port);
        Some((group, BehindListener { id, node_port }))
    });
    Some(Behind { synced: targets?, target_groups: target_groups.collect::<Option<_>>()? })
}

/// The targets of each target group, where the tags say that all is as desired. A later change of targets then needs no read.
pub(crate) fn proven_targets(
    quotas: &Quotas,
    desired: Desired<'_>,
    observed: Option<&Observed>,
) -> Option<(SyncedHash, BTreeMap<String, Targets>)> {
    let (Desired::Present(desired), Some(Observed::Snapshot(snapshot @ Snapshot { targets: None, .. }))) =
        (desired, observed)
    else {
        return None;
    };
    let (name, _) = snapshot.only()?;
    let wanted = translate(desired, quotas).ok()?;
    let hash = snapshot.synced.as_ref().filter(|hash| **hash == wanted.hash())?;
    let groups = wanted.target_groups(name).map(|(group, listener)| {
        // Registered before this process began, they count as checked.
        let checked = |target: &_| (Clone::clone(target), Health::Healthy);
        let targets: Targets = listener.targets.iter().map(checked).collect();
        (group, targets)
    });
    Some((hash.clone(), groups.collect()))
}
