//! What to do next: widen, then narrow; new before old; and nothing that deletion protection forbids.
//!
//! Owns: the plan's outline: which load balancer is the one, and when an old one goes. Leaves to others: the parts of
//! one load balancer (`plan/balancer`), collecting steps in order (`plan/draft`).
//! Invariant: pure and total; steps come from a full view only, never from a snapshot of tags.

mod balancer;
mod by_tags;
mod choice;
mod draft;
mod firewalls;
mod listeners;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portico_provider::{
    Desired, Effect, IngressAddress, IpFamily, LoadBalancer, Obstacle, Owner, Plan, Targets,
};

use crate::cloud::resources::{Id, LifeState, Source};
use crate::observed::{Balancer, Observed, Seal, View};
use crate::quotas::Quotas;
use crate::step::{Action, Named, Step};
use crate::tags;
use crate::translate::{DELETION_PROTECTION, translate};
use crate::wanted::{Frontend, Wanted};
pub(crate) use by_tags::{hostname, learn};
pub(crate) use choice::mismatch;
use choice::{Choice, choose};
use draft::Draft;

/// How often to look at what AWS does by itself: a load balancer takes two or three minutes, a target a quarter of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace(pub(crate) Duration);

impl Pace {
    /// After so many looks in vain: once, twice, three times the pace, and six times after some minutes of that.
    pub(crate) fn wait(self, looks: u32) -> Duration {
        let Self(pace) = self;
        match looks {
            0..=2 => pace * (looks + 1),
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

/// Somebody has to do something first.
const NOT_SOON: Duration = Duration::from_mins(2);

/// What a plan needs to know of the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// `vpc-…`.
    pub(crate) vpc: String,
    /// A security group that nodes let in, put in front of every load balancer.
    pub(crate) backend_group: Option<Id>,
    /// Sizes of users' prefix lists, as far as this process has read any.
    pub(crate) prefix_lists: PrefixLists,
    /// What the account allows.
    pub(crate) quotas: Quotas,
    /// How often to look.
    pub(crate) pace: Pace,
}

/// The family of each prefix list, and how many entries it may ever have.
pub(crate) type PrefixLists = BTreeMap<String, (IpFamily, usize)>;

pub(crate) fn plan(site: &Site, desired: Desired<'_>, observed: Option<&Observed>) -> Plan<Step> {
    match (desired, observed) {
        (Desired::Absent(_), None) => Plan::nothing("there is nothing to delete"),
        (Desired::Absent(owner), Some(Observed::Snapshot(_))) => {
            look(owner, "the Service wants none any more")
        }
        (Desired::Absent(owner), Some(Observed::Full(view))) => remove(owner, view),
        (Desired::Present(desired), observed) => present(site, desired, observed),
    }
}

/// Tags are not enough to act on.
fn look(owner: &Owner, reason: &str) -> Plan<Step> {
    Plan::nothing("").step(Step { owner: owner.clone(), action: Action::Look }, Effect::Widen, reason)
}

fn present(site: &Site, desired: &LoadBalancer, observed: Option<&Observed>) -> Plan<Step> {
    let wanted = match translate(desired, &site.quotas) {
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
    let unread = unread_lists(site, &wanted, view);
    if unread.is_empty() {
        if let Some(asked) = wanted.adopt.as_ref().filter(|_| view.load_balancers.is_empty()) {
            return adopt(desired, asked);
        }
        return converge(site, desired, &wanted, view);
    }
    let step = Step { owner: desired.owner.clone(), action: Action::ReadPrefixLists(unread) };
    Plan::nothing("").step(step, Effect::Widen, "their sizes count against quotas")
}

/// Nothing else before: what there is then is planned for like our own.
fn adopt(desired: &LoadBalancer, asked: &str) -> Plan<Step> {
    let action = Action::Adopt { asked: asked.to_owned(), tags: tags::of(&desired.owner) };
    let step = Step { owner: desired.owner.clone(), action };
    Plan::nothing("").step(step, Effect::Widen, "the Service asks for it, and has no load balancer yet")
}

/// Prefix lists whose sizes nobody knows yet and that somebody must: where a rule is to be put beside them.
fn unread_lists(site: &Site, wanted: &Wanted, view: &View) -> BTreeSet<String> {
    let Frontend::Own(rules) = &wanted.frontend else { return BTreeSet::new() };
    let present: BTreeSet<_> = view.firewalls.values().flat_map(|firewall| &firewall.rules).collect();
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
    let mut draft = Draft::new(&desired.owner);
    let Choice { name, current, others, blocked } = choose(desired, wanted, view);
    let keeps_shape = blocked.is_some();
    if let Some((field, message)) = blocked {
        draft.block(field, Obstacle::ReplacementRequired, message);
    }
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
    };
    parts.plan(&mut draft);
    let mut kept = parts.group_names();
    for (old_name, old) in &others {
        if goes(desired, current, old) {
            remove_balancer(&mut draft, old_name, old, "another one has taken its place");
        } else {
            kept.extend(parts.upkeep(&mut draft, old_name, old));
            draft.wait(
                format!("the Service's status to show the new load balancer instead of {old_name}"),
                site.pace.wait(0),
            );
        }
    }
    for (name, group) in view.groups.iter().filter(|(name, _)| !kept.contains(*name)) {
        draft.narrow(Action::DeleteTargetGroup(named(name, &group.facts.id)), "no listener needs it");
    }
    parts.leftover_firewalls(&mut draft, others.is_empty());
    if let Some(current) = current {
        state(&mut draft, site.pace, current);
        seal(&mut draft, desired, wanted, current);
    }
    draft.plan("everything is as the Service asks")
}

/// Whether an old load balancer may go: the new one serves, and no status shows the old one.
fn goes(desired: &LoadBalancer, current: Option<&Balancer>, old: &Balancer) -> bool {
    current.is_some_and(Balancer::serves)
        && !desired.published.contains(&IngressAddress::Hostname(old.facts.hostname.clone()))
}

fn state(draft: &mut Draft<'_>, pace: Pace, balancer: &Balancer) {
    let name = &balancer.facts.name;
    match &balancer.facts.state {
        LifeState::Active | LifeState::Impaired(_) => {}
        LifeState::Provisioning => {
            draft.wait(format!("load balancer {name} to be active"), pace.wait(balancer.looks));
        }
        LifeState::Failed(reason) => {
            let what =
                format!("load balancer {name}, which AWS could not make ({reason}), to be deleted by hand");
            draft.wait(what, NOT_SOON);
        }
    }
}

/// Notes on the load balancer that a change begins, and that all is done, once it is.
fn seal(draft: &mut Draft<'_>, desired: &LoadBalancer, wanted: &Wanted, current: &Balancer) {
    let load_balancer = named(&current.facts.name, &current.facts.id);
    marks(draft, &wanted_seal(desired, wanted), load_balancer, current.sealed.as_ref());
}

/// What tags shall say when all is done.
fn wanted_seal(desired: &LoadBalancer, wanted: &Wanted) -> Seal {
    Seal { spec: spec_digest(desired), targets: Some(wanted.targets_digest()) }
}

fn marks(draft: &mut Draft<'_>, wanted: &Seal, load_balancer: Named, present: Option<&Seal>) {
    let begun = match present {
        // A crash on the way, and a return to what was sealed, must not look finished.
        Some(Seal { spec, targets: Some(_) }) if !draft.is_empty() => {
            let begun = Seal { spec: spec.clone(), targets: None };
            let tags = begun.beyond(present);
            draft.widen(
                Action::Unseal { load_balancer: load_balancer.clone(), tags },
                "so that a crash on the way does not look finished",
            );
            Some(begun)
        }
        present => present.cloned(),
    };
    if begun.as_ref() != Some(wanted) && draft.is_unhindered() {
        let tags = wanted.beyond(begun.as_ref());
        draft.last(Action::Seal { load_balancer, tags }, "so that a restart need not read it in full");
    }
}

/// The hash of all that is desired but its targets, which come and go by themselves.
pub(crate) fn spec_digest(desired: &LoadBalancer) -> String {
    let targets = match desired.targets {
        Targets::Nodes(_) => Targets::Nodes(BTreeSet::new()),
        Targets::Pods(_) => Targets::Pods(BTreeSet::new()),
    };
    LoadBalancer { targets, ..desired.clone() }.spec_hash().to_string()
}

fn remove(owner: &Owner, view: &View) -> Plan<Step> {
    const REASON: &str = "the Service wants none any more";
    let mut draft = Draft::new(owner);
    if let Some((name, _)) = view.load_balancers.iter().find(|(_, balancer)| is_protected(balancer)) {
        draft.wait(protected(name), NOT_SOON);
        return draft.plan("");
    }
    for (name, balancer) in &view.load_balancers {
        remove_balancer(&mut draft, name, balancer, REASON);
    }
    for (name, group) in &view.groups {
        draft.narrow(Action::DeleteTargetGroup(named(name, &group.facts.id)), REASON);
    }
    for (name, firewall) in &view.firewalls {
        draft.narrow(Action::DeleteSecurityGroup(named(name, &firewall.id)), REASON);
    }
    draft.plan("there is nothing to delete")
}

fn remove_balancer(draft: &mut Draft<'_>, name: &str, balancer: &Balancer, reason: &str) {
    if is_protected(balancer) {
        draft.wait(protected(name), NOT_SOON);
    } else {
        draft.narrow(Action::DeleteLoadBalancer(named(name, &balancer.facts.id)), reason);
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
