//! What there is after a step, from what there was and what AWS answered.
//!
//! Owns: the effect of each step on what is believed. Leaves to others: doing steps (`execute`), keeping the belief
//! (`memory`). Invariant: pure; what cannot be told for certain is `None`, and is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::cloud::resources::{
    Health, Id, LifeState, Listener, ListenerExtras, LoadBalancer, SecurityGroup, Target, TargetGroup,
};
use crate::observed::{Balancer, Group, Observed, Share, Snapshot, SyncedHash, Targets, View};
use crate::step::{Action, ListenerRef, Named};
use crate::tags;

/// What AWS answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Done as asked.
    Done,
    /// Nothing was changed.
    Refused,
    /// Made, with this ID.
    Made(Id),
    /// Made: a load balancer.
    LoadBalancer(Box<LoadBalancer>),
    /// Made: a listener.
    Listener(Listener),
    /// Done, for these targets only; the others were refused.
    Only(Vec<Target>),
    /// Done, or done before by somebody else: there may be more to it.
    Found,
}

/// What there is now; `None`: that has to be read.
pub(crate) fn after(before: Observed, action: &Action, answered: Answered) -> Option<Observed> {
    match (before, answered) {
        (before, Answered::Refused) => Some(before),
        (_, Answered::Found) => None,
        (before, Answered::Only(targets)) => match action {
            Action::Register { group, targets: _ } => {
                after(before, &Action::Register { group: group.clone(), targets }, Answered::Done)
            }
            _ => None,
        },
        (Observed::Full(mut view), answered) => {
            let created = made(&mut view, action, answered)?;
            (created || changed(&mut view, action).is_some()).then_some(Observed::Full(view))
        }
        (Observed::Snapshot(snapshot), _) => by_tags(snapshot, action).map(Observed::Snapshot),
    }
}

/// No more is known than what there is, and of a sealed Service its targets.
fn by_tags(mut snapshot: Snapshot, action: &Action) -> Option<Snapshot> {
    match action {
        Action::Register { group, targets } => {
            register(snapshot.targets.as_mut()?.get_mut(&group.name)?, targets);
        }
        Action::Deregister { group, targets } => {
            deregister(snapshot.targets.as_mut()?.get_mut(&group.name)?, targets);
        }
        Action::MarkDirty { load_balancer: _, groups: _, tags }
        | Action::MarkSynced { load_balancer: _, groups: _, tags } => {
            snapshot.synced = SyncedHash::after(snapshot.synced.as_ref(), tags);
        }
        Action::DeleteLoadBalancer(Named { name, id: _ }) => {
            snapshot.load_balancers.remove(name);
            snapshot.listeners = None;
            snapshot.synced = None;
        }
        Action::DeleteTargetGroup(Named { name, id: _ }) => {
            snapshot.groups.remove(name);
            snapshot.targets = None;
        }
        Action::DeleteSecurityGroup(Named { name: _, id }) => {
            snapshot.security_groups.retain(|present| Some(present) != id.as_ref());
        }
        _ => return None,
    }
    Some(snapshot)
}

fn register(present: &mut Targets, targets: &[Target]) {
    for target in targets {
        present.entry(target.clone()).or_insert(Health::Initial);
    }
}

fn deregister(present: &mut Targets, targets: &[Target]) {
    present.retain(|target, _| !targets.contains(target));
}

/// Takes in something new; whether it was that.
fn made(view: &mut View, action: &Action, answered: Answered) -> Option<bool> {
    match (action, answered) {
        (Action::CreateSecurityGroup { name, tags }, Answered::Made(id)) => {
            let security_group = SecurityGroup {
                id,
                name: name.clone(),
                rules: BTreeSet::new(),
                foreign: BTreeSet::new(),
                tags: tags.clone(),
            };
            view.security_groups.insert(name.clone(), security_group);
        }
        (Action::CreateTargetGroup(new), Answered::Made(id)) => {
            let kind = (new.shape.targets, new.shape.family);
            let described = TargetGroup {
                id,
                name: new.name.clone(),
                kind,
                port: new.port,
                load_balancers: BTreeSet::new(),
                health: new.health.clone(),
            };
            // AWS's defaults, which is also what a plan takes for missing ones.
            let member_of = tags::group(&new.tags);
            // It is not sealed as its Service's others are.
            let behind = view
                .load_balancers
                .values_mut()
                .filter(|it| it.shared.is_some() && it.group() == member_of.as_ref());
            behind.for_each(|it| it.synced = None);
            let group = Group { described, member_of, attributes: BTreeMap::new(), targets: Targets::new() };
            view.groups.insert(new.name.clone(), group);
        }
        (Action::CreateLoadBalancer { name, tags, .. }, Answered::LoadBalancer(described)) => {
            // One that is older than this step is not as new ones are.
            if described.state != LifeState::Provisioning {
                return None;
            }
            let balancer = Balancer {
                described: *described,
                attributes: BTreeMap::new(),
                listeners: BTreeMap::new(),
                extras: tags::has_extras(tags).then(BTreeMap::new),
                taken: BTreeMap::new(),
                shared: tags::group(tags).map(|group| Share { group, lead: tags::leader(tags) }),
                adopted: false,
                synced: SyncedHash::of(tags),
                polls: 0,
            };
            view.load_balancers.insert(name.clone(), balancer);
        }
        (Action::CreateListener { load_balancer, .. }, Answered::Listener(listener)) => {
            let balancer = view.load_balancers.get_mut(&load_balancer.name)?;
            if let Some(extras) = &mut balancer.extras {
                extras.insert(listener.spec.port, ListenerExtras::default());
            }
            balancer.listeners.insert(listener.spec.port, listener);
        }
        (_, Answered::Done) => return Some(false),
        _ => return None,
    }
    Some(true)
}

