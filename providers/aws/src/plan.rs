//! The plan of one Service: additive steps, then destructive ones; new before old; nothing that deletion protection forbids.
//!
//! Owns: the plan's outline: what has to be read first, and when an old load balancer is deleted. Leaves to others: which load
//! balancer it is (`choice`), its parts (`balancer`), collecting steps in order (`draft`), deletions (`removal`).
//! Invariant: pure and total; from tags alone come changes of targets and the end of what is one Service's, nothing else.

mod backends;
mod balancer;
mod by_tags;
mod choice;
mod draft;
mod removal;
mod security_groups;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portico_provider::{
    Desired, Effect, Field, GroupName, IngressAddress, IpFamily, LoadBalancer, Obstacle, Owner, Plan,
};

use crate::cloud::resources::{Id, Kind, LifeState, Source};
use crate::observed::{Balancer, Observed, View};
use crate::quotas::Quotas;
use crate::step::{Action, Step, Unread, named};
use crate::tags;
use crate::wanted::{Frontend, Wanted, translate};
pub(crate) use backends::plan as plan_targets;
pub(crate) use by_tags::{Behind, behind, hostname, proven_targets};
pub(crate) use choice::mismatch;
use choice::{Choice, Terms};
use draft::Draft;

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

/// The groups whose load balancers two attempts must not change at once.
pub(crate) fn shares(desired: Desired<'_>, observed: Option<&Observed>) -> BTreeSet<GroupName> {
    let mut groups = observed.map(Observed::groups).unwrap_or_default();
    groups.extend(match desired {
        Desired::Present(desired) => desired.group.clone(),
        Desired::Absent(owner) => tags::remains_of(owner),
    });
    groups
}

pub(crate) fn plan(site: &Site, desired: Desired<'_>, observed: Option<&Observed>) -> Plan<Step> {
    match desired {
        Desired::Absent(owner) => removal::plan(owner, observed),
        Desired::Present(desired) => match translate(desired, &site.quotas) {
            Ok(wanted) => present(site, wanted, observed),
            Err(obstacles) => obstacles.into_iter().fold(Plan::nothing(""), |plan, (field, message)| {
                plan.block(field, Obstacle::Unsupported, message)
            }),
        },
    }
}

/// A single step that comes before all others.
fn first(owner: &Owner, action: Action, reason: &str) -> Plan<Step> {
    let step = Step { owner: owner.clone(), group: None, action };
    Plan::nothing("").step(step, Effect::Additive, reason)
}

/// Tags are not enough to act on.
fn read_all(owner: &Owner, reason: &str) -> Plan<Step> {
    first(owner, Action::Read(Unread::All), reason)
}

fn present(site: &Site, mut wanted: Wanted<'_>, observed: Option<&Observed>) -> Plan<Step> {
    let nothing = View::default();
    let view = match observed {
        Some(Observed::Snapshot(snapshot)) => return by_tags::plan(site, &wanted, snapshot),
        Some(Observed::Full(view)) => view,
        None => &nothing,
    };
    let desired = wanted.desired;
    let (owner, group) = (&desired.owner, desired.group.as_ref());
    if group.is_some_and(|group| !view.memberships.contains_key(group)) {
        return read_all(owner, "it is to share a load balancer, and who else does was not read");
    }
    if wanted.adopt.is_none()
        && let Some(plan) = restore(owner, group, view)
    {
        return plan;
    }
    if let Some(most) = site.reached.filter(|_| view.load_balancers.is_empty() && wanted.adopt.is_none()) {
        return Plan::nothing("").block(Field::Group, Obstacle::Unsupported, one_too_many(most));
    }
    if let Frontend::Given { groups, node_rules } = &mut wanted.frontend {
        let unknown = resolve(&site.security_groups, groups);
        if !unknown.is_empty() {
            let unread = Action::Read(Unread::SecurityGroups(unknown));
            return first(owner, unread, "annotations name them by tag Name");
        }
        if *node_rules == Some(true) && site.backend_group.is_none() {
            return Plan::nothing("").block(Field::Options, Obstacle::Unsupported, no_node_rules());
        }
    }
    let unread = unread_lists(site, &wanted, view);
    if !unread.is_empty() {
        return first(owner, Action::Read(Unread::PrefixLists(unread)), "their sizes count against quotas");
    }
    match wanted.adopt.as_ref().filter(|_| view.load_balancers.is_empty()) {
        // Nothing else before: what there is then is planned for like our own.
        Some(asked) => first(
            owner,
            Action::Adopt { asked: asked.clone(), tags: tags::of(owner) },
            "the Service asks for it, and has no load balancer yet",
        ),
        None => converge(site, &wanted, view),
    }
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

/// Prefix lists whose sizes are needed and not read yet: where a rule is to be put beside them.
fn unread_lists(site: &Site, wanted: &Wanted<'_>, view: &View) -> BTreeSet<String> {
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

fn converge(site: &Site, wanted: &Wanted<'_>, view: &View) -> Plan<Step> {
    let (quotas, desired) = (&site.quotas, wanted.desired);
    let choice = choice::choose(quotas, wanted, view);
    let Choice { name, current, others, blocked } = &choice;
    let current = *current;
    let adopted = current.and_then(|current| wanted.of_adopted(quotas, view, current));
    let wanted = adopted.as_ref().unwrap_or(wanted);
    let everything = || Terms { leads: true, ..Terms::default() };
    let terms = current.map_or_else(everything, |current| choice::terms(quotas, wanted, view, current));
    let wanted = &wanted.without(&terms.withheld);
    // What is kept for want of consent stays where it is.
    let home = current.map_or(desired.group.as_ref(), Balancer::group);
    let mut draft = Draft::new(&desired.owner, home, home.is_some() || !view.memberships.is_empty());
    for (field, obstacle, message) in blocked.iter().chain(&terms.blocked) {
        draft.block(*field, *obstacle, message.clone());
    }
    let parts = balancer::Parts { site, wanted, view, choice: &choice, home, leads: terms.leads };
    if let Some(current) = current.filter(|_| terms.takes_the_lead) {
        let action = Action::note(named(name, &current.described.id), tags::lead(&desired.owner));
        draft.additive(action, "who decided for its group has left");
    }
    // One that serves nothing of this Service, and is to serve nothing, is the others' matter.
    let stays_out = blocked.is_some() && current.is_none();
    let takes_part = !stays_out && (current.is_none_or(Balancer::is_used) || !wanted.listeners.is_empty());
    if takes_part {
        parts.plan(&mut draft);
    }
    let mut kept = parts.group_names();
    for (old_name, old) in others {
        if is_deletable(desired, current, old) {
            removal::balancer(&mut draft, view, old_name, old, "another one has taken its place");
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
        let stays = |old: &Balancer| old.group() == Some(group) && !is_deletable(desired, current, old);
        if desired.group.as_ref() != Some(group) && !others.iter().any(|(_, old)| stays(old)) {
            removal::leave_group(&mut draft, view, group, "the Service has left the group");
        }
    }
    if takes_part {
        parts.leftover_security_groups(&mut draft);
    }
    if let Some(current) = current.filter(|_| takes_part) {
        state(&mut draft, site.pace, current);
        draft.mark(&wanted.hash(), &parts.marked(current), current.synced.as_ref());
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
