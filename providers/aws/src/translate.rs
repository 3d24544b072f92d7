//! From the desired load balancer to AWS's things, field by field.
//!
//! Owns: the translation and everything that cannot be translated. Leaves to others: what exists (`plan`); listeners
//! and their groups (`translate/listener`). Invariant: pure; destructures the model in full.

mod listener;
mod targets;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portico_provider::{Field, IpFamily, LoadBalancer, Port, Protocol, Scheme, TargetKind, Targets};

use crate::capabilities as key;
use crate::cloud::resources::{AddressType, Families, Rule, RuleProtocol, Source, SubnetMapping};
use crate::options::{self, Choices};
use crate::quotas::Quotas;
use crate::tags;
use crate::wanted::{Addressing, Frontend, Placement, Wanted};

/// AWS's defaults, which an attribute returns to when it is no longer asked for.
const LOAD_BALANCER_DEFAULTS: [(&str, &str); 4] = [
    ("access_logs.s3.enabled", "false"),
    ("dns_record.client_routing_policy", "any_availability_zone"),
    ("load_balancing.cross_zone.enabled", "false"),
    ("zonal_shift.config.enabled", "false"),
];
/// Only ever switched on here.
pub(crate) const DELETION_PROTECTION: &str = "deletion_protection.enabled";

pub(crate) use listener::{PRESERVE_CLIENT, defaults as group_defaults};
pub(crate) use targets::Offered;

/// An obstacle: field and message.
pub(crate) type Obstacles = Vec<(Field, String)>;

/// The maker of a load balancer, whose defaults it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This provider made it.
    Own,
    /// The AWS Load Balancer Controller: what the Service does not ask for stays as that made it.
    Controller,
}

/// The wanted things, or everything that stands against them.
pub(crate) fn translate(desired: &LoadBalancer, quotas: &Quotas) -> Result<Wanted, Obstacles> {
    translate_for(Origin::Own, desired, quotas)
}

/// The same for a load balancer of this origin.
pub(crate) fn translate_for(
    origin: Origin,
    desired: &LoadBalancer,
    quotas: &Quotas,
) -> Result<Wanted, Obstacles> {
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
        adopt: choices.adopt.clone(),
        name: choices.name.clone(),
        scheme,
        families: families(&choices, desired, &mut obstacles),
        placement: placement(&choices, scheme, &mut obstacles),
        frontend: frontend(&choices, source_ranges, desired, quotas, &mut obstacles),
        attributes: attributes(origin, &choices),
        named_attributes: choices.attributes.clone(),
        listeners: listener::listeners(origin, desired, &choices, quotas, &mut obstacles),
        tags: own_tags(&choices, tags::of(owner), &mut obstacles),
    };
    obstacles.extend(udp_over_ipv6(&wanted));
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

fn families(choices: &Choices, desired: &LoadBalancer, obstacles: &mut Obstacles) -> Families {
    let kind = address_type(choices, desired, obstacles);
    let Choices { ipv6_addresses, source_nat, source_prefixes, .. } = choices;
    let mut refuse =
        |key: &str, message: &str| obstacles.push((Field::Options, format!("annotation {key}: {message}")));
    let dualstack = kind == AddressType::Dualstack;
    if !dualstack && !ipv6_addresses.is_empty() {
        refuse(
            key::IPV6_ADDRESSES,
            "only a dual-stack load balancer has any: add IPv6 to spec.ipFamilies, or remove it",
        );
    }
    if !dualstack && *source_nat {
        refuse(
            key::SOURCE_NAT,
            "only a dual-stack load balancer needs it: add IPv6 to spec.ipFamilies, or remove it",
        );
    }
    if !source_nat && !source_prefixes.is_empty() {
        let message = format!("they are for annotation {}: set that to on, or remove these", key::SOURCE_NAT);
        refuse(key::SOURCE_PREFIXES, &message);
    }
    Families { kind, source_nat: *source_nat }
}

