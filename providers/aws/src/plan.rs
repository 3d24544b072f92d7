//! The plan of one Service: additive steps, then destructive ones; new before old; nothing that deletion protection forbids.
//!
//! Owns: the plan's outline: which load balancer is the one, and when an old one is deleted. Leaves to others: the parts of
//! one load balancer (`plan/balancer`), collecting steps in order (`plan/draft`).
//! Invariant: pure and total; from tags alone come changes of targets and the end of what is one Service's, nothing else.

mod adopted;
mod backends;
mod balancer;
mod by_tags;
mod choice;
mod draft;
mod group;
mod listeners;
mod security_groups;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portico_provider::{
    Desired, Effect, Field, GroupName, IngressAddress, IpFamily, Listener, LoadBalancer, Obstacle, Owner,
    Plan, Targets,
};

use crate::cloud::resources::{Id, Kind, LifeState, Source};
use crate::observed::{Balancer, Observed, SyncedHash, View};
use crate::quotas::Quotas;
use crate::step::{Action, Mark, Named, Step, Unread};
use crate::tags;
use crate::translate::{DELETION_PROTECTION, translate};
use crate::wanted::{Frontend, Wanted, digest};
pub(crate) use backends::plan as plan_targets;
pub(crate) use by_tags::{Behind, behind, hostname, proven_targets};
pub(crate) use choice::mismatch;
use choice::{Choice, choose};
use draft::Draft;
use group::Terms;
pub(crate) use group::shares;

/// How often to read what AWS does by itself: a load balancer takes two or three minutes, a target a quarter of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace(pub(crate) Duration);

impl Pace {
    /// After so many reads in vain: once, twice, three times the pace, and six times after some minutes of that.
    pub(crate) fn wait(self, polls: u32) -> Duration {
        let Self(pace) = self;
        match polls {
            0..=2 => pace * (polls + 1),
            3..=11 => pace * 3,
            _ => pace * 6,
        }
    }

    /// After so many refusals of a target: three times the pace, twice as much each time, to a quarter of an hour.
    pub(crate) fn again(self, tries: u32) -> Duration {
        let Self(pace) = self;
        let doubled = pace.saturating_mul(3).saturating_mul(1 << tries.saturating_sub(1).min(12));
        doubled.min(Duration::from_mins(15))
    }
}

/// A person has to act first.
const NOT_SOON: Duration = Duration::from_mins(2);

/// The account and the configuration, as far as plans depend on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// `vpc-…`.
    pub(crate) vpc: String,
    /// A security group that nodes let in, put in front of every load balancer.
    pub(crate) backend_group: Option<Id>,
    /// Sizes of users' prefix lists, as far as this process has read any.
    pub(crate) prefix_lists: PrefixLists,
    /// Security groups by tag `Name`, as far as this process has read any.
    pub(crate) security_groups: SecurityGroupNames,
    /// The account's quotas.
    pub(crate) quotas: Quotas,
    /// How often to read.
    pub(crate) pace: Pace,
    /// The quota of load balancers, if the cluster's own reach it.
    pub(crate) reached: Option<usize>,
}

/// The family of each prefix list, and how many entries it may ever have.
pub(crate) type PrefixLists = BTreeMap<String, (IpFamily, usize)>;

/// Security groups by tag `Name`.
pub(crate) type SecurityGroupNames = BTreeMap<String, Id>;

pub(crate) fn plan(site: &Site, desired: Desired<'_>, observed: Option<&Observed>) -> Plan<Step> {
    match (desired, observed) {
        (Desired::Absent(_), None) => Plan::nothing("there is nothing to delete"),
        (Desired::Absent(owner), Some(Observed::Snapshot(snapshot))) => by_tags::absent(owner, snapshot),
        (Desired::Absent(owner), Some(Observed::Full(view))) => remove(owner, view),
        (Desired::Present(desired), observed) => present(site, desired, observed),
    }
}

/// Tags are not enough to act on.
fn read_all(owner: &Owner, reason: &str) -> Plan<Step> {
    let step = Step { owner: owner.clone(), group: None, action: Action::Read(Unread::All) };
    Plan::nothing("").step(step, Effect::Additive, reason)
}

