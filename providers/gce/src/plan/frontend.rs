//! Which frontend serves: the one that is wanted, or the one that is there until the user agrees to replace it.
//!
//! Owns: that choice, and what is claimed for a new address. Leaves to others: making and removing frontends.
//! Invariants: what serves is kept unless the user consents (law 7); an address that clients know is tried before
//! another is allocated (law 6).

use std::net::IpAddr;

use portico_provider::{Field, IpFamily, LoadBalancer, Obstacle, Replacement, Scheme};

use super::address::ip;
use super::rules;
use crate::capabilities as keys;
use crate::observed::Observed;
use crate::observed::frontends::{ObservedFrontend, existing_frontends};
use crate::resource::Address;
use crate::wanted::{Frontend, Source, Wanted};

pub(crate) struct Choice {
    /// `None`: none can be made, and none serves.
    pub(crate) frontend: Option<Frontend>,
    /// Why it is not the wanted one.
    pub(crate) refused: Option<(Field, Obstacle, String)>,
}

/// One for each family; all of one scheme, as they share a backend service. While a change of the scheme waits for
/// consent, a family that has none yet waits with it.
pub(crate) fn choose(desired: &LoadBalancer, wanted: &Wanted, observed: &Observed) -> Vec<Choice> {
    let mut all: Vec<Choice> =
        wanted.frontends.iter().map(|want| choose_one(desired, want, wanted, observed)).collect();
    let scheme = |choice: &Choice| choice.frontend.as_ref().map(|frontend| frontend.scheme);
    let kept = all.iter().find(|choice| choice.refused.is_some() && choice.frontend.is_some());
    if let Some(kept) = kept.or(all.first()).and_then(scheme) {
        all.retain(|choice| scheme(choice).is_none_or(|scheme| scheme == kept));
    }
    all
}

fn choose_one(desired: &LoadBalancer, want: &Frontend, wanted: &Wanted, observed: &Observed) -> Choice {
    let mut frontends = existing_frontends(observed);
    frontends.retain(|it| it.family() == want.family);
    let chosen = |frontend| Choice { frontend: Some(frontend), refused: None };
    if frontends.iter().any(|it| it.id == want.id) {
        return chosen(want.clone());
    }
    let asked = asked_ip(want, observed);
    let holder = frontends.iter().find(|it| asked == Some(it.ip));
    // A user who writes down the address that the Service has got already asks for nothing new.
    if let Some(same) = holder.filter(|it| alike(it, want)) {
        return chosen(kept(same));
    }
    let published = desired.published_ips();
    let serving = frontends.iter().find(|it| published.contains(&it.ip)).or(frontends.first());
    let impossible = match holder {
        Some(holder) => Some(held(holder)),
        None => unfit(want, wanted, observed),
    };
    match (impossible, desired.replacement, serving) {
        (Some((field, message)), _, serving) => {
            Choice { frontend: serving.map(kept), refused: Some((field, Obstacle::Unsupported, message)) }
        }
        (None, Replacement::Allowed, _) | (None, _, None) => chosen(want.clone()),
        (None, Replacement::NeedsConsent, Some(serving)) => {
            let (field, message) = refusal(serving, want);
            Choice {
                frontend: Some(kept(serving)),
                refused: Some((field, Obstacle::ReplacementRequired, message)),
            }
        }
    }
}

/// The address that the user asks for, as far as it is known.
fn asked_ip(want: &Frontend, observed: &Observed) -> Option<IpAddr> {
    match &want.source {
        Source::Exactly(ip) => Some(*ip),
        Source::Named(name) => observed.named.get(name)?.as_ref()?.ip,
        Source::Own | Source::Kept(_) => None,
    }
}

/// The new has to serve before the old goes, and both cannot listen on one address.
fn held(holder: &ObservedFrontend<'_>) -> (Field, String) {
    let message = format!(
        "{} is the address of the load balancer as it is, which serves until another does: a change of its scheme, network tier          or subnetwork needs another address. Request one, or none; or delete the Service and make it anew",
        holder.ip
    );
    (Field::RequestedAddresses, message)
}

