//! Which rule is in which of the security groups that we own, and what changes them.
//!
//! Owns: sharding. Leaves to others: which rules there should be (`wanted`), other people's groups.
//! Invariants: an existing rule stays in its group. A new rule goes where old and new together have room, so that it is created
//! before old ones are revoked. A group without a wanted rule is removed from the load balancer, then deleted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use portico_provider::{Field, IpFamily, Obstacle};

use super::PrefixLists;
use super::balancer::Parts;
use super::draft::Draft;
use crate::cloud::resources::{Id, Kind, Rule, SecurityGroup, Source};
use crate::names;
use crate::observed::Balancer;
use crate::quotas::Quotas;
use crate::step::{Action, Change, Named, New, SecurityGroupChange, named};
use crate::tags;
use crate::wanted::Frontend;

/// One security group of ours: as it is, and as it should be.
struct Shard<'a> {
    name: String,
    id: Option<Id>,
    present: Option<&'a BTreeSet<Rule>>,
    /// So many rules are there that are not ours to take away.
    foreign: usize,
    wanted: BTreeSet<Rule>,
}

/// So many rules of one family a rule counts as: a prefix list as many as it may ever have entries.
fn weight(rule: &Rule, lists: &PrefixLists) -> (IpFamily, usize) {
    match &rule.source {
        Source::Range(IpNet::V4(_)) => (IpFamily::IPv4, 1),
        Source::Range(IpNet::V6(_)) => (IpFamily::IPv6, 1),
        Source::PrefixList(id) => lists.get(id).copied().unwrap_or((IpFamily::IPv4, 1)),
    }
}

fn weigh<'a>(rules: impl Iterator<Item = &'a Rule>, lists: &PrefixLists) -> BTreeMap<IpFamily, usize> {
    let mut sums = BTreeMap::new();
    for (family, weight) in rules.map(|rule| weight(rule, lists)) {
        *sums.entry(family).or_default() += weight;
    }
    sums
}

impl Shard<'_> {
    fn has_room(&self, rule: &Rule, lists: &PrefixLists, quotas: &Quotas) -> bool {
        let there = self.present.into_iter().flatten();
        let new = self.wanted.iter().filter(|rule| self.present.is_none_or(|there| !there.contains(rule)));
        let (family, more) = weight(rule, lists);
        let used = weigh(there.chain(new), lists).get(&family).copied().unwrap_or_default();
        used + self.foreign + more <= quotas.rules
    }
}

/// Puts each rule into a group; the first that finds no room is returned.
fn distribute<'a>(
    shards: &mut [Shard<'_>],
    rules: &'a BTreeSet<Rule>,
    lists: &PrefixLists,
    quotas: &Quotas,
) -> Result<(), &'a Rule> {
    let mut missing = Vec::new();
    for rule in rules {
        let holds = |shard: &&mut Shard<'_>| shard.present.is_some_and(|there| there.contains(rule));
        match shards.iter_mut().find(holds) {
            Some(shard) => drop(shard.wanted.insert(rule.clone())),
            None => missing.push(rule),
        }
    }
    // The largest first, which finds room wherever there is some; groups that exist before new ones.
    missing.sort_by_key(|rule| Reverse(weight(rule, lists).1));
    for rule in missing {
        let mut order: Vec<&mut Shard<'_>> = shards.iter_mut().collect();
        order.sort_by_key(|shard| shard.present.is_none() && shard.wanted.is_empty());
        let shard = order.into_iter().find(|shard| shard.has_room(rule, lists, quotas)).ok_or(rule)?;
        shard.wanted.insert(rule.clone());
    }
    Ok(())
}

