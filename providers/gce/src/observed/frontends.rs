//! The frontends that exist, read from forwarding rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portico_provider::{IpFamily, Scheme};

use super::Observed;
use crate::resource::{AddressRef, ForwardingRule, Tier};

/// A frontend that exists: an address with at least one rule.
pub(crate) struct ObservedFrontend<'a> {
    pub(crate) id: String,
    pub(crate) ip: IpAddr,
    pub(crate) rules: Vec<&'a ForwardingRule>,
    pub(crate) scheme: Scheme,
    pub(crate) tier: Option<Tier>,
    pub(crate) subnetwork: Option<String>,
}

/// Part `back` from the end of a name, between dashes. Rules end in `-ID-PROTOCOL-DIGEST`, addresses in `-ID-ip`.
pub(crate) fn id_in(name: &str, back: usize) -> Option<&str> {
    name.rsplit('-').nth(back)
}

/// All of them, by identifier.
pub(crate) fn existing_frontends(observed: &Observed) -> Vec<ObservedFrontend<'_>> {
    let mut all: BTreeMap<&str, ObservedFrontend<'_>> = BTreeMap::new();
    for rule in observed.rules() {
        let (Some(id), AddressRef::Ip(ip)) = (id_in(&rule.name, 2), &rule.address) else { continue };
        let new = || ObservedFrontend {
            id: id.to_owned(),
            ip: *ip,
            rules: Vec::new(),
            scheme: rule.scheme,
            tier: rule.tier,
            subnetwork: rule.place.as_ref().map(|place| place.subnetwork.clone()),
        };
        all.entry(id).or_insert_with(new).rules.push(rule);
    }
    all.into_values().collect()
}

impl ObservedFrontend<'_> {
    pub(crate) fn family(&self) -> IpFamily {
        IpFamily::of(self.ip)
    }
}
