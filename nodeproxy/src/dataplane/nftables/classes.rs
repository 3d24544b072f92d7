//! Numbers of what a first packet is sent to: chain `external` and the balancing chains.
//!
//! The dispatch maps say a number, and the small maps `classes` and `balances` lead from the number to the chain. If the large maps held
//! verdicts, the kernel would look at every one of them whenever one comes or goes (`nft_table_validate`): 6 ms for each change
//! of a number of endpoints with 30,000 Services, and nothing so.
//!
//! Owns which chain has which number. A chain gets one with its first transaction and keeps it; after a start the kernel says
//! who has which. Invariant: between [`CLASS_TAG`] and the next tag, and each number once in a family.

use std::collections::BTreeMap;

use portico_netlink::nftables::{self as kernel, Data, Element};
use portico_proxy_core::{
    plan::Chain,
    table::{AFFINITY_TAG, Family, Verdict},
};

use super::{balance, skeleton::EXTERNAL};

/// Name of the map.
pub(super) const CLASSES: &str = "classes";
/// Name of the same map without chain `external`, for that chain's own use: the kernel refuses what could go round in circles.
pub(super) const BALANCES: &str = "balances";
/// Top byte of every number: it travels in a packet's priority, where an affinity id may follow it (`AFFINITY_TAG`), and one
/// mask finds both.
pub(super) const CLASS_TAG: u32 = 0xA400_0000;
/// Bits that a number shares with affinity ids and nobody else.
pub(super) const TAG_MASK: u32 = 0xFE00_0000;
/// Number of chain `external`.
const EXTERNAL_CLASS: u32 = CLASS_TAG;

/// The numbers of all chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes {
    numbers: BTreeMap<Chain, u32>,
    chains: BTreeMap<(Family, u32), Chain>,
}

/// The element that leads to chain `external`, which is always there.
pub(super) fn external() -> Element {
    element(EXTERNAL_CLASS, Some(EXTERNAL))
}

fn element(number: u32, chain: Option<&str>) -> Element {
    let data = chain.map(|chain| Data::Verdict(kernel::Verdict::Goto(chain.to_owned())));
    Element { key: number.to_ne_bytes().to_vec(), data, ..Element::default() }
}

impl Classes {
    /// Gives a chain a number; the element that says so.
    pub(super) fn add(&mut self, chain: Chain) -> Element {
        let taken = |number: &u32| self.chains.contains_key(&(chain.family, *number));
        // There are 2^24; if none were free, the kernel would refuse the last one as there already.
        let free = (EXTERNAL_CLASS + 1..AFFINITY_TAG).find(|number| !taken(number));
        let free = free.unwrap_or(AFFINITY_TAG - 1);
        let number = *self.numbers.entry(chain).or_insert(free);
        self.chains.insert((chain.family, number), chain);
        element(number, Some(chain.balance.chain().as_str()))
    }

    /// Takes a chain's number back; the element that said so.
    pub(super) fn remove(&mut self, chain: &Chain) -> Option<Element> {
        let number = self.numbers.remove(chain)?;
        self.chains.remove(&(chain.family, number));
        Some(element(number, None))
    }

    /// The number of what a dispatch map says. None: of a chain that does not stand, or no chain at all.
    pub(super) fn number(&self, family: Family, verdict: Verdict) -> Option<u32> {
        match verdict {
            Verdict::External => Some(EXTERNAL_CLASS),
            Verdict::Balance(balance) => self.numbers.get(&Chain { family, balance }).copied(),
            Verdict::Reject | Verdict::Drop => None,
        }
    }

    /// What a number leads to.
    pub(super) fn verdict(&self, family: Family, number: u32) -> Option<Verdict> {
        if number == EXTERNAL_CLASS {
            return Some(Verdict::External);
        }
        self.chains.get(&(family, number)).map(|chain| Verdict::Balance(chain.balance))
    }

    /// Learns an element that stands in the kernel; false if it is none of ours.
    pub(super) fn learn(&mut self, family: Family, found: &Element) -> bool {
        let number = <[u8; 4]>::try_from(&found.key[..]).map(u32::from_ne_bytes);
        let (Ok(number), Some(Data::Verdict(kernel::Verdict::Goto(chain)))) = (number, &found.data) else {
            return false;
        };
        if number & 0xFF00_0000 != CLASS_TAG {
            return false;
        }
        if number == EXTERNAL_CLASS {
            return chain == EXTERNAL;
        }
        let Some(balance) = balance::parse(chain) else { return false };
        let chain = Chain { family, balance };
        self.numbers.insert(chain, number).is_none() && self.chains.insert((family, number), chain).is_none()
    }

    /// Whether the chains of a family have the same numbers there.
    pub(super) fn is_same(&self, other: &Self, family: Family) -> bool {
        let of = |classes: &Self| -> Vec<(Chain, u32)> {
            classes
                .numbers
                .iter()
                .filter(|(chain, _)| chain.family == family)
                .map(|(c, n)| (*c, *n))
                .collect()
        };
        of(self) == of(other)
    }

    /// The chains of a family that have a number.
    pub(super) fn of(&self, family: Family) -> impl Iterator<Item = &Chain> {
        self.numbers.keys().filter(move |chain| chain.family == family)
    }
}

#[cfg(test)]
mod tests {
    use portico_proxy_core::table::{Balance, List};

    use super::*;

    fn mk_chain(family: Family, endpoints: u32) -> Chain {
        let balance = Balance { endpoints, list: List::Cluster, masquerade: false, affinity: None };
        Chain { family, balance }
    }

    #[test]
    fn a_chain_keeps_its_number_and_a_number_that_is_free_is_given_again() {
        let mut classes = Classes::default();
        let (one, two, three) = (mk_chain(Family::V4, 1), mk_chain(Family::V4, 2), mk_chain(Family::V4, 3));
        let (first, _) = (classes.add(one), classes.add(two));
        assert_eq!(classes.add(one), first);
        let gone = classes.remove(&one).expect("it had one");
        assert_eq!((gone.key, gone.data), (first.key.clone(), None));
        assert_eq!(classes.add(three).key, first.key);
        assert_eq!(classes.number(Family::V4, Verdict::Balance(one.balance)), None);
    }

    #[test]
    fn what_was_written_is_learnt_and_nothing_else() {
        let (mut classes, mut learnt) = (Classes::default(), Classes::default());
        for chain in [mk_chain(Family::V4, 1), mk_chain(Family::V4, 2), mk_chain(Family::V6, 2)] {
            assert!(learnt.learn(chain.family, &classes.add(chain)));
        }
        assert!(learnt.learn(Family::V4, &external()));
        assert_eq!(learnt, classes);
        for odd in
            [element(7, Some("lb-1")), element(CLASS_TAG, Some("lb-1")), element(CLASS_TAG + 9, Some("mine"))]
        {
            assert!(!learnt.learn(Family::V4, &odd), "{odd:?}");
        }
        assert!(!learnt.learn(Family::V4, &element(CLASS_TAG + 9, Some("lb-1"))), "a second number");
    }
}
