//! The node's addresses to which the kernel redirects packets.
//!
//! Owns the choice, one for each family. It lasts as long as the node has the address, because connections
//! depend on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use portico_netlink::addresses::{self, Scope};
use portico_proxy_core::table::Family;

use crate::diagnose;

/// Lists addresses that a packet from anywhere can be sent to, the preferred ones first.
pub type Addresses = Box<dyn FnMut() -> portico_netlink::Result<Vec<IpAddr>> + Send>;

/// An outside address of each family (RFC 5737, RFC 3849): the node's source address towards it is its main
/// one.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The chosen address of each family.
pub struct Here {
    addresses: Addresses,
    chosen: BTreeMap<Family, IpAddr>,
}

/// Global addresses in the network namespace of the calling thread, the main one first.
pub fn kernel_addresses() -> portico_netlink::Result<Vec<IpAddr>> {
    let usable = |found: &addresses::Address| found.scope == Scope::Global && !found.deprecated;
    let mut all: Vec<_> = addresses::list()?.into_iter().filter(usable).map(|found| found.address).collect();
    let main = OUTSIDE.map(diagnose::source_towards);
    all.sort_by_key(|address| !main.contains(&Some(*address)));
    Ok(all)
}

impl Here {
    /// Without a choice.
    pub fn new(addresses: Addresses) -> Self {
        Self { addresses, chosen: BTreeMap::new() }
    }

    /// The chosen address of a family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.chosen.get(&family).copied()
    }

    /// Updates the choice from the node's addresses; returns the families whose choice changed. If they cannot
    /// be listed, none does.
    pub fn refresh(&mut self) -> BTreeSet<Family> {
        let present = match (self.addresses)() {
            Ok(present) => present,
            Err(error) => {
                tracing::warn!(
                    error = portico_runtime::chain(&error),
                    "the node's addresses cannot be listed"
                );
                return BTreeSet::new();
            }
        };
        let mut moved = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            let before = self.address(family);
            let of_family = || present.iter().copied().filter(|address| Family::of(*address) == family);
            let now =
                before.filter(|before| of_family().any(|a| a == *before)).or_else(|| of_family().next());
            if now != before {
                moved.insert(family);
            }
            match now {
                Some(address) => self.chosen.insert(family, address),
                None => self.chosen.remove(&family),
            };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn an_address_is_kept_as_long_as_the_node_has_it() {
        let node = Arc::new(Mutex::new(vec!["192.0.2.9", "192.0.2.1"]));
        let present = node.clone();
        let mut here = Here::new(Box::new(move || {
            let present = present.lock().expect("no panic");
            Ok(present.iter().map(|text| text.parse().expect("an address")).collect())
        }));
        let mut refresh = |addresses: &[&'static str]| {
            *node.lock().expect("no panic") = addresses.to_vec();
            (here.refresh().len(), here.address(Family::V4).map(|address| address.to_string()))
        };
        let chosen = |text: &str| Some(text.to_owned());
        assert_eq!(refresh(&["192.0.2.9", "192.0.2.1"]), (1, chosen("192.0.2.9")));
        assert_eq!(refresh(&["192.0.2.1", "192.0.2.9"]), (0, chosen("192.0.2.9")));
        assert_eq!(refresh(&["192.0.2.1", "2001:db8::1"]), (2, chosen("192.0.2.1")));
        assert_eq!(refresh(&[]), (2, None));
    }
}
