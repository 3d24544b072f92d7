//! What exists for one Service.
//!
//! Owns: [`Observed`]. Leaves to others: reading it. Invariant: the inventory shows tags only ([`Snapshot`]), which is
//! enough for a Service that is as it was sealed, and for a change of targets where they are known; anything else is
//! planned from a [`View`].

use std::collections::{BTreeMap, BTreeSet};

use crate::cloud::resources::{
    Firewall, Health, Id, LifeState, Listener, ListenerExtras, LoadBalancer, Subnet, Target, TargetGroup,
};
pub use crate::tags::Seal;

/// What exists for one Service, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// By tags.
    Snapshot(Snapshot),
    /// In full.
    Full(View),
}

impl Observed {
    /// How many load balancers there are.
    pub fn load_balancers(&self) -> usize {
        match self {
            Self::Snapshot(snapshot) => snapshot.load_balancers.len(),
            Self::Full(view) => view.load_balancers.len(),
        }
    }
}

/// Targets by themselves, with what was last heard of them.
pub type Targets = BTreeMap<Target, Health>;

/// What the tags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Load balancers by name.
    pub load_balancers: BTreeMap<String, Id>,
    /// Target groups by name.
    pub groups: BTreeMap<String, Id>,
    /// Security groups.
    pub firewalls: Vec<Id>,
    /// The seal of the only load balancer.
    pub sealed: Option<Seal>,
    /// What the tags do not say, but follows from them once they said that the wanted targets are those there are:
    /// the targets, by group.
    pub targets: Option<BTreeMap<String, Targets>>,
}

impl Snapshot {
    /// The only load balancer's name and ID.
    pub(crate) fn only(&self) -> Option<(&String, &Id)> {
        self.load_balancers.first_key_value().filter(|_| self.load_balancers.len() == 1)
    }

    /// Load balancers and target groups.
    pub(crate) fn tagged(&self) -> Vec<Id> {
        self.load_balancers.values().chain(self.groups.values()).cloned().collect()
    }

    /// Whether a listing shows the same things.
    pub(crate) fn has_things_of(&self, other: &Self) -> bool {
        let Self { load_balancers, groups, firewalls, sealed: _, targets: _ } = self;
        *load_balancers == other.load_balancers && *groups == other.groups && *firewalls == other.firewalls
    }
}

/// Everything, read in full; each by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// One; two during a replacement.
    pub load_balancers: BTreeMap<String, Balancer>,
    /// Of all load balancers, and leftovers.
    pub groups: BTreeMap<String, Group>,
    /// One, if it is ours.
    pub firewalls: BTreeMap<String, Firewall>,
    /// Tag `Name` of each subnet of the load balancers.
    pub subnet_names: BTreeMap<String, String>,
}

impl View {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        let Self { load_balancers, groups, firewalls, subnet_names: _ } = self;
        load_balancers.is_empty() && groups.is_empty() && firewalls.is_empty()
    }

    /// The subnets of all load balancers.
    pub(crate) fn subnets(&self) -> BTreeSet<&str> {
        let all = self.load_balancers.values();
        all.flat_map(|balancer| balancer.facts.subnets.iter().map(|mapping| mapping.subnet.as_str()))
            .collect()
    }

    /// Takes in what the used ones of `subnets` are called.
    pub(crate) fn name_subnets(&mut self, subnets: &[Subnet]) {
        let used = self.subnets();
        let used = subnets.iter().filter(|subnet| used.contains(subnet.id.as_str()));
        let names = used.filter_map(|subnet| Some((subnet.id.clone(), subnet.tags.get("Name")?.clone())));
        self.subnet_names = names.collect();
    }

    /// As a listing of tags would show it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let Self { load_balancers, groups, firewalls, subnet_names: _ } = self;
        let ids = |(name, id): (&String, &Id)| (name.clone(), id.clone());
        let mut firewalls: Vec<Id> = firewalls.values().map(|firewall| firewall.id.clone()).collect();
        firewalls.sort();
        Snapshot {
            load_balancers: load_balancers.iter().map(|(name, it)| ids((name, &it.facts.id))).collect(),
            groups: groups.iter().map(|(name, it)| ids((name, &it.facts.id))).collect(),
            firewalls,
            sealed: load_balancers
                .values()
                .next()
                .and_then(|it| it.sealed.clone())
                .filter(|_| load_balancers.len() == 1),
            targets: None,
        }
    }
}

/// A load balancer with all that is part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// Itself.
    pub facts: LoadBalancer,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its listeners, by port.
    pub listeners: BTreeMap<u16, Listener>,
    /// Further certificates and attributes of its listeners, by port; `None`: none was ever set here, so none was read.
    pub extras: Option<BTreeMap<u16, ListenerExtras>>,
    /// Whether another controller made it, so that its name is not ours.
    pub adopted: bool,
    /// What was finished.
    pub sealed: Option<Seal>,
    /// How often this process has found it being made: the more often, the less there is to expect of the next look.
    pub looks: u32,
}

impl Balancer {
    /// Whether traffic passes.
    pub fn serves(&self) -> bool {
        matches!(self.facts.state, LifeState::Active | LifeState::Impaired(_))
    }
}

/// A target group with its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Itself.
    pub facts: TargetGroup,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its targets; draining ones are none any more.
    pub targets: Targets,
}
