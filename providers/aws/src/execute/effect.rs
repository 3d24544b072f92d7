//! The view after a step, from the view before and AWS's answer.
//!
//! Owns: the effect of each verb on the cache. Leaves to others: the effect on each kind of resource (`load_balancer`,
//! `listener`, `target_group`, `security_group`), keeping it (`cache`). Invariant: pure; what is not certain is `None`, and
//! is read.

use super::answered::Answered;
use super::{listener, security_group, target_group};
use crate::cloud::resources::{Health, Kind, Target};
use crate::observed::{Observed, Snapshot, SyncedHash, Targets, View};
use crate::step::{Action, Change, Mark, Named, New, Unread};

/// The view now; `None`: it has to be read.
pub(crate) fn after(before: Observed, action: &Action, answered: Answered) -> Option<Observed> {
    match (before, answered) {
        (before, Answered::Refused) => Some(before),
        (_, Answered::Found) => None,
        (before, Answered::Only(targets)) => match action {
            Action::Register { target_group, targets: _ } => {
                let action = Action::Register { target_group: target_group.clone(), targets };
                after(before, &action, Answered::Done)
            }
            _ => None,
        },
        (Observed::Full(mut view), answered) => {
            on_view(&mut view, action, answered)?;
            Some(Observed::Full(view))
        }
        (Observed::Snapshot(mut snapshot), _) => {
            on_snapshot(&mut snapshot, action)?;
            Some(Observed::Snapshot(snapshot))
        }
    }
}

fn register(present: &mut Targets, targets: &[Target]) {
    for target in targets {
        present.entry(target.clone()).or_insert(Health::Initial);
    }
}

fn deregister(present: &mut Targets, targets: &[Target]) {
    present.retain(|target, _| !targets.contains(target));
}

/// Tags show which resources exist, and of a synced Service its targets.
fn on_snapshot(snapshot: &mut Snapshot, action: &Action) -> Option<()> {
    match action {
        Action::Register { target_group, targets } => {
            register(snapshot.targets.as_mut()?.get_mut(&target_group.name)?, targets);
        }
        Action::Deregister { target_group, targets } => {
            deregister(snapshot.targets.as_mut()?.get_mut(&target_group.name)?, targets);
        }
        Action::Tag { mark: Mark::Dirty | Mark::Synced, tags, .. } => {
            snapshot.synced = SyncedHash::after(snapshot.synced.as_ref(), tags);
        }
        Action::Delete { kind, named: Named { name, id }, shared: false } => match kind {
            Kind::LoadBalancer => {
                snapshot.load_balancers.remove(name);
                snapshot.listeners = None;
                snapshot.synced = None;
            }
            Kind::TargetGroup => {
                snapshot.target_groups.remove(name);
                snapshot.targets = None;
            }
            Kind::SecurityGroup => snapshot.security_groups.retain(|present| Some(present) != id.as_ref()),
            Kind::Listener => return None,
        },
        Action::Delete { shared: true, .. }
        | Action::Tag { mark: Mark::Note, .. }
        | Action::Read(_)
        | Action::Adopt { .. }
        | Action::Restore { .. }
        | Action::Create(_)
        | Action::Modify(_) => return None,
    }
    Some(())
}

fn on_view(view: &mut View, action: &Action, answered: Answered) -> Option<()> {
    match action {
        Action::Read(Unread::All)
        | Action::Adopt { .. }
        | Action::Restore { .. }
        // What is compared from now on was not read so far.
        | Action::Tag { mark: Mark::Note, .. } => return None,
        // They are in the cache, and not of the Service.
        Action::Read(Unread::PrefixLists(_) | Unread::SecurityGroups(_)) => {}
        Action::Tag { load_balancer, mark: Mark::Dirty | Mark::Synced, tags, target_groups: _ } => {
            let balancer = view.load_balancers.get_mut(&load_balancer.name)?;
            balancer.synced = SyncedHash::after(balancer.synced.as_ref(), tags);
        }
        Action::Create(new) => match (new, answered) {
            (New::LoadBalancer(new), Answered::LoadBalancer(described)) => new.created(view, *described)?,
            (New::Listener { load_balancer, .. }, Answered::Listener(listener)) => {
                listener::created(view, load_balancer, listener)?;
            }
            (New::TargetGroup(new), Answered::Created(id)) => target_group::created(view, new, id),
            (New::SecurityGroup { name, tags }, Answered::Created(id)) => {
                security_group::created(view, name, tags, id);
            }
            (_, _) => return None,
        },
        Action::Modify(Change::LoadBalancer(named, change)) => change.apply(view, named)?,
        Action::Modify(Change::Listener(listener, change)) => change.apply(view, listener)?,
        Action::Modify(Change::TargetGroup(named, change)) => change.apply(view, named)?,
        Action::Modify(Change::SecurityGroup(named, change)) => change.apply(view, named)?,
        Action::Register { target_group, targets } => {
            register(&mut view.target_groups.get_mut(&target_group.name)?.targets, targets);
        }
        Action::Deregister { target_group, targets } => {
            deregister(&mut view.target_groups.get_mut(&target_group.name)?.targets, targets);
        }
        Action::Delete { kind, named: Named { name, id }, shared: _ } => match kind {
            Kind::LoadBalancer => drop(view.load_balancers.remove(name)),
            Kind::TargetGroup => drop(view.target_groups.remove(name)),
            Kind::SecurityGroup => drop(view.security_groups.remove(name)),
            Kind::Listener => listener::deleted(view, id.as_ref()?),
        },
    }
    Some(())
}
