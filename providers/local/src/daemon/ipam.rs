//! Which address a load balancer gets.
//!
//! Owns: the choice. Leaves to others: what is taken (the registry's records, read before the first request).
//! Invariant: total order: requested, then what it has, then what its status shows, then the lowest free one.
//! It never gives an address twice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use portico_provider::IpFamily;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// The one asked for is in no range.
    #[error(
        "requested address {address} is in none of the ranges {ranges}: ask for one that is, or for none"
    )]
    OutOfRange {
        /// The address that the Service asks for.
        address: IpAddr,
        /// The configured ranges of that family, between commas.
        ranges: String,
    },
    /// The one asked for is somebody's.
    #[error("requested address {0} belongs to another load balancer: ask for another, or for none")]
    Taken(IpAddr),
    /// All are somebody's.
    #[error("no free {family} address in the ranges {ranges}: delete a load balancer or add a --range")]
    Exhausted {
        /// Of which family.
        family: IpFamily,
        /// The configured ranges of that family, between commas.
        ranges: String,
    },
}

/// Hands out addresses of the configured ranges.
#[derive(Clone, Debug)]
pub struct Ipam {
    ranges: Vec<IpNet>,
}

/// The request of one load balancer.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// One address of each.
    pub families: &'a BTreeSet<IpFamily>,
    /// It must have these.
    pub requested: &'a BTreeSet<IpAddr>,
    /// It has these.
    pub current: &'a BTreeSet<IpAddr>,
    /// It would like these.
    pub claim: &'a BTreeSet<IpAddr>,
}

impl Ipam {
    /// Gives addresses of these ranges, in their order.
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Self { ranges }
    }

    /// One address of each family, none of them in `taken` (which holds the addresses of all others).
    pub fn assign(&self, ask: Ask<'_>, taken: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, NoAddress> {
        ask.families.iter().map(|family| self.assign_one(*family, ask, taken)).collect()
    }

    fn assign_one(
        &self,
        family: IpFamily,
        ask: Ask<'_>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, NoAddress> {
        let Ask { families: _, requested, current, claim } = ask;
        let of_family = |addresses: &BTreeSet<IpAddr>| {
            addresses
                .iter()
                .copied()
                .filter(move |address| IpFamily::of(*address) == family)
                .collect::<Vec<_>>()
        };
        if let Some(address) = of_family(requested).first() {
            return self.check(*address, current, taken);
        }
        if let Some(address) = of_family(current).first() {
            return Ok(*address);
        }
        let free = |address: &IpAddr| !taken.contains(address);
        let claimed = of_family(claim).into_iter().find(|address| free(address) && self.holds(*address));
        claimed
            .or_else(|| self.hosts(family).find(free))
            .ok_or_else(|| NoAddress::Exhausted { family, ranges: self.shown() })
    }

    fn check(
        &self,
        address: IpAddr,
        current: &BTreeSet<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, NoAddress> {
        if taken.contains(&address) {
            return Err(NoAddress::Taken(address));
        }
        if current.contains(&address) || self.holds(address) {
            return Ok(address);
        }
        Err(NoAddress::OutOfRange { address, ranges: self.shown() })
    }

    /// Whether it is one that could be given: in a range, and neither its network nor broadcast address.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address) && usable(*range, address))
    }

    fn hosts(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        let of_family = self.ranges.iter().filter(move |range| IpFamily::of(range.addr()) == family);
        of_family.flat_map(|range| range.hosts().filter(|address| usable(*range, *address)))
    }

    fn shown(&self) -> String {
        self.ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Not the network's own address (for IPv6 the subnet-router anycast address, RFC 4291 2.6.1), nor the broadcast one.
fn usable(range: IpNet, address: IpAddr) -> bool {
    let short = range.max_prefix_len() - range.prefix_len() >= 2;
    let broadcast = range.addr().is_ipv4() && address == range.broadcast();
    !(short && (address == range.network() || broadcast))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mk_ipam(ranges: &[&str]) -> Ipam {
        Ipam::new(ranges.iter().map(|range| range.parse().unwrap()).collect())
    }

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn the_order_is_requested_current_claimed_lowest() {
        let ipam = mk_ipam(&["127.9.0.0/29"]);
        let (families, none) = (BTreeSet::from([IpFamily::IPv4]), set(&[]));
        let (requested, current, claim) = (set(&["127.9.0.5"]), set(&["127.9.0.4"]), set(&["127.9.0.3"]));
        let ask = |requested, current, claim| Ask { families: &families, requested, current, claim };
        assert_eq!(ipam.assign(ask(&requested, &current, &claim), &none).unwrap(), requested);
        assert_eq!(ipam.assign(ask(&none, &current, &claim), &none).unwrap(), current);
        assert_eq!(ipam.assign(ask(&none, &none, &claim), &none).unwrap(), claim);
        assert_eq!(ipam.assign(ask(&none, &none, &none), &none).unwrap(), set(&["127.9.0.1"]));
        assert_eq!(ipam.assign(ask(&none, &none, &claim), &claim).unwrap(), set(&["127.9.0.1"]));
        assert!(matches!(ipam.assign(ask(&requested, &none, &none), &requested), Err(NoAddress::Taken(_))));
        let outside = set(&["127.9.0.7"]);
        assert!(matches!(ipam.assign(ask(&outside, &none, &none), &none), Err(NoAddress::OutOfRange { .. })));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_all_are_used_before_none_is_left(prefix in 26u8..=32) {
            let ipam = mk_ipam(&[&format!("10.1.0.0/{prefix}")]);
            let (families, none) = (BTreeSet::from([IpFamily::IPv4]), set(&[]));
            let ask = Ask { families: &families, requested: &none, current: &none, claim: &none };
            let mut taken = BTreeSet::new();
            while let Ok(given) = ipam.assign(ask, &taken) {
                prop_assert!(given.is_disjoint(&taken));
                taken.extend(given);
            }
            let size = 1usize << (32 - prefix);
            prop_assert_eq!(taken.len(), if size >= 4 { size - 2 } else { size });
        }
    }
}