fn present(site: &Site, desired: &LoadBalancer, observed: Option<&Observed>) -> Plan<Step> {
    let mut wanted = match translate(desired, &site.quotas) {
        Ok(wanted) => wanted,
        Err(obstacles) => {
            return obstacles.into_iter().fold(Plan::nothing(""), |plan, (field, message)| {
                plan.block(field, Obstacle::Unsupported, message)
            });
        }
    };
    let nothing = View::default();
    let view = match observed {
        Some(Observed::Snapshot(snapshot)) => return by_tags::present(site, desired, &wanted, snapshot),
        Some(Observed::Full(view)) => view,
        None => &nothing,
    };
    if desired.group.as_ref().is_some_and(|group| !view.memberships.contains_key(group)) {
        return read_all(&desired.owner, "it is to share a load balancer, and who else does was not read");
    }
    if wanted.adopt.is_none()
        && let Some(plan) = restore(&desired.owner, desired.group.as_ref(), view)
    {
        return plan;
    }
    if let Some(most) = site.reached.filter(|_| view.load_balancers.is_empty() && wanted.adopt.is_none()) {
        return Plan::nothing("").block(Field::Group, Obstacle::Unsupported, one_too_many(most));
    }
    if let Frontend::Given { groups, node_rules } = &mut wanted.frontend {
        let unknown = resolve(&site.security_groups, groups);
        if !unknown.is_empty() {
            let step = Step {
                owner: desired.owner.clone(),
                group: None,
                action: Action::Read(Unread::SecurityGroups(unknown)),
            };
            return Plan::nothing("").step(step, Effect::Additive, "annotations name them by tag Name");
        }
        if *node_rules == Some(true) && site.backend_group.is_none() {
            return Plan::nothing("").block(Field::Options, Obstacle::Unsupported, no_node_rules());
        }
    }
    let unread = unread_lists(site, &wanted, view);
    if unread.is_empty() {
        if let Some(asked) = wanted.adopt.as_ref().filter(|_| view.load_balancers.is_empty()) {
            return adopt(desired, asked);
        }
        return converge(site, desired, &wanted, view);
    }
    let step =
        Step { owner: desired.owner.clone(), group: None, action: Action::Read(Unread::PrefixLists(unread)) };
    Plan::nothing("").step(step, Effect::Additive, "their sizes count against quotas")
}

/// Puts IDs in the place of names; those that nobody knows yet.
fn resolve(known: &SecurityGroupNames, groups: &mut [Id]) -> BTreeSet<String> {
    let mut unknown = BTreeSet::new();
    for group in groups.iter_mut().filter(|group| !group.0.starts_with("sg-")) {
        match known.get(&group.0) {
            Some(id) => *group = id.clone(),
            None => drop(unknown.insert(group.0.clone())),
        }
    }
    unknown
}

fn no_node_rules() -> String {
    format!(
        "annotation {}: rules towards nodes are static here, from one security group that the operator was not given: start \
         it with --aws-backend-security-group, or remove the annotation and let the nodes admit the groups of {}",
        crate::capabilities::NODE_RULES,
        crate::capabilities::SECURITY_GROUPS
    )
}

fn one_too_many(most: usize) -> String {
    format!(
        "needs 1 more Network Load Balancer, quota {most} of this account and region reached by this cluster alone: let it \
         share one by annotation portico.dev/group, delete what is not needed, or ask AWS for a higher quota (Service \
         Quotas)"
    )
}

/// Nothing else before: without its tags a thing is nobody's, and what is planned without it would be made twice.
fn restore(owner: &Owner, group: Option<&GroupName>, view: &View) -> Option<Plan<Step>> {
    let steps = view.lost.iter().map(|(name, lost)| {
        let tags = if let Some(group) = &lost.group {
            tags::shared(&owner.cluster, group)
        } else {
            let member = group.filter(|_| lost.id.kind() == Some(Kind::TargetGroup));
            tags::of(owner).into_iter().chain(member.map(tags::member).into_iter().flatten()).collect()
        };
        let action = Action::Restore { resource: named(name, &lost.id), tags };
        Step { owner: owner.clone(), group: lost.group.clone(), action }
    });
    let reason = "it bears a name of this Service's, and its tags are gone or others";
    let plan = steps.fold(Plan::nothing(""), |plan, step| plan.step(step, Effect::Additive, reason));
    (!plan.steps().is_empty()).then_some(plan)
}

/// Nothing else before: what there is then is planned for like our own.
fn adopt(desired: &LoadBalancer, asked: &str) -> Plan<Step> {
    let action = Action::Adopt { asked: asked.to_owned(), tags: tags::of(&desired.owner) };
    let step = Step { owner: desired.owner.clone(), group: None, action };
    Plan::nothing("").step(step, Effect::Additive, "the Service asks for it, and has no load balancer yet")
}

/// Prefix lists whose sizes are needed and not read yet: where a rule is to be put beside them.
fn unread_lists(site: &Site, wanted: &Wanted, view: &View) -> BTreeSet<String> {
    let Frontend::Own(rules) = &wanted.frontend else { return BTreeSet::new() };
    let present: BTreeSet<_> =
        view.security_groups.values().flat_map(|security_group| &security_group.rules).collect();
    if rules.iter().all(|rule| present.contains(rule)) {
        return BTreeSet::new();
    }
    let lists = rules.iter().chain(present).filter_map(|rule| match &rule.source {
        Source::PrefixList(id) => Some(id),
        Source::Range(_) => None,
    });
    lists.filter(|id| !site.prefix_lists.contains_key(*id)).cloned().collect()
}

