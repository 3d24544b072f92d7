//! The load balancer to plan for: what exists and fits, the one that a group shares, or a new one with consent; and what this
//! Service may change there.
//!
//! Owns: what cannot change in place; the rules among members of a group. Leaves to others: changing what can (`balancer`),
//! leaving (`removal`). Invariants: without consent what serves stays; with it the new one comes first. The lead decides the
//! settings of a whole shared load balancer; nobody decides those that need another one while there are other members.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{Field, GroupName, Obstacle, Owner, Replacement, Scheme};

use crate::cloud::resources::SubnetMapping;
use crate::names::{self, GENERATIONS};
use crate::observed::{Balancer, Share, View};
use crate::quotas::Quotas;
use crate::tags;
use crate::wanted::{
    Addressing, DELETION_PROTECTION, Frontend, Placement, Wanted, balancer_defaults, mapping,
};

/// More than these at once are no replacement but a fault, and cost money.
const AT_ONCE: usize = 3;

/// The one, and the others.
pub(super) struct Choice<'a> {
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

pub(super) fn choose<'a>(quotas: &Quotas, wanted: &Wanted<'_>, view: &'a View) -> Choice<'a> {
    let group = wanted.desired.group.as_ref();
    if let Some(choice) = group.and_then(|group| join(quotas, wanted, view, group)) {
        return choice;
    }
    let is_ours = |it: &Balancer| it.is_used() || it.group() == group;
    let all: BTreeMap<&String, &Balancer> =
        view.load_balancers.iter().filter(|(_, it)| is_ours(it)).collect();
    let fits = |balancer: &Balancer| mismatch(wanted, balancer, &view.subnet_names);
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
    if let (Some((name, balancer, (field, why))), Replacement::NeedsConsent) =
        (&misfit, wanted.desired.replacement)
    {
        let obstacle = Obstacle::ReplacementRequired;
        return kept((name, balancer), *field, obstacle, Choice::consent(name, why));
    }
    let mut names = (0..GENERATIONS).map(|n| name(wanted.owner(), group, wanted.name.as_deref(), n));
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
    wanted: &Wanted<'_>,
    balancer: &Balancer,
    subnet_names: &BTreeMap<String, String>,
) -> Option<(Field, String)> {
    let Wanted {
        desired,
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

/// An obstacle: field, kind, message.
pub(super) type Block = (Field, Obstacle, String);

fn owner_words(owner: Option<&Owner>) -> String {
    owner.map_or("another owner (without tags)".to_owned(), |owner| format!("Service {}", owner.name))
}

/// Whether to join, where others are in the group or this Service has a load balancer already. `None`: it is chosen,
/// or made, like any other.
fn join<'a>(quotas: &Quotas, wanted: &Wanted<'_>, view: &'a View, group: &GroupName) -> Option<Choice<'a>> {
    let here = || view.load_balancers.iter().filter(|(_, it)| it.group() == Some(group));
    let joined = here().find(|(_, it)| it.is_used());
    let elsewhere = view.load_balancers.iter().find(|(_, it)| it.is_used() && it.group() != Some(group));
    let stays = |block: Block| Choice::kept(view, joined.or(elsewhere), block);
    if let (None, Some((name, old)), Replacement::NeedsConsent) =
        (joined, elsewhere, wanted.desired.replacement)
    {
        let (field, why) = mismatch(wanted, old, &view.subnet_names)?;
        return Some(stays((field, Obstacle::ReplacementRequired, Choice::consent(name, &why))));
    }
    if view.members(group).is_empty() {
        return None;
    }
    let unfit = |it: &Balancer| mismatch(wanted, it, &view.subnet_names);
    let fitting = joined.into_iter().chain(here()).find(|(_, it)| unfit(it).is_none());
    let Some((name, found)) = fitting else {
        let (name, it) = here().next()?;
        let (field, why) = unfit(it)?;
        let message = format!(
            "load balancer {name} of group {group} {why}, and others share it: ask for the same, or use another group"
        );
        return Some(stays((field, Obstacle::GroupConflict, message)));
    };
    if joined.is_none() {
        if here().count() > 1 {
            let message =
                format!("the load balancer of group {group} is being replaced: it is joined after that");
            return Some(stays((Field::Group, Obstacle::GroupConflict, message)));
        }
        let terms = terms(quotas, wanted, view, found);
        let conflict = terms.blocked.into_iter().find(|(_, obstacle, _)| match obstacle {
            Obstacle::GroupConflict => true,
            // Whoever serves all of its ports elsewhere does not move to serve fewer.
            _ => elsewhere.is_some(),
        });
        if let Some(block) = conflict {
            return Some(stays(block));
        }
    }
    Some(Choice::found(view, name, found))
}

/// The rights of a member on a shared load balancer.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Whether it decides what is of all of it.
    pub(super) leads: bool,
    /// Nobody does, so that it will.
    pub(super) takes_the_lead: bool,
    /// Ports that it cannot have.
    pub(super) withheld: BTreeSet<u16>,
    /// Obstacles, to be reported.
    pub(super) blocked: Vec<Block>,
}

pub(super) fn terms(quotas: &Quotas, wanted: &Wanted<'_>, view: &View, found: &Balancer) -> Terms {
    let Some(share) = &found.shared else {
        let mut terms = Terms { leads: true, ..Terms::default() };
        conflicts(&mut terms, wanted, found);
        return terms;
    };
    let others = view.members(&share.group);
    let lead = share.lead.as_ref().filter(|lead| others.iter().any(|it| it.service == lead.service));
    let is_lead = share.lead.as_ref().is_some_and(|lead| lead.service == wanted.owner().service);
    let differ = if is_lead { Vec::new() } else { differences(wanted, view, found) };
    // Who says nothing follows, also whoever decided once; the first who asks for something else takes the lead then.
    let takes_the_lead = !is_lead && lead.is_none() && !differ.is_empty();
    let mut terms = Terms { leads: is_lead || takes_the_lead, takes_the_lead, ..Terms::default() };
    conflicts(&mut terms, wanted, found);
    over_quota(&mut terms, quotas.listeners, wanted, found, share);
    if !others.is_empty() {
        terms.blocked.extend(other_front(wanted, view, found, share));
    }
    if let Some(lead) = lead {
        for (field, what) in differ {
            let message = format!(
                "{what}, which Service {} decides for all of group {}: ask for the same, change it there first, or use \
                 another group",
                lead.name, share.group
            );
            terms.blocked.push((field, Obstacle::GroupConflict, message));
        }
    }
    terms
}

/// Listeners that others have.
fn conflicts(terms: &mut Terms, wanted: &Wanted<'_>, found: &Balancer) {
    let remedy = match found.shared {
        Some(_) => "give one of them another port, or put this Service into another group",
        None => "delete that listener, or give the Service another port",
    };
    for (port, listener) in &wanted.listeners {
        if let Some(holder) = found.taken.get(port) {
            let message = format!(
                "{}/{port} of load balancer {} is a listener of {}: {remedy}",
                listener.spec.protocol,
                found.described.name,
                owner_words(holder.as_ref())
            );
            terms.withheld.insert(*port);
            terms.blocked.push((Field::Listeners, Obstacle::ListenerConflict, message));
        }
    }
}

/// More listeners than a load balancer takes: those that are there stay.
fn over_quota(terms: &mut Terms, most: usize, wanted: &Wanted<'_>, found: &Balancer, share: &Share) {
    let (taken, own) = (found.taken.len(), found.listeners.len());
    let new: Vec<u16> = wanted
        .listeners
        .keys()
        .filter(|port| !found.listeners.contains_key(port) && !terms.withheld.contains(port))
        .copied()
        .collect();
    let room = most.saturating_sub(taken + own);
    if new.len() > room {
        let message = format!(
            "needs {} listeners beside the {taken} that others of group {} have, quota {most}: use \
             fewer ports, or another group",
            own + new.len(),
            share.group
        );
        terms.withheld.extend(new.into_iter().skip(room));
        terms.blocked.push((Field::Listeners, Obstacle::Unsupported, message));
    }
}

/// Security groups of the user's or of ours: others' clients come in by those that are there.
fn other_front(wanted: &Wanted<'_>, view: &View, found: &Balancer, share: &Share) -> Option<Block> {
    let ours = is_fronted(view, found, &share.group);
    let message = match &wanted.frontend {
        Frontend::Own(_) if !ours && !found.described.security_groups.is_empty() => {
            "has security groups of a user's: name the same, by the annotation for security groups"
        }
        Frontend::Given { .. } if ours => "lets clients in by a security group of Portico's: name no others",
        _ => return None,
    };
    let message = format!(
        "load balancer {} of group {} {message}, or use another group",
        found.described.name, share.group
    );
    Some((Field::Options, Obstacle::GroupConflict, message))
}

/// Whether a security group of ours is in front of it.
pub(super) fn is_fronted(view: &View, found: &Balancer, group: &GroupName) -> bool {
    let of_it = |tags: &_| tags::group(tags).as_ref() == Some(group);
    view.security_groups
        .values()
        .any(|it| of_it(&it.tags) && found.described.security_groups.contains(&it.id))
}

/// Settings that this Service asks for and that only the lead may change in place. Settings that it does not name follow the lead.
fn differences(wanted: &Wanted<'_>, view: &View, found: &Balancer) -> Vec<(Field, String)> {
    let Wanted {
        desired: _,
        adopt: _,
        name: _,
        scheme: _,
        families,
        placement,
        frontend,
        attributes: _,
        named_attributes,
        listeners: _,
        tags: _,
    } = wanted;
    let name = &found.described.name;
    let (defaults, mut differ) = (balancer_defaults(), Vec::new());
    let is = found.described.families;
    if families.kind != is.kind || (families.source_nat && !is.source_nat) {
        differ.push((Field::IpFamilies, format!("load balancer {name} is {is}, and {families} is wanted")));
    }
    // Saying "false" does not switch protection off: only a person does.
    let off = |key: &str, value: &str| key == DELETION_PROTECTION && value != "true";
    for (key, value) in named_attributes.iter().filter(|(key, value)| !off(key, value)) {
        let there = found.attributes.get(key).or_else(|| defaults.get(key));
        if there != Some(value) {
            let is = there.map_or("not set", String::as_str);
            differ.push((
                Field::Options,
                format!("{key} of load balancer {name} is {is}, and {value} is wanted"),
            ));
        }
    }
    if let Placement::Named(subnets) = placement {
        let there = |wish: &&_| {
            found.described.subnets.iter().any(|it| is_named(wish, &it.subnet, &view.subnet_names))
        };
        if let Some(new) = subnets.iter().find(|wish| !there(wish)) {
            differ.push((Field::Options, format!("load balancer {name} is not in {}", new.subnet)));
        }
    }
    if let Frontend::Given { groups, node_rules: _ } = frontend
        && !groups.iter().all(|group| found.described.security_groups.contains(group))
    {
        differ.push((Field::Options, format!("load balancer {name} has other security groups in front")));
    }
    differ
}
