//! What a Service wants of AWS: its load balancer in AWS's terms, field by field, or everything that stands against it.
//!
//! Owns: the translation; [`Wanted`] and its synced hash. Leaves to others: listeners and their groups
//! (`wanted/listener`), what exists (`plan`). Invariants: pure; destructures the model in full; everything in it is
//! decided, and nothing is left to a default that AWS might change.

mod adopted;
mod listener;
mod placement;
mod targets;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portico_provider::{
    Field, IpFamily, Listener, LoadBalancer, Owner, Port, Protocol, Scheme, TargetKind, Targets,
};

use crate::capabilities as key;
use crate::cloud::resources::{
    AddressType, Families, GroupHealth, GroupShape, Id, ListenerExtras, ListenerSpec, Rule, RuleProtocol,
    Source, Tags, Target, TargetType,
};
use crate::names;
use crate::options::{self, Choices};
use crate::quotas::Quotas;
use crate::tags::{self, SyncedHash};
pub(crate) use listener::{PRESERVE_CLIENT, defaults as group_defaults};
pub(crate) use placement::{Addressing, Placement, mapping};
pub(crate) use targets::Offered;

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
pub(crate) struct Wanted<'a> {
    /// The Service, as the operator desires it.
    pub(crate) desired: &'a LoadBalancer,
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
    pub(crate) listeners: BTreeMap<u16, WantedListener>,
    /// On everything that is made: the owner's and the user's.
    pub(crate) tags: Tags,
}

impl Wanted<'_> {
    /// The same without some ports, and without the rules for them.
    pub(crate) fn without(&self, ports: &BTreeSet<u16>) -> Cow<'_, Self> {
        if ports.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut wanted = self.clone();
        wanted.listeners.retain(|port, _| !ports.contains(port));
        if let Frontend::Own(rules) = &mut wanted.frontend {
            rules.retain(|rule| !ports.contains(&rule.port));
        }
        Cow::Owned(wanted)
    }

    /// Each listener, with the name of its target group behind this load balancer.
    pub(crate) fn target_groups<'a>(
        &'a self,
        load_balancer: &'a str,
    ) -> impl Iterator<Item = (String, &'a WantedListener)> {
        let name = move |it: &WantedListener| {
            names::target_group(&self.desired.owner, load_balancer, it.spec.port, it.shape)
        };
        self.listeners.values().map(move |it| (name(it), it))
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.desired.owner
    }

    /// The synced hash once everything is as wanted.
    pub(crate) fn hash(&self) -> SyncedHash {
        SyncedHash { spec: spec_digest(self.desired), targets: Some(self.targets_digest()) }
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

/// AWS's defaults, which an attribute returns to when it is no longer asked for.
const LOAD_BALANCER_DEFAULTS: [(&str, &str); 4] = [
    ("access_logs.s3.enabled", "false"),
    ("dns_record.client_routing_policy", "any_availability_zone"),
    ("load_balancing.cross_zone.enabled", "false"),
    ("zonal_shift.config.enabled", "false"),
];
/// Only ever switched on here.
pub(crate) const DELETION_PROTECTION: &str = "deletion_protection.enabled";

/// An obstacle: field and message.
pub(crate) type Obstacles = Vec<(Field, String)>;

/// The maker of a load balancer, whose defaults it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// This provider made it.
    Own,
    /// The AWS Load Balancer Controller: what the Service does not ask for stays as that made it.
    Controller,
}

/// The wanted things, or everything that stands against them.
pub(crate) fn translate<'a>(desired: &'a LoadBalancer, quotas: &Quotas) -> Result<Wanted<'a>, Obstacles> {
    translate_for(Origin::Own, desired, quotas)
}

/// The same for a load balancer of this origin.
fn translate_for<'a>(
    origin: Origin,
    desired: &'a LoadBalancer,
    quotas: &Quotas,
) -> Result<Wanted<'a>, Obstacles> {
    let LoadBalancer {
        owner,
        listeners,
        targets,
        health_check: _, // with the listeners
        source_ranges,
        session_affinity: _,        // with the listeners
        external_traffic_policy: _, // its health check says it all
        proxy_protocol: _,          // with the listeners
        ip_families: _,             // with the listeners, and in the type of its addresses
        requested_addresses,
        scheme,
        replacement: _,
        group,
        options,
        published: _,
    } = desired;
    let ports: Vec<Port> = listeners.iter().map(|listener| listener.port).collect();
    let choices = options::read(options, &ports)
        .map_err(|wrong| wrong.into_iter().map(|message| (Field::Options, message)).collect::<Obstacles>())?;
    let mut obstacles = Obstacles::new();
    if !requested_addresses.is_empty() {
        let message =
            format!("AWS takes elastic addresses by their allocation: use annotation {}", key::EIPS);
        obstacles.push((Field::RequestedAddresses, message));
    }
    obstacles.extend(wrong_kind(&choices, targets));
    if group.is_some() && choices.adopt.is_some() {
        let message = format!(
            "annotation {}: what is adopted is one Service's: remove it, or portico.dev/group",
            key::ADOPT
        );
        obstacles.push((Field::Options, message));
    }
    let scheme = choices.scheme.unwrap_or(*scheme);
    let wanted = Wanted {
        desired,
        adopt: choices.adopt.clone(),
        name: choices.name.clone(),
        scheme,
        families: placement::families(&choices, desired, &mut obstacles),
        placement: placement::placement(&choices, scheme, &mut obstacles),
        frontend: frontend(&choices, source_ranges, desired, quotas, &mut obstacles),
        attributes: attributes(origin, &choices),
        named_attributes: choices.attributes.clone(),
        listeners: listener::listeners(origin, desired, &choices, quotas, &mut obstacles),
        tags: own_tags(&choices, tags::of(owner), &mut obstacles),
    };
    obstacles.extend(placement::udp_over_ipv6(&wanted));
    if obstacles.is_empty() { Ok(wanted) } else { Err(obstacles) }
}

