//! Where a load balancer is to be: its subnets, its addresses there, and their families.
//!
//! Owns: reading them from the annotations and the Service's families, and what AWS refuses of their combinations. Leaves
//! to others: which subnets the tags name (`execute/place`). Invariant: pure.

use portico_provider::{Field, IpFamily, LoadBalancer, Scheme};

use super::{Obstacles, Wanted, listener};
use crate::capabilities as key;
use crate::cloud::resources::{AddressType, Families, SubnetMapping};
use crate::options::Choices;

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

pub(super) fn families(choices: &Choices, desired: &LoadBalancer, obstacles: &mut Obstacles) -> Families {
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
pub(super) fn udp_over_ipv6(wanted: &Wanted<'_>) -> Option<(Field, String)> {
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

pub(super) fn placement(choices: &Choices, scheme: Scheme, obstacles: &mut Obstacles) -> Placement {
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
