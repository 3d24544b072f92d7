//! One load balancer with its security group, target groups, targets and listeners.
//!
//! Owns: what changes in place. Leaves to others: which load balancer it is (`choice`), and the order (`draft`).
//! Invariant: a target is taken away only when every wanted one of its group has been asked for its health.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use portico_provider::{Field, Obstacle, Owner};

use super::choice::is_named;
use super::draft::Draft;
use super::{Pace, Site, named};
use crate::cloud::resources::{Health, Id, Listener, NewGroup, Rule, Target};
use crate::names;
use crate::observed::{Balancer, Seal, Targets, View};
use crate::step::{Action, Named};
use crate::translate::{RULES_A_GROUP, balancer_defaults, group_defaults};
use crate::wanted::{Frontend, Placement, Wanted, WantedListener};

/// What is planned for, with all that is known.
pub(super) struct Parts<'a> {
    pub(super) site: &'a Site,
    pub(super) owner: &'a Owner,
    pub(super) wanted: &'a Wanted,
    /// The hash of what is desired, without its targets.
    pub(super) spec: &'a str,
    pub(super) view: &'a View,
    pub(super) name: &'a str,
    pub(super) current: Option<&'a Balancer>,
    /// A replacement waits for consent: what would need it is left as it is.
    pub(super) keeps_shape: bool,
}

