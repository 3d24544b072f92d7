//! A load balancer that a group of Services shares: who may join, what each may change there, and leaving.
//!
//! Owns: the rules among members. Leaves to others: one member's own part (`balancer`, `listeners`), rules of security
//! groups (`security_groups`). Invariants: another member's resources are never changed. The lead decides the
//! settings of the whole load balancer; nobody decides those that need another one while there are other members. The load
//! balancer and its security groups are deleted with the last member.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{Desired, Field, GroupName, LoadBalancer, Obstacle, Owner, Replacement};

use super::choice::{Choice, is_named, mismatch};
use super::draft::{Draft, EMPTY_GROUP};
use super::named;
use crate::cloud::resources::{Kind, Rule};
use crate::observed::{Balancer, Observed, Share, View};
use crate::quotas::Quotas;
use crate::step::{Action, Change, SecurityGroupChange};
use crate::tags;
use crate::translate::{DELETION_PROTECTION, balancer_defaults};
use crate::wanted::{Frontend, Placement, Wanted};

/// An obstacle: field, kind, message.
pub(super) type Block = (Field, Obstacle, String);

/// The groups whose load balancers two attempts must not change at once.
pub(crate) fn shares(desired: Desired<'_>, observed: Option<&Observed>) -> BTreeSet<GroupName> {
    let mut groups = observed.map(Observed::groups).unwrap_or_default();
    groups.extend(match desired {
        Desired::Present(desired) => desired.group.clone(),
        Desired::Absent(owner) => tags::remains_of(owner),
    });
    groups
}

/// The other members of a group.
pub(super) fn members<'a>(view: &'a View, group: &GroupName) -> &'a BTreeSet<Owner> {
    static NOBODY: BTreeSet<Owner> = BTreeSet::new();
    view.memberships.get(group).unwrap_or(&NOBODY)
}

/// Whether nobody else is in the group that shares it.
pub(super) fn is_alone(view: &View, found: &Balancer) -> bool {
    found.group().is_none_or(|group| members(view, group).is_empty() && found.taken.is_empty())
}

fn owner_words(owner: Option<&Owner>) -> String {
    owner.map_or("another owner (without tags)".to_owned(), |owner| format!("Service {}", owner.name))
}

/// Whether to join, where others are in the group or this Service has a load balancer already. `None`: it is chosen,
/// or made, like any other.
pub(super) fn choose<'a>(
    quotas: &Quotas,
    desired: &LoadBalancer,
    wanted: &Wanted,
    view: &'a View,
    group: &GroupName,
) -> Option<Choice<'a>> {
    let here = || view.load_balancers.iter().filter(|(_, it)| it.group() == Some(group));
    let joined = here().find(|(_, it)| it.is_used());
    let elsewhere = view.load_balancers.iter().find(|(_, it)| it.is_used() && it.group() != Some(group));
    let stays = |block: Block| Choice::kept(view, joined.or(elsewhere), block);
    if let (None, Some((name, old)), Replacement::NeedsConsent) = (joined, elsewhere, desired.replacement) {
        let (field, why) = mismatch(desired, wanted, old, &view.subnet_names)?;
        return Some(stays((field, Obstacle::ReplacementRequired, Choice::consent(name, &why))));
    }
    if members(view, group).is_empty() {
        return None;
    }
    let unfit = |it: &Balancer| mismatch(desired, wanted, it, &view.subnet_names);
    let fitting = joined.into_iter().chain(here()).find(|(_, it)| unfit(it).is_none());
    let Some((name, found)) = fitting else {
        let (name, it) = here().next()?;
        let (field, why) = unfit(it)?;
        let message = format!(
            "load balancer {name} of group {group} {why}, and others share it: ask for the same, or use another group"
        );
        return Some(stays((field, Obstacle::GroupConflict, message)));
    };
    if joined.is_none() {
        if here().count() > 1 {
            let message =
                format!("the load balancer of group {group} is being replaced: it is joined after that");
            return Some(stays((Field::Group, Obstacle::GroupConflict, message)));
        }
        let terms = terms(quotas, desired, wanted, view, found);
        let conflict = terms.blocked.into_iter().find(|(_, obstacle, _)| match obstacle {
            Obstacle::GroupConflict => true,
            // Whoever serves all of its ports elsewhere does not move to serve fewer.
            _ => elsewhere.is_some(),
        });
        if let Some(block) = conflict {
            return Some(stays(block));
        }
    }
    Some(Choice::found(view, name, found))
}

/// The rights of a member on a shared load balancer.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Whether it decides what is of all of it.
    pub(super) leads: bool,
    /// Nobody does, so that it will.
    pub(super) takes_the_lead: bool,
    /// Ports that it cannot have.
    pub(super) withheld: BTreeSet<u16>,
    /// Obstacles, to be reported.
    pub(super) blocked: Vec<Block>,
}

pub(super) fn terms(
    quotas: &Quotas,
    desired: &LoadBalancer,
    wanted: &Wanted,
    view: &View,
    found: &Balancer,
) -> Terms {
    let Some(share) = &found.shared else {
        let mut terms = Terms { leads: true, ..Terms::default() };
        conflicts(&mut terms, wanted, found);
        return terms;
    };
    let others = members(view, &share.group);
    let lead = share.lead.as_ref().filter(|lead| others.iter().any(|it| it.service == lead.service));
    let is_lead = share.lead.as_ref().is_some_and(|lead| lead.service == desired.owner.service);
    let differ = if is_lead { Vec::new() } else { differences(wanted, view, found) };
    // Who says nothing follows, also whoever decided once; the first who asks for something else takes the lead then.
    let takes_the_lead = !is_lead && lead.is_none() && !differ.is_empty();
    let mut terms = Terms { leads: is_lead || takes_the_lead, takes_the_lead, ..Terms::default() };
    conflicts(&mut terms, wanted, found);
    over_quota(&mut terms, quotas.listeners, wanted, found, share);
    if !others.is_empty() {
        terms.blocked.extend(other_front(wanted, view, found, share));
    }
    if let Some(lead) = lead {
        for (field, what) in differ {
            let message = format!(
                "{what}, which Service {} decides for all of group {}: ask for the same, change it there first, or use \
                 another group",
                lead.name, share.group
            );
            terms.blocked.push((field, Obstacle::GroupConflict, message));
        }
    }
    terms
}