/// Why a named address cannot be that of this frontend, where it was asked for.
fn unfit(want: &Frontend, wanted: &Wanted, observed: &Observed) -> Option<(Field, String)> {
    let Source::Named(name) = &want.source else { return None };
    let which = format!("annotation {} names {name}", keys::ADDRESSES);
    let reported = |why: String| Some((Field::RequestedAddresses, format!("{which}, {why}")));
    let Some(address) = observed.named.get(name)? else {
        return reported(
            "and there is no such address in the project and region: reserve it, or name another".to_owned(),
        );
    };
    let Address { family, scheme, tier, shareable, .. } = address;
    if (*family, *scheme) != (want.family, want.scheme) {
        return reported(format!(
            "an {scheme:?} {family} address, for an {:?} {} load balancer: name one that fits",
            want.scheme, want.family
        ));
    }
    if want.scheme == Scheme::External && tier.is_some() && *tier != want.tier {
        return reported(format!(
            "which is not of its network tier: set annotation {}, or name another",
            keys::TIER
        ));
    }
    if !shareable && rules::shapes(want.family, &wanted.ports, true).len() > 1 {
        return reported(
            "of purpose GCE_ENDPOINT, on which one forwarding rule can listen, and these ports need several: reserve one with \
             purpose SHARED_LOADBALANCER_VIP"
                .to_owned(),
        );
    }
    None
}

fn alike(it: &ObservedFrontend<'_>, want: &Frontend) -> bool {
    it.scheme == want.scheme && it.tier == want.tier && it.subnetwork == want.subnetwork
}

/// As it is: whoever reserved its address.
fn kept(it: &ObservedFrontend<'_>) -> Frontend {
    Frontend {
        id: it.id.clone(),
        family: it.family(),
        collection: None,
        scheme: it.scheme,
        tier: it.tier,
        subnetwork: it.subnetwork.clone(),
        source: Source::Kept(it.ip),
    }
}

fn refusal(serving: &ObservedFrontend<'_>, want: &Frontend) -> (Field, String) {
    let (field, what) = if serving.scheme != want.scheme {
        (
            Field::Scheme,
            format!("{:?} was asked for, and the load balancer is {:?}", want.scheme, serving.scheme),
        )
    } else if serving.tier != want.tier || serving.subnetwork != want.subnetwork {
        (Field::Options, "another network tier or subnetwork was asked for".to_owned())
    } else {
        match &want.source {
            Source::Named(name) => (Field::Options, format!("address {name} was asked for")),
            Source::Exactly(ip) => (Field::RequestedAddresses, format!("{ip} was asked for")),
            Source::Own if want.collection.is_some() => {
                (Field::Options, "an address of the user's own prefix was asked for".to_owned())
            }
            Source::Own | Source::Kept(_) => {
                (Field::RequestedAddresses, "no certain address is asked for any more".to_owned())
            }
        }
    };
    let message = format!(
        "{what}, while clients use {}: to move, set annotation portico.dev/allow-replacement to \"true\"; the new address \
         serves before the old one goes",
        serving.ip
    );
    (field, message)
}

/// The address to reserve: that of its rules, or else a published one that no resource of ours has.
pub(crate) fn claim(desired: &LoadBalancer, frontend: &Frontend, observed: &Observed) -> Option<IpAddr> {
    if let Some(ip) = ip(frontend, observed) {
        return Some(ip);
    }
    let inside = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => {
            frontend.family == IpFamily::IPv4 && ip.is_private() == (frontend.scheme == Scheme::Internal)
        }
        IpAddr::V6(ip) => {
            frontend.family == IpFamily::IPv6 && ip.is_unique_local() == (frontend.scheme == Scheme::Internal)
        }
    };
    let taken = |ip: &IpAddr| {
        observed.addresses().any(|it| it.ip == Some(*ip))
            || existing_frontends(observed).iter().any(|it| it.ip == *ip)
    };
    desired.published_ips().into_iter().find(|ip| inside(ip) && !taken(ip))
}
