//! The resources of one Service.
//!
//! Owns: [`Observed`]. Leaves to others: reading it. Invariant: the inventory shows tags only ([`Snapshot`]). These
//! are enough for a Service that is as it was synced, and for a change of targets where they are known. Any other plan needs a
//! [`View`].

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{GroupName, Owner};

use crate::cloud::resources::{
    Health, Id, LifeState, Listener, ListenerExtras, LoadBalancer, SecurityGroup, Subnet, Target, TargetGroup,
};
use crate::tags;
pub(crate) use crate::tags::SyncedHash;

/// The resources of one Service, as far as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    Snapshot(Snapshot),
    Full(View),
}

impl Observed {
    /// The groups it is in, or is known to want to be in.
    pub(crate) fn groups(&self) -> BTreeSet<GroupName> {
        match self {
            Self::Snapshot(snapshot) => snapshot.memberships.clone(),
            Self::Full(view) => view.memberships.keys().cloned().collect(),
        }
    }

    /// Whether what `group` shares was read, and of other groups only those that the Service has things of.
    pub(crate) fn covers(&self, group: Option<&GroupName>) -> bool {
        let groups = self.groups();
        let is_in = |other: &GroupName| match self {
            Self::Snapshot(_) => true,
            Self::Full(view) => view.target_groups.values().any(|it| it.member_of.as_ref() == Some(other)),
        };
        group.is_none_or(|group| groups.contains(group))
            && groups.iter().all(|other| Some(other) == group || is_in(other))
    }

    /// How many load balancers there are.
    pub fn load_balancers(&self) -> usize {
        match self {
            Self::Snapshot(snapshot) => snapshot.load_balancers.len(),
            Self::Full(view) => view.load_balancers.len(),
        }
    }
}

/// Targets by themselves, with what was last heard of them.
pub(crate) type Targets = BTreeMap<Target, Health>;

/// The resources that a listing by tags shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Load balancers by name.
    pub load_balancers: BTreeMap<String, Id>,
    /// Target groups by name.
    pub target_groups: BTreeMap<String, Id>,
    pub security_groups: Vec<Id>,
    /// Listeners; `None`: the listing shows none of anybody, or they are another controller's and lack these tags.
    pub listeners: Option<BTreeSet<Id>>,
    /// The groups whose load balancer it has listeners on.
    pub memberships: BTreeSet<GroupName>,
    /// Those of all these things that such a group shares.
    pub commons: BTreeSet<Id>,
    /// The synced hash of the only load balancer.
    pub synced: Option<SyncedHash>,
    /// What the tags do not say, but follows from them once they said that the wanted targets are those there are:
    /// the targets, by group.
    pub targets: Option<BTreeMap<String, Targets>>,
}

impl Snapshot {
    /// The only load balancer's name and ID.
    pub(crate) fn only(&self) -> Option<(&String, &Id)> {
        self.load_balancers.first_key_value().filter(|_| self.load_balancers.len() == 1)
    }

    /// Whether there is nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.load_balancers.is_empty() && self.target_groups.is_empty() && self.security_groups.is_empty()
    }

    /// Load balancers and target groups, each with whether a group shares it.
    pub(crate) fn tagged(&self) -> Vec<(Id, bool)> {
        let all = self.load_balancers.values().chain(self.target_groups.values());
        all.map(|id| (id.clone(), self.commons.contains(id))).collect()
    }

    /// Whether a listing shows the same things.
    pub(crate) fn has_things_of(&self, other: &Self) -> bool {
        let Self {
            load_balancers,
            target_groups,
            security_groups,
            listeners,
            memberships,
            commons: _,
            synced: _,
            targets: _,
        } = self;
        let both = listeners.as_ref().zip(other.listeners.as_ref());
        both.is_none_or(|(own, listed)| own == listed)
            && *load_balancers == other.load_balancers
            && *target_groups == other.target_groups
            && *security_groups == other.security_groups
            && *memberships == other.memberships
    }
}

/// Everything, read in full; each by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// One; two during a replacement.
    pub load_balancers: BTreeMap<String, Balancer>,
    /// Of all load balancers, and leftovers.
    pub target_groups: BTreeMap<String, Group>,
    /// One, if it is ours.
    pub security_groups: BTreeMap<String, SecurityGroup>,
    /// Resources with names of these that lack the tags, or have lost them.
    pub lost: BTreeMap<String, Lost>,
    /// Tag `Name` of each subnet of the load balancers.
    pub subnet_names: BTreeMap<String, String>,
    /// By group whose load balancer it shares or is to share, and so was read: who else is in it.
    pub memberships: BTreeMap<GroupName, BTreeSet<Owner>>,
}