/// The kind of targets is chosen before a provider is asked; an annotation that says otherwise is refused.
fn wrong_kind(choices: &Choices, targets: &Targets) -> Option<(Field, String)> {
    let (kind, word) = match targets {
        Targets::Nodes(_) => (TargetKind::Node, "pod"),
        Targets::Pods(_) => (TargetKind::Pod, "node"),
    };
    choices.target_kind.filter(|asked| *asked != kind).map(|_asked| {
        let message = format!(
            "annotation {} (or {}) asks for other targets than portico.dev/target-kind: set that to {word}, or remove it",
            key::TARGET_TYPE,
            key::TYPE
        );
        (Field::TargetKind, message)
    })
}

fn frontend(
    choices: &Choices,
    ranges: &BTreeSet<IpNet>,
    desired: &LoadBalancer,
    quotas: &Quotas,
    obstacles: &mut Obstacles,
) -> Frontend {
    if !choices.security_groups.is_empty() {
        let by_range = (!ranges.is_empty()).then_some(Field::SourceRanges);
        let by_list = (!choices.prefix_lists.is_empty()).then_some(Field::Options);
        for field in by_range.into_iter().chain(by_list) {
            let message = format!(
                "cannot be enforced in security groups of your own: remove annotation {}",
                key::SECURITY_GROUPS
            );
            obstacles.push((field, message));
        }
        let (given, most) = (choices.security_groups.len(), quotas.shards());
        if given > most {
            let message =
                format!("annotation {}: {given} security groups, quota {most}", key::SECURITY_GROUPS);
            obstacles.push((Field::Options, message));
        }
        let node_rules = choices.node_rules;
        return Frontend::Given { groups: choices.security_groups.clone(), node_rules };
    }
    let sources = sources(choices, ranges, &desired.ip_families);
    let mut rules = BTreeSet::new();
    for listener in &desired.listeners {
        let protocol = match listener.protocol {
            Protocol::Tcp => RuleProtocol::Tcp,
            Protocol::Udp => RuleProtocol::Udp,
            Protocol::Sctp => continue, // refused with the listeners
        };
        let port = listener.port.get();
        rules.extend(sources.iter().map(|source| Rule { protocol, port, source: source.clone() }));
    }
    obstacles.extend(too_many(&rules, quotas));
    Frontend::Own(rules)
}

/// Reported before anything is created; the size of prefix lists is known, and reported, later.
fn too_many(rules: &BTreeSet<Rule>, quotas: &Quotas) -> Option<(Field, String)> {
    let of = |v6: bool| {
        let ranges = rules
            .iter()
            .filter(|rule| matches!(&rule.source, Source::Range(range) if v6 == range.addr().is_ipv6()));
        ranges.count()
    };
    let needed = of(false).max(of(true));
    (needed > quotas.rules * quotas.shards()).then(|| {
        let message = format!(
            "needs {needed} rules (ports times ranges), {}: use fewer and wider ranges, prefix lists by annotation {}, \
             security groups of your own by annotation {}, or a higher quota (--aws-quota)",
            quotas.of_rules(),
            key::PREFIX_LISTS,
            key::SECURITY_GROUPS
        );
        (Field::SourceRanges, message)
    })
}

/// Prefix lists and the ranges, merged; everybody where there is neither.
fn sources(choices: &Choices, ranges: &BTreeSet<IpNet>, families: &[IpFamily]) -> Vec<Source> {
    let lists = choices.prefix_lists.iter().cloned().map(Source::PrefixList);
    if !ranges.is_empty() || !choices.prefix_lists.is_empty() {
        let merged = IpNet::aggregate(&ranges.iter().copied().collect());
        return merged.into_iter().map(Source::Range).chain(lists).collect();
    }
    let mut all = vec![Source::Range(IpNet::V4(Ipv4Net::default()))];
    let asked = choices.address_type;
    if asked.map_or(families.contains(&IpFamily::IPv6), |kind| kind == AddressType::Dualstack) {
        all.push(Source::Range(IpNet::V6(Ipv6Net::default())));
    }
    all
}

pub(crate) fn balancer_defaults() -> BTreeMap<String, String> {
    LOAD_BALANCER_DEFAULTS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn attributes(origin: Origin, choices: &Choices) -> BTreeMap<String, String> {
    let mut attributes = match origin {
        Origin::Own => balancer_defaults(),
        Origin::Controller => BTreeMap::new(),
    };
    attributes.extend(choices.attributes.clone());
    // Saying "false" does not switch it off: only a person does.
    if attributes.get(DELETION_PROTECTION).is_some_and(|value| value != "true") {
        attributes.remove(DELETION_PROTECTION);
    }
    attributes
}

fn own_tags(
    choices: &Choices,
    owner: BTreeMap<String, String>,
    obstacles: &mut Obstacles,
) -> BTreeMap<String, String> {
    let mut tags = choices.tags.clone();
    let reserved = |key: &&String| {
        key.starts_with("portico.dev/")
            || key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"))
    };
    if let Some(key) = tags.keys().find(reserved) {
        let message = format!("annotation {}: tag {key} is not yours to set: remove it", key::TAGS);
        obstacles.push((Field::Options, message));
    }
    tags.extend(owner);
    tags
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
pub(crate) fn listeners_digest(listeners: &BTreeSet<Listener>) -> String {
    let each = listeners.iter().map(|listener| format!("{} {:?}", listener.key(), listener.node_port));
    format!("-{}", digest(&each.collect()))
}