/// Listeners that others have.
fn conflicts(terms: &mut Terms, wanted: &Wanted, found: &Balancer) {
    let remedy = match found.shared {
        Some(_) => "give one of them another port, or put this Service into another group",
        None => "delete that listener, or give the Service another port",
    };
    for (port, listener) in &wanted.listeners {
        if let Some(holder) = found.taken.get(port) {
            let message = format!(
                "{}/{port} of load balancer {} is a listener of {}: {remedy}",
                listener.spec.protocol,
                found.described.name,
                owner_words(holder.as_ref())
            );
            terms.withheld.insert(*port);
            terms.blocked.push((Field::Listeners, Obstacle::ListenerConflict, message));
        }
    }
}

/// More listeners than a load balancer takes: those that are there stay.
fn over_quota(terms: &mut Terms, most: usize, wanted: &Wanted, found: &Balancer, share: &Share) {
    let (taken, own) = (found.taken.len(), found.listeners.len());
    let new: Vec<u16> = wanted
        .listeners
        .keys()
        .filter(|port| !found.listeners.contains_key(port) && !terms.withheld.contains(port))
        .copied()
        .collect();
    let room = most.saturating_sub(taken + own);
    if new.len() > room {
        let message = format!(
            "needs {} listeners beside the {taken} that others of group {} have, quota {most}: use \
             fewer ports, or another group",
            own + new.len(),
            share.group
        );
        terms.withheld.extend(new.into_iter().skip(room));
        terms.blocked.push((Field::Listeners, Obstacle::Unsupported, message));
    }
}

/// Security groups of the user's or of ours: others' clients come in by those that are there.
fn other_front(wanted: &Wanted, view: &View, found: &Balancer, share: &Share) -> Option<Block> {
    let ours = is_fronted(view, found, &share.group);
    let message = match &wanted.frontend {
        Frontend::Own(_) if !ours && !found.described.security_groups.is_empty() => {
            "has security groups of a user's: name the same, by the annotation for security groups"
        }
        Frontend::Given { .. } if ours => "lets clients in by a security group of Portico's: name no others",
        _ => return None,
    };
    let message = format!(
        "load balancer {} of group {} {message}, or use another group",
        found.described.name, share.group
    );
    Some((Field::Options, Obstacle::GroupConflict, message))
}

/// Whether a security group of ours is in front of it.
pub(super) fn is_fronted(view: &View, found: &Balancer, group: &GroupName) -> bool {
    let of_it = |tags: &_| tags::group(tags).as_ref() == Some(group);
    view.security_groups
        .values()
        .any(|it| of_it(&it.tags) && found.described.security_groups.contains(&it.id))
}

/// Settings that this Service asks for and that only the lead may change in place. Settings that it does not name follow the lead.
fn differences(wanted: &Wanted, view: &View, found: &Balancer) -> Vec<(Field, String)> {
    let Wanted {
        adopt: _,
        name: _,
        scheme: _,
        families,
        placement,
        frontend,
        attributes: _,
        named_attributes,
        listeners: _,
        tags: _,
    } = wanted;
    let name = &found.described.name;
    let (defaults, mut differ) = (balancer_defaults(), Vec::new());
    let is = found.described.families;
    if families.kind != is.kind || (families.source_nat && !is.source_nat) {
        differ.push((Field::IpFamilies, format!("load balancer {name} is {is}, and {families} is wanted")));
    }
    // Saying "false" does not switch protection off: only a person does.
    let off = |key: &str, value: &str| key == DELETION_PROTECTION && value != "true";
    for (key, value) in named_attributes.iter().filter(|(key, value)| !off(key, value)) {
        let there = found.attributes.get(key).or_else(|| defaults.get(key));
        if there != Some(value) {
            let is = there.map_or("not set", String::as_str);
            differ.push((
                Field::Options,
                format!("{key} of load balancer {name} is {is}, and {value} is wanted"),
            ));
        }
    }
    if let Placement::Named(subnets) = placement {
        let there = |wish: &&_| {
            found.described.subnets.iter().any(|it| is_named(wish, &it.subnet, &view.subnet_names))
        };
        if let Some(new) = subnets.iter().find(|wish| !there(wish)) {
            differ.push((Field::Options, format!("load balancer {name} is not in {}", new.subnet)));
        }
    }
    if let Frontend::Given { groups, node_rules: _ } = frontend
        && !groups.iter().all(|group| found.described.security_groups.contains(group))
    {
        differ.push((Field::Options, format!("load balancer {name} has other security groups in front")));
    }
    differ
}

/// Takes this Service's part off a load balancer that it shares; all of it, if nobody else is left.
pub(super) fn leave(draft: &mut Draft<'_>, view: &View, name: &str, found: &Balancer, reason: &str) {
    for (port, listener) in &found.listeners {
        draft.delete_listener(*port, &listener.id, reason);
    }
    if is_alone(view, found) {
        if super::is_protected(found) {
            draft.wait(super::protected(name), super::NOT_SOON);
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
    let alone = members(view, group).is_empty() && taken.is_empty();
    if alone && balancers.iter().any(|it| super::is_protected(it)) {
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
