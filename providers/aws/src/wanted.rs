//! A Service's load balancer, in AWS's terms.
//!
//! Owns: the shapes between `translate` and `plan`. Leaves to others: filling and comparing them.
//! Invariant: everything in it is decided; nothing is left to a default that AWS might change.

use std::collections::{BTreeMap, BTreeSet};

use crate::cloud::resources::{
    Families, GroupHealth, GroupShape, Id, ListenerExtras, ListenerSpec, Rule, SubnetMapping, Tags, Target,
    TargetType,
};
use crate::names;
use portico_provider::{Owner, Scheme};

/// The subnets of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the subnets that are tagged for its scheme, one for each zone.
    Discovered,
    /// In these, by ID or by tag `Name`, each with the address to have there, if one was chosen.
    Named(Vec<SubnetMapping>),
    /// In the tagged ones, in the order of their zones, each with one of these addresses.
    Addressed(Vec<Addressing>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// `eipalloc-…`.
    Allocation(String),
    /// Of an internal one.
    Private(std::net::Ipv4Addr),
}

/// The clients that are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frontend {
    /// One security group of ours, with these rules.
    Own(BTreeSet<Rule>),
    /// The user's security groups.
    Given {
        /// By ID; by tag `Name` until that is resolved.
        groups: Vec<Id>,
        /// Whether the nodes' own group is to be in front as well; `None`: where there is one.
        node_rules: Option<bool>,
    },
}

/// The load balancer of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Another controller's load balancer to begin with, by name or ARN.
    pub(crate) adopt: Option<String>,
    /// A name of the user's.
    pub(crate) name: Option<String>,
    pub(crate) scheme: Scheme,
    pub(crate) families: Families,
    pub(crate) placement: Placement,
    pub(crate) frontend: Frontend,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Those of them that the user named; the others are AWS's defaults.
    pub(crate) named_attributes: BTreeMap<String, String>,
    /// By port.
    pub(crate) listeners: BTreeMap<u16, WantedListener>,
    /// On everything that is made: the owner's and the user's.
    pub(crate) tags: Tags,
}

impl Wanted {
    /// The same without some ports, and whoever was to be let in there.
    pub(crate) fn without(&self, ports: &BTreeSet<u16>) -> Self {
        let mut wanted = self.clone();
        wanted.listeners.retain(|port, _| !ports.contains(port));
        if let Frontend::Own(rules) = &mut wanted.frontend {
            rules.retain(|rule| !ports.contains(&rule.port));
        }
        wanted
    }

    /// Each listener, with the name of its target group behind this load balancer.
    pub(crate) fn target_groups<'a>(
        &'a self,
        owner: &'a Owner,
        load_balancer: &'a str,
    ) -> impl Iterator<Item = (String, &'a WantedListener)> {
        let name =
            move |it: &WantedListener| names::target_group(owner, load_balancer, it.spec.port, it.shape);
        self.listeners.values().map(move |it| (name(it), it))
    }

    /// A digest of the targets. Node ports are part of the spec, so that with nodes as targets it is the same for all
    /// Services with the same nodes.
    pub(crate) fn targets_digest(&self) -> String {
        let mut all = BTreeSet::new();
        for (port, listener) in &self.listeners {
            let WantedListener { spec: _, extras: _, shape, health: _, attributes: _, targets, room: _ } =
                listener;
            all.extend(targets.iter().map(|target| worded(shape.targets, *port, target)));
        }
        digest(&all)
    }
}

/// A target behind `port`, as its digest has it.
pub(crate) fn worded(kind: TargetType, port: u16, target: &Target) -> String {
    match kind {
        TargetType::Instance => target.id.clone(),
        TargetType::Ip => format!("{port} {target}"),
    }
}

/// The digest of targets, each in a word.
pub(crate) fn digest(all: &BTreeSet<String>) -> String {
    let words: Vec<&str> = all.iter().map(String::as_str).collect();
    format!("{:016x}", names::digest(&words.join("\n")))
}

/// A listener and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedListener {
    pub(crate) spec: ListenerSpec,
    pub(crate) extras: ListenerExtras,
    pub(crate) shape: GroupShape,
    pub(crate) health: GroupHealth,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) targets: BTreeSet<Target>,
    /// So many targets AWS lets it have, old and new together.
    pub(crate) room: usize,
}

impl WantedListener {
    /// Its targets, and how many its group takes.
    pub(crate) fn takes(&self) -> (&BTreeSet<Target>, usize) {
        (&self.targets, self.room)
    }
}