fn converge(site: &Site, desired: &LoadBalancer, wanted: &Wanted, view: &View) -> Plan<Step> {
    let shared = desired.group.as_ref().and_then(|it| group::choose(&site.quotas, desired, wanted, view, it));
    let choice = shared.unwrap_or_else(|| choose(desired, wanted, view));
    let Choice { name, current, others, blocked } = choice;
    let kept = current.and_then(|current| adopted::wanted(&site.quotas, desired, wanted, view, current));
    let wanted = kept.as_ref().unwrap_or(wanted);
    // What is kept for want of consent stays where it is.
    let home = current.map_or(desired.group.as_ref(), Balancer::group);
    let mut draft = Draft::new(&desired.owner, home, home.is_some() || !view.memberships.is_empty());
    let keeps_shape = blocked.is_some();
    let stays_out = keeps_shape && current.is_none();
    if let Some((field, obstacle, message)) = blocked {
        draft.block(field, obstacle, message);
    }
    let mut terms = current.map_or(Terms { leads: true, ..Terms::default() }, |current| {
        group::terms(&site.quotas, desired, wanted, view, current)
    });
    for (field, obstacle, message) in std::mem::take(&mut terms.blocked) {
        draft.block(field, obstacle, message);
    }
    let reduced;
    let wanted = if terms.withheld.is_empty() {
        wanted
    } else {
        reduced = wanted.without(&terms.withheld);
        &reduced
    };
    let spec = spec_digest(desired);
    let parts = balancer::Parts {
        site,
        owner: &desired.owner,
        wanted,
        spec: &spec,
        view,
        name: &name,
        current,
        keeps_shape,
        home,
        leads: terms.leads,
    };
    if let Some(current) = current.filter(|_| terms.takes_the_lead) {
        let action = Action::note(named(&name, &current.described.id), tags::lead(&desired.owner));
        draft.additive(action, "who decided for its group has left");
    }
    // One that serves nothing of this Service, and is to serve nothing, is the others' matter.
    let takes_part = !stays_out && (current.is_none_or(Balancer::is_used) || !wanted.listeners.is_empty());
    if takes_part {
        parts.plan(&mut draft);
    }
    let mut kept = parts.group_names();
    for (old_name, old) in &others {
        if is_deletable(desired, current, old) {
            remove_balancer(&mut draft, view, old_name, old, "another one has taken its place");
        } else {
            kept.extend(parts.upkeep(&mut draft, old_name, old));
            draft.wait(
                format!("the Service's status to show the new load balancer instead of {old_name}"),
                site.pace.wait(0),
            );
        }
    }
    for (name, group) in view.target_groups.iter().filter(|(name, _)| !kept.contains(*name)) {
        draft.delete(Kind::TargetGroup, named(name, &group.described.id), "no listener needs it");
    }
    for group in view.memberships.keys().filter(|group| Some(*group) != home) {
        let stays = |(_, old): &&(&String, &Balancer)| {
            old.group() == Some(group) && !is_deletable(desired, current, old)
        };
        if desired.group.as_ref() != Some(group) && !others.iter().any(|old| stays(&old)) {
            group::leave_group(&mut draft, view, group, "the Service has left the group");
        }
    }
    if takes_part {
        parts.leftover_security_groups(&mut draft, others.is_empty());
    }
    if let Some(current) = current.filter(|_| takes_part) {
        state(&mut draft, site.pace, current);
        mark_synced(&mut draft, desired, wanted, current, &parts);
    }
    draft.plan("everything is as the Service asks")
}

/// Whether an old load balancer may be deleted: the new one serves, and no status shows the old one.
fn is_deletable(desired: &LoadBalancer, current: Option<&Balancer>, old: &Balancer) -> bool {
    current.is_some_and(Balancer::serves)
        && !desired.published.contains(&IngressAddress::Hostname(old.described.hostname.clone()))
}

fn state(draft: &mut Draft<'_>, pace: Pace, balancer: &Balancer) {
    let name = &balancer.described.name;
    match &balancer.described.state {
        LifeState::Active | LifeState::Impaired(_) => {}
        LifeState::Provisioning => {
            draft.wait(format!("load balancer {name} to be active"), pace.wait(balancer.polls));
        }
        LifeState::Failed(reason) => {
            let what =
                format!("load balancer {name}, which AWS could not make ({reason}), to be deleted by hand");
            draft.wait(what, NOT_SOON);
        }
    }
}

