//! The choice of the load balancer: what exists and fits, or a new one with consent.
//!
//! Owns: what cannot change in place. Leaves to others: changing what can.
//! Invariant: without consent what serves stays; with it the new one comes first.

use std::collections::BTreeMap;

use portico_provider::{Field, GroupName, LoadBalancer, Obstacle, Owner, Replacement, Scheme};

use crate::cloud::resources::SubnetMapping;
use crate::names::{self, GENERATIONS};
use crate::observed::{Balancer, View};
use crate::translate::mapping;
use crate::wanted::{Addressing, Frontend, Placement, Wanted};

/// More than these at once are no replacement but a fault, and cost money.
const AT_ONCE: usize = 3;

/// The one, and the others.
pub(super) struct Choice<'a> {
    /// Its name.
    pub(super) name: String,
    /// Itself, if it exists.
    pub(super) current: Option<&'a Balancer>,
    /// Those that it replaces.
    pub(super) others: Vec<(&'a String, &'a Balancer)>,
    /// Why it is not the one that is wanted.
    pub(super) blocked: Option<(Field, Obstacle, String)>,
}

type Found<'a> = (&'a String, &'a Balancer);

impl<'a> Choice<'a> {
    /// This one, which is as it should be.
    pub(super) fn found(view: &'a View, name: &str, found: &'a Balancer) -> Self {
        Self { name: name.to_owned(), current: Some(found), others: others(view, name), blocked: None }
    }

    /// That one, although it is not; where there is none, none is made.
    pub(super) fn kept(view: &'a View, kept: Option<Found<'a>>, blocked: (Field, Obstacle, String)) -> Self {
        let name = kept.map(|(name, _)| name.clone()).unwrap_or_default();
        let others = others(view, &name);
        Self { name, current: kept.map(|(_, it)| it), others, blocked: Some(blocked) }
    }

    /// The message for a load balancer that only another one could replace.
    pub(super) fn consent(name: &str, why: &str) -> String {
        format!(
            "load balancer {name} {why}: to replace it, set annotation portico.dev/allow-replacement to \"true\"; the \
             new one (with another hostname) serves before the old one is deleted"
        )
    }
}

/// Those that something of the Service is on, but for the chosen one.
fn others<'a>(view: &'a View, chosen: &str) -> Vec<Found<'a>> {
    view.load_balancers.iter().filter(|(name, it)| it.is_used() && *name != chosen).collect()
}

/// The `n`th name of a load balancer of this Service, or of its group.
fn name(owner: &Owner, group: Option<&GroupName>, asked: Option<&str>, n: u32) -> String {
    match group {
        Some(group) => names::shared_load_balancer(&owner.cluster, group, asked, n),
        None => names::load_balancer(owner, asked, n),
    }
}

pub(super) fn choose<'a>(desired: &LoadBalancer, wanted: &Wanted, view: &'a View) -> Choice<'a> {
    let group = desired.group.as_ref();
    let is_ours = |it: &Balancer| it.is_used() || it.group() == group;
    let all: BTreeMap<&String, &Balancer> =
        view.load_balancers.iter().filter(|(_, it)| is_ours(it)).collect();
    let fits = |balancer: &Balancer| mismatch(desired, wanted, balancer, &view.subnet_names);
    let mut misfits = all.iter().filter_map(|(name, balancer)| Some((*name, *balancer, fits(balancer)?)));
    let fitting = all.iter().find(|(_, balancer)| fits(balancer).is_none());
    if let Some((name, balancer)) = fitting {
        return Choice { others: others_of(&all, name), ..Choice::found(view, name, balancer) };
    }
    let kept = |(name, balancer): Found<'a>, field, obstacle, message| Choice {
        name: name.clone(),
        current: Some(balancer),
        others: others_of(&all, name),
        blocked: Some((field, obstacle, message)),
    };
    let misfit = misfits.next();
    if let (Some((name, balancer, (field, why))), Some((held, holder))) =
        (&misfit, held(&wanted.placement, &all))
    {
        let message = format!(
            "load balancer {name} {why}, which only another one can bring, and that one needs {held}, which load balancer \
             {holder} holds until it is gone: name other addresses, or delete the Service and make it again"
        );
        return kept((name, balancer), *field, Obstacle::Unsupported, message);
    }
    if let (Some((name, balancer, (field, why))), Replacement::NeedsConsent) = (&misfit, desired.replacement)
    {
        let obstacle = Obstacle::ReplacementRequired;
        return kept((name, balancer), *field, obstacle, Choice::consent(name, why));
    }
    let mut names = (0..GENERATIONS).map(|n| name(&desired.owner, group, wanted.name.as_deref(), n));
    match (names.find(|name| !view.load_balancers.contains_key(name)), misfit) {
        (Some(name), _) if all.len() < AT_ONCE => {
            Choice { current: None, others: others_of(&all, &name), name, blocked: None }
        }
        (name, None) => {
            Choice { name: name.unwrap_or_default(), current: None, others: Vec::new(), blocked: None }
        }
        (_, Some((name, balancer, (field, why)))) => {
            let message = format!(
                "load balancer {name} {why}, as do {} others: no more are made before old ones are gone",
                all.len() - 1
            );
            kept((name, balancer), field, Obstacle::ReplacementRequired, message)
        }
    }
}