fn address_type(choices: &Choices, desired: &LoadBalancer, obstacles: &mut Obstacles) -> AddressType {
    let asked = match desired.ip_families.as_slice() {
        [IpFamily::IPv4] => AddressType::Ipv4,
        families if families.contains(&IpFamily::IPv4) => AddressType::Dualstack,
        _ => {
            let message =
                "an NLB always has IPv4: add IPv4 to spec.ipFamilies (ipFamilyPolicy: RequireDualStack)";
            obstacles.push((Field::IpFamilies, message.to_owned()));
            AddressType::Dualstack
        }
    };
    let kind = choices.address_type.unwrap_or(asked);
    if kind == AddressType::Ipv4 && listener::family(desired) == IpFamily::IPv6 {
        let message =
            format!("IPv6 pods need {}: set it in annotation {}", AddressType::Dualstack, key::ADDRESS_TYPE);
        obstacles.push((Field::Options, message));
    }
    kind
}

/// Over IPv6 AWS translates UDP's sources to prefixes of the subnets, and takes no UDP listener without.
fn udp_over_ipv6(wanted: &Wanted) -> Option<(Field, String)> {
    let Families { kind, source_nat } = wanted.families;
    let port = wanted.listeners.values().find(|it| it.spec.protocol.is_udp()).map(|it| it.spec.port)?;
    (kind == AddressType::Dualstack && !source_nat).then(|| {
        let message = format!(
            "port {port} is UDP, which AWS serves over IPv6 only by source prefixes: set annotation {} to on, or use IPv4 \
             alone (spec.ipFamilyPolicy: SingleStack, or annotation {} set to ipv4)",
            key::SOURCE_NAT,
            key::ADDRESS_TYPE
        );
        (Field::IpFamilies, message)
    })
}

fn placement(choices: &Choices, scheme: Scheme, obstacles: &mut Obstacles) -> Placement {
    let Choices { subnets, eips, private_addresses, ipv6_addresses, source_prefixes, .. } = choices;
    let refuse = |message: String| (Field::Options, message);
    for (key, count) in
        [(key::IPV6_ADDRESSES, ipv6_addresses.len()), (key::SOURCE_PREFIXES, source_prefixes.len())]
    {
        if count > 0 && count != subnets.len() {
            let message = format!(
                "{count} for {} subnets in annotation {}: name one for each",
                subnets.len(),
                key::SUBNETS
            );
            obstacles.push(refuse(format!("annotation {key}: {message}")));
        }
    }
    if !eips.is_empty() && (scheme == Scheme::Internal || !private_addresses.is_empty()) {
        let message =
            "elastic addresses are for internet-facing load balancers, and without private addresses";
        obstacles.push(refuse(format!("annotation {}: {message}", key::EIPS)));
    }
    if !private_addresses.is_empty() && scheme == Scheme::External {
        let message = "private addresses are for internal load balancers: set the scheme, or remove it";
        obstacles.push(refuse(format!("annotation {}: {message}", key::PRIVATE_ADDRESSES)));
    }
    let chosen: Vec<Addressing> = if eips.is_empty() {
        private_addresses.iter().copied().map(Addressing::Private).collect()
    } else {
        eips.iter().cloned().map(Addressing::Allocation).collect()
    };
    match (subnets.is_empty(), chosen.is_empty()) {
        (true, true) => Placement::Discovered,
        (true, false) => Placement::Addressed(chosen),
        (false, none_chosen) => {
            if !none_chosen && chosen.len() != subnets.len() {
                let message =
                    format!("{} addresses for {} subnets: name one for each", chosen.len(), subnets.len());
                obstacles.push(refuse(format!("annotation {}: {message}", key::SUBNETS)));
            }
            let (mut chosen, mut ipv6) = (chosen.into_iter(), ipv6_addresses.iter().copied());
            let mut prefixes = source_prefixes.iter().copied();
            let each = subnets.iter().map(|subnet| SubnetMapping {
                ipv6_address: ipv6.next(),
                source_prefix: prefixes.next().flatten(),
                ..mapping(subnet, chosen.next())
            });
            Placement::Named(each.collect())
        }
    }
}

/// A subnet with its address.
pub(crate) fn mapping(subnet: &str, address: Option<Addressing>) -> SubnetMapping {
    let (allocation, private_address) = match address {
        Some(Addressing::Allocation(id)) => (Some(id), None),
        Some(Addressing::Private(address)) => (None, Some(address)),
        None => (None, None),
    };
    SubnetMapping { subnet: subnet.to_owned(), allocation, private_address, ..SubnetMapping::default() }
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