/// Notes on the load balancer that a change begins, and that all is done, once it is.
fn mark_synced(
    draft: &mut Draft<'_>,
    desired: &LoadBalancer,
    wanted: &Wanted,
    current: &Balancer,
    parts: &balancer::Parts<'_>,
) {
    let load_balancer = named(&current.described.name, &current.described.id);
    let groups =
        current.group().map(|_| parts.group_names().iter().map(|name| parts.group_named(name)).collect());
    let on = Marked { load_balancer, target_groups: groups.unwrap_or_default() };
    mark(draft, &wanted_hash(desired, wanted), &on, current.synced.as_ref());
}

/// The resources that carry the synced hash: the load balancer, or, if a group shares that, the Service's target groups.
struct Marked {
    load_balancer: Named,
    target_groups: Vec<Named>,
}

/// The synced hash once all is done.
fn wanted_hash(desired: &LoadBalancer, wanted: &Wanted) -> SyncedHash {
    SyncedHash { spec: spec_digest(desired), targets: Some(wanted.targets_digest()) }
}

fn mark(draft: &mut Draft<'_>, wanted: &SyncedHash, on: &Marked, present: Option<&SyncedHash>) {
    let begun = mark_dirty(draft, on, present);
    if begun.as_ref() != Some(wanted) && draft.is_unhindered() {
        let Marked { load_balancer, target_groups } = on;
        // A target group that is made on the way has none of the tags that others have.
        let tags = wanted.beyond(begun.as_ref().filter(|_| target_groups.is_empty()));
        let (load_balancer, target_groups) = (load_balancer.clone(), target_groups.clone());
        draft.last(
            Action::Tag { load_balancer, target_groups, mark: Mark::Synced, tags },
            "so that a restart need not read it in full",
        );
    }
}

/// Marks the synced hash as dirty, if there is anything to do. Returns the hash that the tags have then.
fn mark_dirty(draft: &mut Draft<'_>, on: &Marked, present: Option<&SyncedHash>) -> Option<SyncedHash> {
    match present {
        // A crash on the way, and a return to the synced spec, must not look finished.
        Some(SyncedHash { spec, targets: Some(_) }) if !draft.is_empty() => {
            let Marked { load_balancer, target_groups } = on;
            let begun = SyncedHash { spec: spec.clone(), targets: None };
            let tags = begun.beyond(present);
            let target_groups = target_groups.iter().filter(|group| group.id.is_some()).cloned().collect();
            let load_balancer = load_balancer.clone();
            draft.additive(
                Action::Tag { load_balancer, target_groups, mark: Mark::Dirty, tags },
                "so that a crash on the way does not look finished",
            );
            Some(begun)
        }
        present => present.cloned(),
    }
}

/// The hash of all that is desired but its targets, which change by themselves; then the digest of its ports. By that a
/// restart knows whether the targets' ports are those that were synced, also where the rest of the Service is refused.
pub(crate) fn spec_digest(desired: &LoadBalancer) -> String {
    let targets = match desired.targets {
        Targets::Nodes(_) => Targets::Nodes(BTreeSet::new()),
        Targets::Pods(_) => Targets::Pods(BTreeSet::new()),
    };
    let all = LoadBalancer { targets, ..desired.clone() }.spec_hash();
    format!("{all}{}", listeners_digest(&desired.listeners))
}

/// The end of a spec's digest: which ports there are, and where they are on nodes.
fn listeners_digest(listeners: &BTreeSet<Listener>) -> String {
    let each = listeners.iter().map(|listener| format!("{} {:?}", listener.key(), listener.node_port));
    format!("-{}", digest(&each.collect()))
}

const REASON: &str = "the Service wants none any more";

fn remove(owner: &Owner, view: &View) -> Plan<Step> {
    if let Some(plan) = restore(owner, None, view) {
        return plan;
    }
    let mut draft = Draft::new(owner, None, !view.memberships.is_empty());
    let last = |it: &Balancer| group::is_alone(view, it) && is_protected(it);
    if let Some((name, _)) = view.load_balancers.iter().find(|(_, it)| last(it)) {
        draft.wait(protected(name), NOT_SOON);
        return draft.plan("");
    }
    for (name, balancer) in view.load_balancers.iter().filter(|(_, it)| it.is_used()) {
        remove_balancer(&mut draft, view, name, balancer, REASON);
    }
    for group in view.memberships.keys() {
        group::leave_group(&mut draft, view, group, REASON);
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

fn remove_balancer(draft: &mut Draft<'_>, view: &View, name: &str, balancer: &Balancer, reason: &str) {
    if balancer.shared.is_some() {
        return group::leave(draft, view, name, balancer, reason);
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

fn named(name: &str, id: &Id) -> Named {
    Named { name: name.to_owned(), id: Some(id.clone()) }
}
