//! Deleting what a Service has, and leaving what a group shares.
//!
//! Owns: the end of a Service, of an old load balancer, of a membership. Leaves to others: the order of deletions (`draft`).
//! Invariants: nothing that deletion protection forbids. Another member's resources are never changed; the load balancer of
//! a group and its security groups are deleted with the last member. What is deleted by its tags alone, unread, AWS itself
//! protects: it keeps what has deletion protection or is in use.

use std::collections::BTreeMap;

use portico_provider::{GroupName, Owner, Plan};

use super::draft::{Draft, EMPTY_GROUP};
use super::{NOT_SOON, read_all, restore};
use crate::cloud::resources::{Kind, Rule};
use crate::observed::{Balancer, Observed, Snapshot, View};
use crate::step::{Action, Change, Named, SecurityGroupChange, Step, named};
use crate::tags;
use crate::wanted::DELETION_PROTECTION;

const REASON: &str = "the Service wants none any more";

/// The plan of a Service that wants no load balancer.
pub(super) fn plan(owner: &Owner, observed: Option<&Observed>) -> Plan<Step> {
    match observed {
        None => Plan::nothing("there is nothing to delete"),
        Some(Observed::Snapshot(snapshot)) => by_tags(owner, snapshot),
        Some(Observed::Full(view)) => of_view(owner, view),
    }
}

fn of_view(owner: &Owner, view: &View) -> Plan<Step> {
    if let Some(plan) = restore(owner, None, view) {
        return plan;
    }
    let mut draft = Draft::new(owner, None, !view.memberships.is_empty());
    let last = |it: &Balancer| is_alone(view, it) && is_protected(it);
    if let Some((name, _)) = view.load_balancers.iter().find(|(_, it)| last(it)) {
        draft.wait(protected(name), NOT_SOON);
        return draft.plan("");
    }
    for (name, balancer) in view.load_balancers.iter().filter(|(_, it)| it.is_used()) {
        self::balancer(&mut draft, view, name, balancer, REASON);
    }
    for group in view.memberships.keys() {
        leave_group(&mut draft, view, group, REASON);
    }
    for (name, group) in &view.target_groups {
        draft.delete(Kind::TargetGroup, named(name, &group.described.id), REASON);
    }
    for (name, security_group) in
        view.security_groups.iter().filter(|(_, it)| tags::group(&it.tags).is_none())
    {
        draft.delete(Kind::SecurityGroup, named(name, &security_group.id), REASON);
    }
    draft.plan("there is nothing to delete")
}

pub(super) fn balancer(draft: &mut Draft<'_>, view: &View, name: &str, balancer: &Balancer, reason: &str) {
    if balancer.shared.is_some() {
        return leave(draft, view, name, balancer, reason);
    }
    if is_protected(balancer) {
        draft.wait(protected(name), NOT_SOON);
    } else {
        draft.delete(Kind::LoadBalancer, named(name, &balancer.described.id), reason);
    }
}

fn is_protected(balancer: &Balancer) -> bool {
    balancer.attributes.get(DELETION_PROTECTION).is_some_and(|value| value == "true")
}

fn protected(name: &str) -> String {
    format!(
        "deletion protection of load balancer {name} to be switched off by hand (aws elbv2 \
         modify-load-balancer-attributes --attributes Key={DELETION_PROTECTION},Value=false)"
    )
}

/// Takes this Service's part off a load balancer that it shares; all of it, if nobody else is left.
fn leave(draft: &mut Draft<'_>, view: &View, name: &str, found: &Balancer, reason: &str) {
    for (port, listener) in &found.listeners {
        draft.delete_listener(*port, &listener.id, reason);
    }
    if is_alone(view, found) {
        if is_protected(found) {
            draft.wait(protected(name), NOT_SOON);
        } else {
            draft.delete_shared(named(name, &found.described.id));
        }
    }
}

/// Takes this Service's rules out of a group that it leaves; its security groups, if nobody else is left.
pub(super) fn leave_group(draft: &mut Draft<'_>, view: &View, group: &GroupName, reason: &str) {
    let balancers: Vec<&Balancer> =
        view.load_balancers.values().filter(|it| it.group() == Some(group)).collect();
    let taken: BTreeMap<u16, Option<Owner>> =
        balancers.iter().flat_map(|found| found.taken.clone()).collect();
    let security_groups =
        view.security_groups.iter().filter(|(_, it)| tags::group(&it.tags).as_ref() == Some(group));
    let alone = view.members(group).is_empty() && taken.is_empty();
    if alone && balancers.iter().any(|it| is_protected(it)) {
        return;
    }
    for found in balancers.iter().filter(|it| alone && !it.is_used()) {
        let unused = named(&found.described.name, &found.described.id);
        draft.delete_shared(unused);
    }
    for (name, security_group) in security_groups {
        if alone {
            draft.delete(Kind::SecurityGroup, named(name, &security_group.id), EMPTY_GROUP);
            continue;
        }
        let rules: Vec<Rule> =
            security_group.rules.iter().filter(|rule| !taken.contains_key(&rule.port)).cloned().collect();
        if !rules.is_empty() && !balancers.is_empty() {
            let change =
                Change::SecurityGroup(named(name, &security_group.id), SecurityGroupChange::Revoke(rules));
            draft.destructive(Action::Modify(change), reason);
        }
    }
}

/// Whether nobody else is in the group that shares it.
fn is_alone(view: &View, found: &Balancer) -> bool {
    found.group().is_none_or(|group| view.members(group).is_empty() && found.taken.is_empty())
}

/// Everything is deleted; what a group shares is read first.
fn by_tags(owner: &Owner, snapshot: &Snapshot) -> Plan<Step> {
    let Snapshot {
        load_balancers,
        target_groups,
        security_groups,
        listeners,
        memberships,
        commons: _,
        synced: _,
        targets: _,
    } = snapshot;
    // Each listener has a target group, and what has lost its tags is not listed.
    let odd = target_groups.is_empty()
        || security_groups.is_empty()
        || listeners.as_ref().is_some_and(|listeners| listeners.len() != target_groups.len());
    if !memberships.is_empty() || (odd && !load_balancers.is_empty()) {
        return read_all(owner, REASON);
    }
    let mut draft = Draft::new(owner, None, false);
    for (name, id) in load_balancers {
        draft.delete(Kind::LoadBalancer, named(name, id), REASON);
    }
    for (name, id) in target_groups {
        draft.delete(Kind::TargetGroup, named(name, id), REASON);
    }
    for id in security_groups {
        let named = Named { name: id.to_string(), id: Some(id.clone()) };
        draft.delete(Kind::SecurityGroup, named, REASON);
    }
    draft.plan("there is nothing to delete")
}