impl Parts<'_> {
    pub(super) fn plan(&self, draft: &mut Draft<'_>) {
        self.firewall(draft);
        for (port, listener) in &self.wanted.listeners {
            self.group(draft, *port, listener);
        }
        match self.current {
            None => self.create(draft),
            Some(current) => self.change(draft, current),
        }
        self.listeners(draft);
    }

    /// The target groups that this load balancer needs.
    pub(super) fn group_names(&self) -> BTreeSet<String> {
        let each = self.wanted.listeners.iter();
        each.map(|(port, listener)| self.group_name(self.name, *port, listener)).collect()
    }

    fn group_name(&self, balancer: &str, port: u16, listener: &WantedListener) -> String {
        names::target_group(self.owner, balancer, port, listener.shape)
    }

    fn itself(&self) -> Named {
        Named { name: self.name.to_owned(), id: self.current.map(|current| current.facts.id.clone()) }
    }

    fn group_named(&self, name: &str) -> Named {
        Named { name: name.to_owned(), id: self.view.groups.get(name).map(|group| group.facts.id.clone()) }
    }

    // ---- security groups

    fn own_firewall(&self) -> Named {
        let name = names::security_group(self.owner);
        let id = self.view.firewalls.get(&name).map(|firewall| firewall.id.clone());
        Named { name, id }
    }

    fn firewall(&self, draft: &mut Draft<'_>) {
        let Frontend::Own(rules) = &self.wanted.frontend else { return };
        let group = self.own_firewall();
        let nothing = BTreeSet::new();
        let present = self.view.firewalls.get(&group.name).map_or(&nothing, |firewall| &firewall.rules);
        if !self.view.firewalls.contains_key(&group.name) {
            let (name, tags) = (group.name.clone(), self.wanted.tags.clone());
            draft.widen(Action::CreateSecurityGroup { name, tags }, "clients come in by its rules");
        }
        if let Some(message) = too_many(present, rules) {
            draft.block(Field::SourceRanges, Obstacle::Unsupported, message);
            return;
        }
        let missing: Vec<Rule> = rules.difference(present).copied().collect();
        if !missing.is_empty() {
            draft
                .widen(Action::Authorize { group: group.clone(), rules: missing }, "they are not let in yet");
        }
        let stale: Vec<Rule> = present.difference(rules).copied().collect();
        if !stale.is_empty() {
            draft.narrow(Action::Revoke { group, rules: stale }, "the Service does not let them in");
        }
    }

    /// All that is to be in front of the load balancer.
    fn security_groups(&self) -> Vec<Named> {
        let given = |id: &Id| Named { name: id.0.clone(), id: Some(id.clone()) };
        let mut groups = match &self.wanted.frontend {
            Frontend::Own(_) => vec![self.own_firewall()],
            Frontend::Given(ids) => ids.iter().map(given).collect(),
        };
        groups.extend(self.site.backend_group.as_ref().map(given));
        groups
    }

    /// Ours, where the user has brought others.
    pub(super) fn leftover_firewalls(&self, draft: &mut Draft<'_>, alone: bool) {
        let own = match self.wanted.frontend {
            Frontend::Own(_) => Some(names::security_group(self.owner)),
            Frontend::Given(_) => None,
        };
        for (name, firewall) in &self.view.firewalls {
            if Some(name) != own.as_ref() && alone {
                draft.narrow(
                    Action::DeleteSecurityGroup(named(name, &firewall.id)),
                    "no load balancer needs it",
                );
            }
        }
    }

    // ---- target groups

    fn group(&self, draft: &mut Draft<'_>, port: u16, listener: &WantedListener) {
        let name = self.group_name(self.name, port, listener);
        let Some(group) = self.view.groups.get(&name) else {
            return self.create_group(draft, name, port, listener);
        };
        let WantedListener { spec: _, shape: _, health, attributes, targets: wanted } = listener;
        if group.facts.health != *health {
            let action = Action::SetHealthCheck { group: self.group_named(&name), health: health.clone() };
            draft.narrow(action, "it is not as the Service's traffic policy or annotations ask");
        }
        let differing = differing(attributes, &filled(group_defaults(listener.shape), &group.attributes));
        if !differing.is_empty() {
            let action = Action::SetGroupAttributes { group: self.group_named(&name), attributes: differing };
            draft.narrow(action, "they are not as the Service asks");
        }
        targets(draft, self.site.pace, &self.group_named(&name), &group.targets, wanted);
    }

    fn create_group(&self, draft: &mut Draft<'_>, name: String, port: u16, listener: &WantedListener) {
        let WantedListener { spec: _, shape, health, attributes, targets } = listener;
        let group = Named { name: name.clone(), id: None };
        let new = NewGroup {
            name,
            vpc: self.site.vpc.clone(),
            shape: *shape,
            port,
            health: health.clone(),
            tags: self.wanted.tags.clone(),
        };
        draft.widen(Action::CreateTargetGroup(Box::new(new)), format!("for listener {port}"));
        let attributes = differing(attributes, &group_defaults(*shape));
        if !attributes.is_empty() {
            draft.widen(
                Action::SetGroupAttributes { group: group.clone(), attributes },
                "AWS's defaults are others",
            );
        }
        if !targets.is_empty() {
            let targets = targets.iter().cloned().collect();
            draft.widen(Action::Register { group, targets }, format!("listener {port} sends there"));
        }
    }

    /// Keeps the targets of a load balancer that is being replaced; its groups' names.
    pub(super) fn upkeep(&self, draft: &mut Draft<'_>, name: &str, old: &Balancer) -> BTreeSet<String> {
        for (port, listener) in &self.wanted.listeners {
            let group_name = self.group_name(name, *port, listener);
            if let Some(group) = self.view.groups.get(&group_name) {
                let named = self.group_named(&group_name);
                targets(draft, self.site.pace, &named, &group.targets, &listener.targets);
            }
        }
        let used: BTreeSet<&Id> =
            old.listeners.values().filter_map(|listener| listener.group.as_ref()).collect();
        let groups = self.view.groups.iter().filter(|(_, group)| used.contains(&group.facts.id));
        groups.map(|(name, _)| name.clone()).collect()
    }

    // ---- the load balancer

    fn create(&self, draft: &mut Draft<'_>) {
        let Wanted { name, scheme, address_type, placement, frontend: _, attributes, listeners: _, tags } =
            self.wanted;
        let action = Action::CreateLoadBalancer {
            name: self.name.to_owned(),
            name_is_given: name.is_some(),
            scheme: *scheme,
            address_type: *address_type,
            placement: placement.clone(),
            security_groups: self.security_groups(),
            tags: tags
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .chain(Seal::unfinished(self.spec))
                .collect(),
        };
        draft.widen(action, "the Service wants one and there is none like it");
        let attributes = differing(attributes, &balancer_defaults());
        if !attributes.is_empty() {
            let action = Action::SetAttributes { load_balancer: self.itself(), attributes };
            draft.widen(action, "AWS's defaults are others");
        }
    }

    fn change(&self, draft: &mut Draft<'_>, current: &Balancer) {
        let attributes =
            differing(&self.wanted.attributes, &filled(balancer_defaults(), &current.attributes));
        if !attributes.is_empty() {
            let action = Action::SetAttributes { load_balancer: self.itself(), attributes };
            draft.narrow(action, "they are not as the Service asks");
        }
        if current.facts.address_type != self.wanted.address_type {
            let action =
                Action::SetAddressType { load_balancer: self.itself(), kind: self.wanted.address_type };
            draft.narrow(action, format!("it is {}", current.facts.address_type));
        }
        let groups = self.security_groups();
        let ids: Option<BTreeSet<Id>> = groups.iter().map(|group| group.id.clone()).collect();
        let can_have = !current.facts.security_groups.is_empty();
        if can_have && ids.as_ref() != Some(&current.facts.security_groups) {
            let action = Action::SetSecurityGroups { load_balancer: self.itself(), groups };
            draft.narrow(action, "others are in front of it");
        }
        if let Placement::Named(subnets) = &self.wanted.placement
            && !self.keeps_shape
        {
            let in_place = |wish: &&_| {
                current.facts.subnets.iter().any(|it| is_named(wish, &it.subnet, &self.view.subnet_names))
            };
            let new = subnets.iter().filter(|wish| !in_place(wish)).count();
            if new > 0 {
                let placement = self.wanted.placement.clone();
                let action = Action::SetSubnets { load_balancer: self.itself(), placement };
                draft.narrow(action, format!("{new} are new"));
            }
        }
    }

    // ---- listeners

    fn listeners(&self, draft: &mut Draft<'_>) {
        let none = BTreeMap::new();
        let present: &BTreeMap<u16, Listener> = self.current.map_or(&none, |current| &current.listeners);
        for (port, wanted) in &self.wanted.listeners {
            let group = self.group_named(&self.group_name(self.name, *port, wanted));
            let spec = wanted.spec.clone();
            match present.get(port) {
                None => {
                    let tags = self.wanted.tags.clone();
                    let action = Action::CreateListener { load_balancer: self.itself(), spec, group, tags };
                    draft.widen(action, format!("the Service has port {port}"));
                }
                Some(listener) if listener.spec != spec || listener.group != group.id => {
                    let action = Action::ModifyListener { id: listener.id.clone(), spec, group };
                    draft.narrow(action, "its protocol, certificate or target group differs");
                }
                Some(_) => {}
            }
        }
        for (port, listener) in present.iter().filter(|(port, _)| !self.wanted.listeners.contains_key(port)) {
            let action = Action::DeleteListener { id: listener.id.clone(), port: *port };
            draft.narrow(action, "the Service has no such port");
        }
    }
}