/// Takes in a change of what was there.
fn changed(view: &mut View, action: &Action) -> Option<()> {
    match action {
        Action::Authorize { group, rules } => {
            view.security_groups.get_mut(&group.name)?.rules.extend(rules.iter().cloned());
        }
        Action::Revoke { group, rules } => {
            view.security_groups.get_mut(&group.name)?.rules.retain(|rule| !rules.contains(rule));
        }
        Action::SetGroupAttributes { group, attributes } => {
            view.groups.get_mut(&group.name)?.attributes.extend(attributes.clone());
        }
        Action::SetHealthCheck { group, health } => {
            view.groups.get_mut(&group.name)?.described.health = health.clone();
        }
        Action::Register { group, targets } => {
            register(&mut view.groups.get_mut(&group.name)?.targets, targets);
        }
        Action::Deregister { group, targets } => {
            deregister(&mut view.groups.get_mut(&group.name)?.targets, targets);
        }
        Action::SetAttributes { load_balancer, attributes } => {
            view.load_balancers.get_mut(&load_balancer.name)?.attributes.extend(attributes.clone());
        }
        Action::SetSecurityGroups { load_balancer, groups } => {
            let ids = groups.iter().map(|group| id_of(view, group)).collect::<Option<BTreeSet<Id>>>()?;
            view.load_balancers.get_mut(&load_balancer.name)?.described.security_groups = ids;
        }
        Action::SetAddressType { load_balancer, kind } => {
            view.load_balancers.get_mut(&load_balancer.name)?.described.families.kind = *kind;
        }
        Action::ModifyListener { id, spec, group } => {
            let group = Some(view.groups.get(&group.name)?.described.id.clone());
            let (extras, listener) = listener(view, id)?;
            // With another protocol AWS keeps some of them and not others.
            if extras && listener.spec.protocol != spec.protocol {
                return None;
            }
            (listener.spec, listener.group) = (spec.clone(), group);
        }
        Action::DeleteListener { id, port: _ } => {
            for balancer in view.load_balancers.values_mut() {
                balancer.listeners.retain(|_, listener| listener.id != *id);
                let Balancer { listeners, extras, .. } = balancer;
                if let Some(extras) = extras {
                    extras.retain(|port, _| listeners.contains_key(port));
                }
            }
        }
        Action::MarkDirty { load_balancer, groups: _, tags } | Action::MarkSynced { load_balancer, groups: _, tags } => {
            let balancer = view.load_balancers.get_mut(&load_balancer.name)?;
            balancer.synced = SyncedHash::after(balancer.synced.as_ref(), tags);
        }
        Action::DeleteLoadBalancer(Named { name, id: _ }) | Action::DeleteSharedLoadBalancer(Named { name, id: _ }) => {
            drop(view.load_balancers.remove(name));
        }
        Action::DeleteTargetGroup(Named { name, id: _ }) => drop(view.groups.remove(name)),
        Action::DeleteSecurityGroup(Named { name, id: _ }) => drop(view.security_groups.remove(name)),
        Action::AddCertificates { listener, arns } => {
            extras(view, listener)?.certificates.extend(arns.iter().cloned());
        }
        Action::RemoveCertificates { listener, arns } => {
            extras(view, listener)?.certificates.retain(|arn| !arns.contains(arn));
        }
        Action::SetListenerAttributes { listener, attributes } => {
            extras(view, listener)?.attributes.extend(attributes.clone());
        }
        // It changes what the memory knows, and nothing that is there.
        Action::ReadPrefixLists(_) | Action::ReadSecurityGroups(_) => {}
        // What is to be compared from now on was not read so far.
        Action::Mark { .. }
        | Action::Read
        | Action::Adopt { .. }
        | Action::Reclaim { .. }
        | Action::SetSubnets { .. }
        // AWS chooses prefixes.
        | Action::SetFamilies { .. }
        | Action::CreateSecurityGroup { .. }
        | Action::CreateTargetGroup(_)
        | Action::CreateLoadBalancer { .. }
        | Action::CreateListener { .. } => return None,
    }
    Some(())
}

fn id_of(view: &View, group: &Named) -> Option<Id> {
    group.id.clone().or_else(|| Some(view.security_groups.get(&group.name)?.id.clone()))
}

/// A listener, and whether its certificates and attributes are known.
fn listener<'a>(view: &'a mut View, id: &Id) -> Option<(bool, &'a mut Listener)> {
    let all = view.load_balancers.values_mut();
    let mut all = all.flat_map(|it| {
        let known = it.extras.is_some();
        it.listeners.values_mut().map(move |listener| (known, listener))
    });
    all.find(|(_, listener)| listener.id == *id)
}

fn extras<'a>(view: &'a mut View, listener: &ListenerRef) -> Option<&'a mut ListenerExtras> {
    let ListenerRef { load_balancer, port, id: _ } = listener;
    view.load_balancers.get_mut(&load_balancer.name)?.extras.as_mut()?.get_mut(port)
}