impl Parts<'_> {
    fn security_group_name(&self, n: usize) -> String {
        match self.home {
            Some(group) => names::shared_security_group(&self.owner().cluster, group, n),
            None => names::security_group(self.owner(), n),
        }
    }

    /// Security groups in front of this load balancer, or made for it.
    fn home_security_groups(&self) -> impl Iterator<Item = (&String, &SecurityGroup)> {
        self.view.security_groups.iter().filter(|(_, it)| tags::group(&it.tags).as_ref() == self.home)
    }

    /// Whether only others may revoke a rule: of a port that they have a listener on, or may be about to create one on.
    /// Rules are created and revoked before their listener. Where nobody has a listener on the port, this Service may revoke the
    /// rule only while it has target groups left over, which are deleted last.
    fn is_others(&self, rule: &Rule) -> bool {
        let is_own = |port| {
            let there = self.current().is_some_and(|current| current.listeners.contains_key(&port));
            there || self.wanted.listeners.contains_key(&port)
        };
        self.home.is_some() && (self.taken(rule.port) || !(is_own(rule.port) || self.leaves_groups()))
    }

    /// Rules of others, who share it.
    fn others_rules(&self) -> impl Iterator<Item = &Rule> {
        self.home_security_groups().flat_map(|(_, it)| &it.rules).filter(|rule| self.is_others(rule))
    }

    /// Our security groups, each with its rules; or why they cannot be.
    fn shards(&self, rules: &BTreeSet<Rule>) -> Result<Vec<Shard<'_>>, String> {
        let (lists, quotas) = (&self.site.prefix_lists, &self.site.quotas);
        let mk_shard = |n: usize| {
            let name = self.security_group_name(n);
            let security_group = self.view.security_groups.get(&name);
            let (id, present) = (
                security_group.map(|it| it.id.clone()),
                security_group.map(|security_group| &security_group.rules),
            );
            let foreign = security_group.map_or(0, |security_group| security_group.foreign.len());
            Shard { name, id, present, foreign, wanted: BTreeSet::new() }
        };
        let mut shards: Vec<_> = (0..quotas.shards()).map(mk_shard).collect();
        if distribute(&mut shards, rules, lists, quotas).is_ok() {
            let keeps = |rules: &BTreeSet<Rule>| rules.iter().any(|rule| self.is_others(rule));
            shards.retain(|shard| !shard.wanted.is_empty() || shard.present.is_some_and(keeps));
            return Ok(shards);
        }
        let empty =
            |n: usize| Shard { id: None, present: None, foreign: 0, wanted: BTreeSet::new(), ..mk_shard(n) };
        let mut fresh: Vec<_> = (0..quotas.shards()).map(empty).collect();
        let quota = quotas.of_rules();
        let all: BTreeSet<Rule> = self.others_rules().chain(rules).cloned().collect();
        let whose = if all.len() > rules.len() { " with those of the others of its group" } else { "" };
        Err(match distribute(&mut fresh, &all, lists, quotas) {
            Ok(()) => {
                let old = self.home_security_groups().flat_map(|(_, security_group)| &security_group.rules);
                let all: BTreeSet<&Rule> = old.chain(rules).collect();
                format!(
                    "old and new rules together are {}, {quota}: change the ranges in two steps",
                    heaviest(all.into_iter(), lists)
                )
            }
            Err(Rule { source: Source::PrefixList(id), .. })
                if lists.get(id).is_some_and(|(_, most)| *most > quotas.rules) =>
            {
                let most = lists.get(id).map_or(0, |(_, most)| *most);
                format!(
                    "prefix list {id} counts as the {most} entries it may have, and a security group takes \
                     {}: lower its maximum (aws ec2 modify-managed-prefix-list), or split it",
                    quotas.rules
                )
            }
            Err(_) => {
                let needed = heaviest(all.iter(), lists);
                format!("needs {needed} rules{whose}, {quota}: use fewer and wider ranges, or fewer ports")
            }
        })
    }

    /// Plans for them. Whether the load balancer may be planned for: none is made that lets nobody or everybody in.
    pub(super) fn plan_security_groups(&self, draft: &mut Draft<'_>) -> bool {
        let Frontend::Own(rules) = &self.wanted.frontend else { return true };
        let shards = match self.shards(rules) {
            Ok(shards) => shards,
            Err(message) => {
                draft.block(Field::SourceRanges, Obstacle::Unsupported, message);
                return self.current().is_some_and(Balancer::is_used);
            }
        };
        for Shard { name, id, present, foreign: _, wanted } in shards {
            if present.is_none() {
                let (name, tags) = (name.clone(), self.whole_tags());
                draft.additive(
                    Action::Create(New::SecurityGroup { name, tags }),
                    "clients come in by its rules",
                );
            }
            let nothing = BTreeSet::new();
            let present = present.unwrap_or(&nothing);
            let group = Named { name, id };
            let missing: Vec<Rule> = wanted.difference(present).cloned().collect();
            if !missing.is_empty() {
                let change = SecurityGroupChange::Authorize(missing);
                let action = Action::Modify(Change::SecurityGroup(group.clone(), change));
                draft.additive(action, "they are not let in yet");
            }
            let stale = present.difference(&wanted).filter(|rule| !self.is_others(rule));
            let stale: Vec<Rule> = stale.cloned().collect();
            if !stale.is_empty() {
                let change = Change::SecurityGroup(group, SecurityGroupChange::Revoke(stale));
                draft.destructive(Action::Modify(change), "the Service does not let them in");
            }
        }
        true
    }

    /// Those of ours that are to be in front of the load balancer; where they cannot be as wanted, those that are.
    fn own_security_groups(&self, rules: &BTreeSet<Rule>) -> Vec<Named> {
        match self.shards(rules) {
            Ok(shards) => shards.into_iter().map(|Shard { name, id, .. }| Named { name, id }).collect(),
            Err(_) => self.home_security_groups().map(|(name, it)| named(name, &it.id)).collect(),
        }
    }

    /// Of an adopted load balancer, what is in front of it and not this Service's alone: nodes may let in nobody else.
    fn controllers_groups(&self) -> impl Iterator<Item = &Id> {
        let own = matches!(self.wanted.frontend, Frontend::Own(_));
        let adopted = self.current().filter(|current| own && current.adopted);
        let all = adopted.into_iter().flat_map(|current| &current.described.security_groups);
        all.filter(|id| !self.view.security_groups.values().any(|it| it.id == **id))
    }

    /// All that is to be in front of the load balancer.
    pub(super) fn security_groups(&self) -> Vec<Named> {
        let given = |id: &Id| Named { name: id.0.clone(), id: Some(id.clone()) };
        let mut groups = match &self.wanted.frontend {
            Frontend::Own(rules) => self.own_security_groups(rules),
            Frontend::Given { groups, node_rules: _ } => groups.iter().map(given).collect(),
        };
        let refused = matches!(self.wanted.frontend, Frontend::Given { node_rules: Some(false), .. });
        groups.extend(self.site.backend_group.as_ref().filter(|_| !refused).map(given));
        groups.extend(self.controllers_groups().map(given));
        let mut there = BTreeSet::new();
        groups.retain(|group| group.id.is_none() || there.insert(group.id.clone()));
        groups
    }

    /// Ours that no rule is in any more, or where the user has brought others.
    pub(super) fn leftover_security_groups(&self, draft: &mut Draft<'_>) {
        if !self.choice.others.is_empty() {
            return;
        }
        let used: BTreeSet<String> = match &self.wanted.frontend {
            Frontend::Own(rules) => {
                self.own_security_groups(rules).into_iter().map(|group| group.name).collect()
            }
            Frontend::Given { .. } => BTreeSet::new(),
        };
        // Those of groups that it leaves are the others', or are deleted with the last of them.
        let is_own = |tags: &_| tags::group(tags).is_none_or(|group| Some(&group) == self.home);
        let own = self.view.security_groups.iter().filter(|(_, it)| is_own(&it.tags));
        for (name, security_group) in own.filter(|(name, _)| !used.contains(*name)) {
            let leftover = named(name, &security_group.id);
            draft.delete(Kind::SecurityGroup, leftover, "no load balancer needs it");
        }
    }
}

/// The number of rules of the family that needs most.
fn heaviest<'a>(rules: impl Iterator<Item = &'a Rule>, lists: &PrefixLists) -> usize {
    weigh(rules, lists).into_values().max().unwrap_or_default()
}