/// New targets first; old ones when every wanted one has been asked for its health.
pub(super) fn targets(
    draft: &mut Draft<'_>,
    pace: Pace,
    group: &Named,
    present: &Targets,
    wanted: &BTreeSet<Target>,
) {
    let missing: Vec<Target> =
        wanted.iter().filter(|target| !present.contains_key(*target)).cloned().collect();
    let stale: Vec<Target> = present.keys().filter(|target| !wanted.contains(*target)).cloned().collect();
    let unasked = present.iter();
    let unasked =
        unasked.filter(|(target, health)| **health == Health::Initial && wanted.contains(*target)).count();
    let new = missing.len() + unasked;
    if !missing.is_empty() {
        draft.widen(Action::Register { group: group.clone(), targets: missing }, "they are new");
    }
    match (stale.is_empty(), new) {
        (true, _) => {}
        (false, 0) => {
            let action = Action::Deregister { group: group.clone(), targets: stale };
            draft.narrow(action, "they are no targets any more");
        }
        (false, new) => {
            let name = &group.name;
            let what = format!("{new} new targets of {name} to be asked for their health before old ones go");
            draft.wait(what, pace.wait(0));
        }
    }
}

/// What AWS does not show is at its default.
fn filled(
    mut defaults: BTreeMap<String, String>,
    shown: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    defaults.extend(shown.clone());
    defaults
}

/// Those of `wanted` that `present` has otherwise.
fn differing(
    wanted: &BTreeMap<String, String>,
    present: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let differ = wanted.iter().filter(|(key, value)| present.get(*key) != Some(value));
    differ.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// New rules are let in before old ones go, so both must have room.
fn too_many(present: &BTreeSet<Rule>, wanted: &BTreeSet<Rule>) -> Option<String> {
    let of =
        |v6: bool| present.union(wanted).filter(|rule| matches!(rule.source, IpNet::V6(_)) == v6).count();
    let needed = of(false).max(of(true));
    (needed > RULES_A_GROUP).then(|| {
        format!(
            "old and new rules together are {needed}, quota {RULES_A_GROUP}: change the ranges in two steps"
        )
    })
}
