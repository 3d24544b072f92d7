//! One load balancer with its security groups, target groups, targets and listeners.
//!
//! Owns: what changes in place. Leaves to others: which load balancer it is (`choice`), rules (`security_groups`), the order
//! (`draft`). Invariants: what cannot change in place is left as it is. A certificate is added before another becomes the
//! default one, and removed after. Certificates beside the default one and attributes of listeners are read, and so
//! compared, only on a load balancer that is marked: whoever never asked for any pays no reads for them. The mark is made
//! before the first of them is set, so that none is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{GroupName, Owner};

use super::Site;
use super::choice::{Choice, is_fronted, is_named};
use super::draft::{Draft, Marked};
use super::targets::targets;
use crate::cloud::resources::{
    AddressType, Families, Id, Listener, ListenerExtras, NewGroup, SubnetMapping, Tags, Transport,
};
use crate::observed::{Balancer, View};
use crate::step::{
    Action, Change, ListenerChange, ListenerRef, LoadBalancerChange, Named, New, PlannedLoadBalancer,
    TargetGroupChange, named,
};
use crate::tags::{self, SyncedHash};
use crate::wanted::{Placement, Wanted, WantedListener, balancer_defaults, group_defaults};

/// AWS's default of each attribute of listeners that has one.
const LISTENER_DEFAULTS: [(&str, &str); 1] = [("tcp.idle_timeout.seconds", "350")];

/// The load balancer that is planned for, with all that is known.
pub(super) struct Parts<'a> {
    pub(super) site: &'a Site,
    pub(super) wanted: &'a Wanted<'a>,
    pub(super) view: &'a View,
    pub(super) choice: &'a Choice<'a>,
    /// The group that shares it, if one does.
    pub(super) home: Option<&'a GroupName>,
    /// Whether it is this Service that decides what is of all of it.
    pub(super) leads: bool,
}

