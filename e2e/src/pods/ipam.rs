//! Addresses of a node's pods: the next free one of the node's podCIDR.
//!
//! Pure, in memory: after an agent's restart no container lives, so nothing is lost. Invariants: the network, the gateway (first
//! host) and, for IPv4, the broadcast address are never given out; a released address comes last, not next.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The pool of one range.
#[derive(Clone, Debug)]
pub(crate) struct Ipam {
    range: IpNet,
    used: BTreeSet<u128>,
    next: u128,
}

impl Ipam {
    pub(crate) fn new(range: IpNet) -> Self {
        Self { range: range.trunc(), used: BTreeSet::new(), next: 2 }
    }

    /// The node's own address in the range.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.address(1)
    }

    /// The next free address; none when all are taken.
    pub(crate) fn allocate(&mut self) -> Option<IpAddr> {
        let last = self.last();
        let free = (self.next..=last).chain(2..self.next).find(|offset| !self.used.contains(offset))?;
        self.used.insert(free);
        self.next = if free >= last { 2 } else { free + 1 };
        Some(self.address(free))
    }

    /// Takes an address back; one that was never given is ignored.
    pub(crate) fn release(&mut self, address: IpAddr) {
        let base = number(self.range.network());
        if self.range.contains(&address) {
            self.used.remove(&(number(address) - base));
        }
    }

    fn last(&self) -> u128 {
        let bits = u32::from(self.range.max_prefix_len() - self.range.prefix_len());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let reserved = if matches!(self.range, IpNet::V4(_)) { 2 } else { 1 };
        size.saturating_sub(reserved)
    }

    fn address(&self, offset: u128) -> IpAddr {
        let sum = number(self.range.network()) + offset;
        match (self.range, u32::try_from(sum)) {
            (IpNet::V4(_), Ok(bits)) => Ipv4Addr::from_bits(bits).into(),
            (IpNet::V4(_) | IpNet::V6(_), _) => Ipv6Addr::from_bits(sum).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mk_ipam(range: &str) -> Ipam {
        Ipam::new(range.parse().expect("a range"))
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given() {
        let mut ipam = mk_ipam("10.244.1.0/29");
        assert_eq!(ipam.gateway().to_string(), "10.244.1.1");
        let all: Vec<String> =
            std::iter::from_fn(|| ipam.allocate()).take(99).map(|ip| ip.to_string()).collect();
        assert_eq!(all, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]);
    }

    #[test]
    fn a_released_address_is_the_last_to_come_back() {
        let mut ipam = mk_ipam("fd00::/125");
        let first = ipam.allocate().expect("free");
        ipam.release(first);
        let later: Vec<IpAddr> = std::iter::from_fn(|| ipam.allocate()).take(99).collect();
        assert_eq!(later.last(), Some(&first));
        assert_eq!(later.len(), 6);
    }

    proptest! {
        #[test]
        fn no_address_is_held_twice(steps in proptest::collection::vec(any::<Option<u8>>(), 0..100)) {
            let mut ipam = mk_ipam("10.0.0.0/28");
            let mut held: Vec<IpAddr> = Vec::new();
            for step in steps {
                match step {
                    Some(index) if !held.is_empty() => ipam.release(held.swap_remove(usize::from(index) % held.len())),
                    _ => if let Some(address) = ipam.allocate() {
                        prop_assert!(!held.contains(&address));
                        held.push(address);
                    },
                }
            }
        }
    }
}
