//! What exists for one Service.
//!
//! Owns: [`Observed`]. Leaves to others: reading it. Invariant: the inventory shows tags only ([`Snapshot`]), which is
//! enough for a Service that is as it was sealed; anything else is planned from a [`View`], read afresh.

use std::collections::BTreeMap;

use crate::cloud::resources::{
    Firewall, Health, Listener, ListenerExtras, LoadBalancer, Target, TargetGroup,
};

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
            Self::Snapshot(snapshot) => snapshot.load_balancers,
            Self::Full(view) => view.load_balancers.len(),
        }
    }
}

/// What the tags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// How many load balancers there are.
    pub load_balancers: usize,
    /// How many other things.
    pub others: usize,
    /// Hash and hostname from the seal of the only load balancer.
    pub sealed: Option<(String, String)>,
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
    /// Hash and hostname of its seal.
    pub sealed: Option<(String, String)>,
}

/// A target group with its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Itself.
    pub facts: TargetGroup,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its targets; draining ones are none any more.
    pub targets: BTreeMap<Target, Health>,
}