/// An address that a new load balancer is to have and one of these has, and which.
fn held<'a>(placement: &Placement, all: &BTreeMap<&'a String, &'a Balancer>) -> Option<(String, &'a String)> {
    let wishes: Vec<SubnetMapping> = match placement {
        Placement::Discovered => Vec::new(),
        Placement::Named(named) => named.clone(),
        Placement::Addressed(addresses) => {
            addresses.iter().cloned().map(|it| mapping("", Some(it))).collect()
        }
    };
    all.iter().find_map(|(name, balancer)| {
        let present = balancer.described.subnets.iter();
        let pairs = present.flat_map(|present| wishes.iter().map(move |wish| (wish, present)));
        let mut same = pairs.filter_map(|(wish, present)| {
            let SubnetMapping { subnet: _, allocation, private_address, ipv6_address, source_prefix: _ } =
                wish;
            let allocation = allocation.clone().filter(|_| *allocation == present.allocation);
            let private = private_address.filter(|_| *private_address == present.private_address);
            let ipv6 = ipv6_address.filter(|_| *ipv6_address == present.ipv6_address);
            allocation.or(private.map(|it| it.to_string())).or(ipv6.map(|it| it.to_string()))
        });
        Some((same.next()?, *name))
    })
}

fn others_of<'a>(all: &BTreeMap<&'a String, &'a Balancer>, chosen: &str) -> Vec<Found<'a>> {
    all.iter().filter(|(name, _)| **name != chosen).map(|(name, it)| (*name, *it)).collect()
}

/// A difference that needs another load balancer; the phrase follows the name of the present one.
pub(crate) fn mismatch(
    desired: &LoadBalancer,
    wanted: &Wanted,
    balancer: &Balancer,
    subnet_names: &BTreeMap<String, String>,
) -> Option<(Field, String)> {
    let Wanted {
        adopt: _,
        name,
        scheme,
        families: _,
        placement,
        frontend,
        attributes: _,
        named_attributes: _,
        listeners: _,
        tags: _,
    } = wanted;
    let group = desired.group.as_ref();
    if balancer.group() != group {
        let why = match balancer.group() {
            Some(other) => format!("is that of group {other}"),
            None => "is this Service's alone".to_owned(),
        };
        return Some((Field::Group, why));
    }
    if balancer.described.scheme != *scheme {
        let word = |scheme: Scheme| match scheme {
            Scheme::External => "internet-facing",
            Scheme::Internal => "internal",
        };
        return Some((
            Field::Scheme,
            format!("is {}, and {} is wanted", word(balancer.described.scheme), word(*scheme)),
        ));
    }
    let bears = |n: u32| self::name(&desired.owner, group, name.as_deref(), n) == balancer.described.name;
    // An adopted one keeps its name, unless another is asked for; a shared one may have been named by another Service.
    let may_keep = balancer.adopted || (group.is_some() && name.is_none());
    let kept = may_keep && name.as_ref().is_none_or(|name| *name == balancer.described.name);
    if !kept && !(0..GENERATIONS).any(bears) {
        return Some((Field::Options, "has another name than is wanted".to_owned()));
    }
    let given_none = matches!(frontend, Frontend::Given { groups, .. } if groups.is_empty());
    if balancer.described.security_groups.is_empty() && !given_none {
        return Some((Field::Options, "was made without security groups and can never have any".to_owned()));
    }
    misplaced(placement, balancer, subnet_names).map(|why| (Field::Options, why))
}

fn misplaced(
    placement: &Placement,
    balancer: &Balancer,
    subnet_names: &BTreeMap<String, String>,
) -> Option<String> {
    let present = &balancer.described.subnets;
    match placement {
        Placement::Discovered => None,
        Placement::Addressed(addresses) => {
            let has = |address: &Addressing| present.iter().any(|subnet| is_at(subnet, address));
            let same = addresses.len() == present.len() && addresses.iter().all(has);
            (!same).then(|| "has other addresses than are wanted".to_owned())
        }
        Placement::Named(named) => {
            let of =
                |subnet: &SubnetMapping| named.iter().find(|it| is_named(it, &subnet.subnet, subnet_names));
            let wrong = |subnet: &&SubnetMapping| match of(subnet) {
                None => true,
                // Prefixes change in place.
                Some(SubnetMapping {
                    subnet: _,
                    allocation,
                    private_address,
                    ipv6_address,
                    source_prefix: _,
                }) => {
                    (allocation.is_some() && *allocation != subnet.allocation)
                        || (ipv6_address.is_some() && *ipv6_address != subnet.ipv6_address)
                        || (private_address.is_some() && *private_address != subnet.private_address)
                }
            };
            let subnet = present.iter().find(wrong)?;
            Some(format!(
                "is in {} with another address than is wanted, or that subnet is not",
                subnet.subnet
            ))
        }
    }
}

fn is_at(subnet: &SubnetMapping, address: &Addressing) -> bool {
    match address {
        Addressing::Allocation(id) => subnet.allocation.as_ref() == Some(id),
        Addressing::Private(address) => subnet.private_address == Some(*address),
    }
}

/// Whether a wish, by ID or name, is for this subnet.
pub(super) fn is_named(wish: &SubnetMapping, id: &str, names: &BTreeMap<String, String>) -> bool {
    wish.subnet == id || names.get(id) == Some(&wish.subnet)
}