impl View {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        let Self { load_balancers, target_groups, security_groups, lost, subnet_names: _, memberships: _ } =
            self;
        load_balancers.is_empty() && target_groups.is_empty() && security_groups.is_empty() && lost.is_empty()
    }

    /// The other members of a group.
    pub(crate) fn members(&self, group: &GroupName) -> &BTreeSet<Owner> {
        static NOBODY: BTreeSet<Owner> = BTreeSet::new();
        self.memberships.get(group).unwrap_or(&NOBODY)
    }

    /// The subnets of all load balancers.
    pub(crate) fn subnets(&self) -> BTreeSet<&str> {
        let all = self.load_balancers.values();
        all.flat_map(|balancer| balancer.described.subnets.iter().map(|mapping| mapping.subnet.as_str()))
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
        let Self { load_balancers, target_groups, security_groups, lost: _, subnet_names: _, memberships: _ } =
            self;
        let memberships: BTreeSet<GroupName> =
            target_groups.values().filter_map(|it| it.member_of.clone()).collect();
        let shared = |group: Option<&GroupName>| group.is_none_or(|group| memberships.contains(group));
        // Of a group that it is only to be in, a listing shows nothing.
        let load_balancers: Vec<(&String, &Balancer)> =
            load_balancers.iter().filter(|(_, it)| shared(it.group())).collect();
        let security_groups: Vec<&SecurityGroup> =
            security_groups.values().filter(|it| shared(tags::group(&it.tags).as_ref())).collect();
        let own = || load_balancers.iter().flat_map(|(_, it)| it.listeners.values().map(|it| it.id.clone()));
        let adopted = load_balancers.iter().any(|(_, it)| it.adopted);
        let listeners = (!adopted).then(|| own().collect());
        let common = load_balancers.iter().filter(|(_, it)| it.shared.is_some());
        let commons = common.map(|(_, it)| it.described.id.clone()).collect();
        let ids = |(name, id): (&String, &Id)| (name.clone(), id.clone());
        let mut security_groups: Vec<Id> =
            security_groups.iter().map(|security_group| security_group.id.clone()).collect();
        security_groups.sort();
        Snapshot {
            load_balancers: load_balancers.iter().map(|(name, it)| ids((name, &it.described.id))).collect(),
            listeners,
            memberships: memberships.clone(),
            commons,
            target_groups: target_groups.iter().map(|(name, it)| ids((name, &it.described.id))).collect(),
            security_groups,
            synced: match load_balancers.as_slice() {
                [(_, only)] => only.synced.clone(),
                _ => None,
            },
            targets: None,
        }
    }
}

/// A thing without our tags that bears a name of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub id: Id,
    /// The group that it is to be shared by.
    pub group: Option<GroupName>,
}

/// A load balancer with all that is part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    pub described: LoadBalancer,
    pub attributes: BTreeMap<String, String>,
    /// Its listeners, by port: those of this Service.
    pub listeners: BTreeMap<u16, Listener>,
    /// Further certificates and attributes of its listeners, by port; `None`: none was ever set here, so none was read.
    pub extras: Option<BTreeMap<u16, ListenerExtras>>,
    /// Ports of listeners that are not this Service's, and whose they are; `None`: an owner without tags.
    pub taken: BTreeMap<u16, Option<Owner>>,
    /// The group that shares it; `None`: it is this Service's alone.
    pub shared: Option<Share>,
    /// Whether another controller made it, so that its name is not ours.
    pub adopted: bool,
    /// The synced hash; on a shared one, of this Service's part.
    pub synced: Option<SyncedHash>,
    /// How often this process has read it as provisioning: the more often, the later the next read.
    pub polls: u32,
}

impl Balancer {
    /// The group that shares it.
    pub fn group(&self) -> Option<&GroupName> {
        self.shared.as_ref().map(|share| &share.group)
    }

    /// Whether anything of it is this Service's.
    pub fn is_used(&self) -> bool {
        self.shared.is_none() || !self.listeners.is_empty()
    }

    pub fn serves(&self) -> bool {
        matches!(self.described.state, LifeState::Active | LifeState::Impaired(_))
    }
}

/// The group that shares a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub group: GroupName,
    /// The Service that decides its settings.
    pub lead: Option<Owner>,
}

/// A target group with its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub described: TargetGroup,
    /// The group whose load balancer it is behind; `None`: it is behind one of this Service's own.
    pub member_of: Option<GroupName>,
    pub attributes: BTreeMap<String, String>,
    /// Its targets; draining ones are none any more.
    pub targets: Targets,
}