impl Parts<'_> {
    pub(super) fn owner(&self) -> &Owner {
        self.wanted.owner()
    }

    /// It, if it exists.
    pub(super) fn current(&self) -> Option<&Balancer> {
        self.choice.current
    }

    fn unfinished(&self) -> Tags {
        SyncedHash::unfinished(&self.wanted.hash().spec)
    }

    /// What carries the synced hash.
    pub(super) fn marked(&self, current: &Balancer) -> Marked {
        let own = || self.group_names().iter().map(|name| self.group_named(name)).collect();
        Marked {
            load_balancer: named(&current.described.name, &current.described.id),
            target_groups: current.group().map(|_| own()).unwrap_or_default(),
        }
    }

    /// Tags of what is made for this Service alone.
    pub(super) fn tags(&self) -> Tags {
        let group = self.home.map(tags::member).into_iter().flatten();
        self.wanted.tags.clone().into_iter().chain(group).collect()
    }

    /// Tags of the load balancer and its security groups.
    pub(super) fn whole_tags(&self) -> Tags {
        if self.home.is_some() { tags::commons(&self.tags()) } else { self.tags() }
    }

    /// Whether it has target groups here that no listener needs.
    pub(super) fn leaves_groups(&self) -> bool {
        let kept = self.group_names();
        let mut here = self.view.target_groups.iter().filter(|(_, it)| it.member_of.as_ref() == self.home);
        here.any(|(name, _)| !kept.contains(name))
    }

    /// Whether another owner has a listener on this port.
    pub(super) fn taken(&self, port: u16) -> bool {
        self.current().is_some_and(|current| current.taken.contains_key(&port))
    }

    pub(super) fn plan(&self, draft: &mut Draft<'_>) {
        if !self.plan_security_groups(draft) {
            return;
        }
        for (name, listener) in self.wanted.target_groups(&self.choice.name) {
            self.group(draft, name, listener);
        }
        match self.current() {
            None => self.create(draft),
            Some(current) => {
                if self.leads {
                    self.change_whole(draft, current);
                }
                self.change_front(draft, current);
            }
        }
        self.listeners(draft);
    }

    /// The target groups that this load balancer needs.
    pub(super) fn group_names(&self) -> BTreeSet<String> {
        self.wanted.target_groups(&self.choice.name).map(|(name, _)| name).collect()
    }

    fn itself(&self) -> Named {
        Named {
            name: self.choice.name.clone(),
            id: self.current().map(|current| current.described.id.clone()),
        }
    }

    fn group_named(&self, name: &str) -> Named {
        Named {
            name: name.to_owned(),
            id: self.view.target_groups.get(name).map(|group| group.described.id.clone()),
        }
    }

    // ---- target groups

    fn group(&self, draft: &mut Draft<'_>, name: String, listener: &WantedListener) {
        let Some(group) = self.view.target_groups.get(&name) else {
            return self.create_group(draft, name, listener);
        };
        let named = self.group_named(&name);
        let WantedListener { spec: _, extras: _, shape: _, health, attributes, targets: _, room: _ } =
            listener;
        if group.described.health != *health {
            let change = TargetGroupChange::HealthCheck(health.clone());
            let action = Action::Modify(Change::TargetGroup(named.clone(), change));
            draft.destructive(action, "it is not as the Service's traffic policy or annotations ask");
        }
        let differing = differing(attributes, &filled(group_defaults(listener.shape), &group.attributes));
        if !differing.is_empty() {
            let change = TargetGroupChange::Attributes(differing);
            let action = Action::Modify(Change::TargetGroup(named.clone(), change));
            draft.destructive(action, "they are not as the Service asks");
        }
        targets(draft, self.site.pace, &named, &group.targets, listener.takes());
    }

    fn create_group(&self, draft: &mut Draft<'_>, name: String, listener: &WantedListener) {
        let WantedListener { spec, extras: _, shape, health, attributes, targets, room: _ } = listener;
        let port = spec.port;
        let group = Named { name: name.clone(), id: None };
        let new = NewGroup {
            name,
            vpc: self.site.vpc.clone(),
            shape: *shape,
            port,
            health: health.clone(),
            // A member's synced hash is on its target groups.
            tags: self
                .tags()
                .into_iter()
                .chain(self.home.into_iter().flat_map(|_| self.unfinished()))
                .collect(),
        };
        draft.additive(Action::Create(New::TargetGroup(Box::new(new))), format!("for listener {port}"));
        let attributes = differing(attributes, &group_defaults(*shape));
        if !attributes.is_empty() {
            draft.additive(
                Action::Modify(Change::TargetGroup(group.clone(), TargetGroupChange::Attributes(attributes))),
                "AWS's defaults are others",
            );
        }
        if !targets.is_empty() {
            let targets = targets.iter().cloned().collect();
            draft.additive(
                Action::Register { target_group: group, targets },
                format!("listener {port} sends there"),
            );
        }
    }

    /// Keeps the targets of a load balancer that is being replaced; its groups' names.
    pub(super) fn upkeep(&self, draft: &mut Draft<'_>, name: &str, old: &Balancer) -> BTreeSet<String> {
        for (group_name, listener) in self.wanted.target_groups(name) {
            if let Some(group) = self.view.target_groups.get(&group_name) {
                let named = self.group_named(&group_name);
                targets(draft, self.site.pace, &named, &group.targets, listener.takes());
            }
        }
        let used: BTreeSet<&Id> =
            old.listeners.values().filter_map(|listener| listener.group.as_ref()).collect();
        let groups = self.view.target_groups.iter().filter(|(_, group)| used.contains(&group.described.id));
        groups.map(|(name, _)| name.clone()).collect()
    }

    // ---- the load balancer

    fn create(&self, draft: &mut Draft<'_>) {
        let Wanted {
            desired: _,
            adopt: _,
            name,
            scheme,
            families,
            placement,
            frontend: _,
            attributes,
            named_attributes: _,
            listeners: _,
            tags: _,
        } = self.wanted;
        let (lead, hash) = match self.home {
            Some(_) => (tags::lead(self.owner()), Tags::new()),
            None => (Tags::new(), self.unfinished()),
        };
        let new = PlannedLoadBalancer {
            name: self.choice.name.clone(),
            name_is_given: name.is_some(),
            scheme: *scheme,
            families: *families,
            placement: placement.clone(),
            security_groups: self.security_groups(),
            tags: self
                .whole_tags()
                .into_iter()
                .chain(lead)
                .chain(self.wants_extras().then(tags::with_extras).into_iter().flatten())
                .chain(hash)
                .collect(),
        };
        let action = Action::Create(New::LoadBalancer(Box::new(new)));
        draft.additive(action, "the Service wants one and there is none like it");
        let attributes = differing(attributes, &balancer_defaults());
        if !attributes.is_empty() {
            let action = self.modify(LoadBalancerChange::Attributes(attributes));
            draft.additive(action, "AWS's defaults are others");
        }
    }

    fn modify(&self, change: LoadBalancerChange) -> Action {
        Action::Modify(Change::LoadBalancer(self.itself(), change))
    }

    fn change_front(&self, draft: &mut Draft<'_>, current: &Balancer) {
        let ours = self.home.is_none_or(|group| is_fronted(self.view, current, group));
        if !ours && !self.leads {
            return;
        }
        let groups = self.security_groups();
        let ids: Option<BTreeSet<Id>> = groups.iter().map(|group| group.id.clone()).collect();
        let can_have = !current.described.security_groups.is_empty();
        if can_have && ids.as_ref() != Some(&current.described.security_groups) {
            let action = self.modify(LoadBalancerChange::SecurityGroups(groups));
            draft.destructive(action, "others are in front of it");
        }
    }

    fn change_whole(&self, draft: &mut Draft<'_>, current: &Balancer) {
        let attributes =
            differing(&self.wanted.attributes, &filled(balancer_defaults(), &current.attributes));
        if !attributes.is_empty() {
            let action = self.modify(LoadBalancerChange::Attributes(attributes));
            draft.destructive(action, "they are not as the Service asks");
        }
        self.families(draft, current);
        if let Placement::Named(subnets) = &self.wanted.placement
            && self.choice.blocked.is_none()
        {
            let in_place = |wish: &&_| {
                current.described.subnets.iter().any(|it| is_named(wish, &it.subnet, &self.view.subnet_names))
            };
            let new = subnets.iter().filter(|wish| !in_place(wish)).count();
            if new > 0 {
                let placement = self.wanted.placement.clone();
                let source_nat = self.wanted.families.source_nat || current.described.families.source_nat;
                let action = self.modify(LoadBalancerChange::Subnets { placement, source_nat });
                draft.destructive(action, format!("{new} are new"));
            }
        }
    }

    fn families(&self, draft: &mut Draft<'_>, current: &Balancer) {
        let (families, present) = (self.wanted.families, current.described.families);
        let (subnets, prefixed) = self.prefixed(current);
        if families.source_nat != present.source_nat || (families.source_nat && !prefixed) {
            let action = self.modify(LoadBalancerChange::Families(families, subnets));
            if families.source_nat {
                draft.additive(action, "UDP over IPv6 needs them");
            } else {
                draft.destructive(action, format!("it is {present}"));
            }
        } else if families.kind == AddressType::Dualstack
            && families.kind != present.kind
            && current.listeners.values().any(|listener| listener.spec.protocol.is_udp())
        {
            draft.wait(
                format!("UDP listeners of {} to be gone before it is {families}", &self.choice.name),
                self.site.pace.wait(0),
            );
        } else if families.kind != present.kind {
            let action = self.modify(LoadBalancerChange::AddressType(families.kind));
            draft.destructive(action, format!("it is {}", present.kind));
        }
    }

    /// Whether AWS takes this listener, with the families that there are; if not, it comes when those are as wanted.
    fn takes(&self, protocol: Transport) -> bool {
        let takes_udp = |current: &Balancer| {
            let Families { kind, source_nat } = current.described.families;
            kind == AddressType::Ipv4 || source_nat || self.wanted.families.source_nat
        };
        !protocol.is_udp() || self.current().is_none_or(takes_udp)
    }

    /// The present subnets with the prefixes that are wanted, and whether they have them.
    fn prefixed(&self, current: &Balancer) -> (Vec<SubnetMapping>, bool) {
        let named = match &self.wanted.placement {
            Placement::Named(named) => named.as_slice(),
            Placement::Discovered | Placement::Addressed(_) => &[],
        };
        let wish = |id: &str| named.iter().find(|wish| is_named(wish, id, &self.view.subnet_names));
        let mut as_wanted = true;
        let each = current.described.subnets.iter().map(|present| {
            let wished = wish(&present.subnet);
            let prefix = wished.and_then(|wish| wish.source_prefix);
            as_wanted &= prefix.is_none() || prefix == present.source_prefix;
            // One that AWS chose is not asked for.
            let ipv6_address = wished.and_then(|wish| wish.ipv6_address);
            SubnetMapping { source_prefix: prefix.or(present.source_prefix), ipv6_address, ..present.clone() }
        });
        (each.collect(), as_wanted)
    }

    // ---- listeners

    /// Whether some listener is to have more than its specification.
    fn wants_extras(&self) -> bool {
        self.wanted.listeners.values().any(|listener| listener.extras != ListenerExtras::default())
    }

    fn listeners(&self, draft: &mut Draft<'_>) {
        if let Some(current) = self.current()
            && current.extras.is_none()
            && self.wants_extras()
        {
            let action = Action::note(self.itself(), tags::with_extras());
            draft.additive(action, "certificates and attributes of its listeners are compared from now on");
        }
        let none = BTreeMap::new();
        let present: &BTreeMap<u16, Listener> = self.current().map_or(&none, |current| &current.listeners);
        for (group, wanted) in self.wanted.target_groups(&self.choice.name) {
            let listener = present.get(&wanted.spec.port);
            self.listener(draft, &group, wanted, listener);
            self.extras(draft, wanted, listener);
        }
        for (port, listener) in present.iter().filter(|(port, _)| !self.wanted.listeners.contains_key(port)) {
            draft.delete_listener(*port, &listener.id, "the Service has no such port");
        }
    }

    fn listener(
        &self,
        draft: &mut Draft<'_>,
        group: &str,
        wanted: &WantedListener,
        present: Option<&Listener>,
    ) {
        let group = self.group_named(group);
        let (port, spec) = (wanted.spec.port, wanted.spec.clone());
        match present {
            None if !self.takes(spec.protocol) => {
                let what = format!(
                    "{} to be {} before it has UDP on port {port}",
                    &self.choice.name, self.wanted.families
                );
                draft.wait(what, self.site.pace.wait(0));
            }
            None => {
                let tags = self.tags();
                let load_balancer = self.itself();
                let new = New::Listener { load_balancer, spec, target_group: group, tags };
                let action = Action::Create(new);
                draft.additive(action, format!("the Service has port {port}"));
            }
            Some(listener) if listener.spec != spec || listener.group != group.id => {
                let id = Some(listener.id.clone());
                let listener = ListenerRef { load_balancer: self.itself(), port, id };
                let action = Action::Modify(Change::Listener(listener, ListenerChange::Spec(spec, group)));
                draft.destructive(action, "its protocol, certificate or target group differs");
            }
            Some(_) => {}
        }
    }

    fn extras(&self, draft: &mut Draft<'_>, wanted: &WantedListener, present: Option<&Listener>) {
        let ListenerExtras { certificates, attributes } = &wanted.extras;
        let port = wanted.spec.port;
        let known = present.and_then(|_| self.current()?.extras.as_ref()?.get(&port));
        let nothing = ListenerExtras::default();
        let shown = known.unwrap_or(&nothing);
        let id = present.map(|listener| listener.id.clone());
        let listener = ListenerRef { load_balancer: self.itself(), port, id };
        let modify = |change| Action::Modify(Change::Listener(listener.clone(), change));
        let missing: BTreeSet<String> = certificates.difference(&shown.certificates).cloned().collect();
        if !missing.is_empty() {
            let action = modify(ListenerChange::AddCertificates(missing));
            // One that ends no TLS yet takes none before it is changed.
            if present.is_some_and(|listener| listener.spec.protocol != Transport::Tls) {
                draft.destructive(action, "clients may ask for them by SNI");
            } else {
                draft.additive(action, "clients may ask for them by SNI");
            }
        }
        let stale: BTreeSet<String> = shown.certificates.difference(certificates).cloned().collect();
        // AWS removes them with TLS.
        if !stale.is_empty() && wanted.spec.protocol == Transport::Tls {
            let action = modify(ListenerChange::RemoveCertificates(stale));
            draft.destructive(action, "the Service does not name them");
        }
        let mut asked: BTreeMap<String, String> = LISTENER_DEFAULTS
            .iter()
            .filter(|(key, _)| shown.attributes.contains_key(*key))
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        asked.extend(attributes.clone());
        let differing = differing(&asked, &shown.attributes);
        if !differing.is_empty() {
            let action = modify(ListenerChange::Attributes(differing));
            draft.destructive(action, "they are not as the Service asks");
        }
    }
}

/// With the default of each attribute that AWS does not show.
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
