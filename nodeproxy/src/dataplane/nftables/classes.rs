//! Numbers of the destinations of first packets: chain `external` and the chains beside the skeleton.
//!
//! The dispatch maps have a number, and the small maps `classes`, `balances` and `pickers` lead from the number
//! to the chain. If the large maps held verdicts, the kernel would check every verdict at each change of one
//! (`nft_table_validate`). That takes 6 ms with 30,000 Services.
//!
//! Owns the number of each chain. A chain gets one with its first transaction and keeps it. After a start the
//! numbers are read from the kernel. Invariant: numbers are between [`CLASS_TAG`] and the next tag, and unique
//! in a family.

use std::collections::{BTreeMap, BTreeSet};

use portico_netlink::nftables::{self as kernel, Data, Element};
use portico_proxy_core::{
    plan::Chain,
    table::{AFFINITY_TAG, Family, Target, Verdict},
};

use super::{
    names::{BALANCES, CLASS_TAG, CLASSES, EXTERNAL, PICKERS},
    target,
};

/// Number of chain `external`.
const EXTERNAL_CLASS: u32 = CLASS_TAG;

/// The numbers of all chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes {
    numbers: BTreeMap<Chain, u32>,
    chains: BTreeMap<(Family, u32), Chain>,
    /// Free numbers below the highest. Each namespace may have its own chains, so searching is too slow.
    freed: BTreeSet<(Family, u32)>,
}

/// The element for chain `external`, which always exists.
pub(super) fn external() -> Element {
    element(EXTERNAL_CLASS, Some(kernel::Verdict::Goto(EXTERNAL.to_owned())))
}

fn element(number: u32, verdict: Option<kernel::Verdict>) -> Element {
    Element { key: number.to_ne_bytes().to_vec(), data: verdict.map(Data::Verdict), ..Element::default() }
}

/// The verdict that leads to a chain.
fn verdict(target: &Target) -> kernel::Verdict {
    match target {
        Target::Balance(_) | Target::Recall(_) => kernel::Verdict::Goto(target.chain()),
        Target::Pick(_) => kernel::Verdict::Jump(target.chain()),
    }
}

/// The maps that lead to a chain.
pub(super) fn maps(target: &Target) -> &'static [&'static str] {
    match target {
        Target::Balance(_) | Target::Recall(_) => &[CLASSES, BALANCES],
        Target::Pick(_) => &[PICKERS],
    }
}

impl Classes {
    /// Gives a chain a number; returns its element.
    pub(super) fn add(&mut self, chain: Chain) -> Element {
        let number = match self.numbers.get(&chain) {
            Some(number) => *number,
            None => self.take(chain.family),
        };
        self.numbers.insert(chain, number);
        self.chains.insert((chain.family, number), chain);
        element(number, Some(verdict(&chain.target)))
    }

    /// A free number. There are 2^24. If none were free, the kernel would refuse the last one as existing.
    fn take(&mut self, family: Family) -> u32 {
        let all = (family, EXTERNAL_CLASS + 1)..(family, AFFINITY_TAG);
        if let Some(freed) = self.freed.range(all.clone()).next().copied() {
            self.freed.remove(&freed);
            return freed.1;
        }
        let highest = self.chains.range(all).next_back().map_or(EXTERNAL_CLASS, |((_, number), _)| *number);
        (highest + 1).min(AFFINITY_TAG - 1)
    }

    /// Frees a chain's number; returns its element.
    pub(super) fn remove(&mut self, chain: &Chain) -> Option<Element> {
        let number = self.numbers.remove(chain)?;
        self.chains.remove(&(chain.family, number));
        self.freed.insert((chain.family, number));
        Some(element(number, None))
    }

    /// The number for a verdict of a dispatch map. `None`: its chain is not programmed, or it has none.
    pub(super) fn number(&self, family: Family, verdict: Verdict) -> Option<u32> {
        match verdict {
            Verdict::External => Some(EXTERNAL_CLASS),
            verdict => {
                let target = verdict.target()?;
                self.numbers.get(&Chain { family, target }).copied()
            }
        }
    }

    /// The verdict of a number.
    pub(super) fn verdict(&self, family: Family, number: u32) -> Option<Verdict> {
        if number == EXTERNAL_CLASS {
            return Some(Verdict::External);
        }
        self.chains.get(&(family, number)).map(|chain| chain.target.into())
    }

    /// Records a programmed element; false if it is none of ours.
    pub(super) fn learn(&mut self, family: Family, map: &str, found: &Element) -> bool {
        let number = <[u8; 4]>::try_from(&found.key[..]).map(u32::from_ne_bytes);
        let (Ok(number), Some(Data::Verdict(leads))) = (number, &found.data) else { return false };
        if number & 0xFF00_0000 != CLASS_TAG {
            return false;
        }
        if number == EXTERNAL_CLASS {
            return map == CLASSES && *found == external();
        }
        let (kernel::Verdict::Goto(chain) | kernel::Verdict::Jump(chain)) = leads else { return false };
        let Some(target) = target::parse(chain) else { return false };
        let chain = Chain { family, target };
        let is_its = maps(&target).contains(&map) && *leads == verdict(&target);
        is_its
            && self.numbers.insert(chain, number).is_none()
            && self.chains.insert((family, number), chain).is_none()
    }

    /// The numbers of a family's chains that a map leads to.
    pub(super) fn numbers_in(&self, family: Family, map: &str) -> Vec<(Chain, u32)> {
        let leads = |chain: &Chain| chain.family == family && maps(&chain.target).contains(&map);
        self.numbers
            .iter()
            .filter(|(chain, _)| leads(chain))
            .map(|(chain, number)| (*chain, *number))
            .collect()
    }

    /// The chains of a family that have a number.
    pub(super) fn of(&self, family: Family) -> impl Iterator<Item = &Chain> {
        self.numbers.keys().filter(move |chain| chain.family == family)
    }
}

#[cfg(test)]
mod tests {
    use portico_proxy_core::table::{Balance, List, Pick};

    use super::*;

    fn mk_chain(family: Family, endpoints: u32) -> Chain {
        let balance = Balance { endpoints, list: List::Cluster, masquerade: false };
        Chain { family, target: Target::Balance(balance) }
    }

    fn mk_odd(number: u32, chain: &str) -> Element {
        element(number, Some(kernel::Verdict::Goto(chain.to_owned())))
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
        assert_eq!(classes.number(Family::V4, one.target.into()), None);
    }

    #[test]
    fn what_was_written_is_learnt_and_nothing_else() {
        let (mut classes, mut learnt) = (Classes::default(), Classes::default());
        let pick = Pick { endpoints: 2, list: List::Local };
        let pick = Chain { family: Family::V4, target: Target::Pick(pick) };
        for chain in [mk_chain(Family::V4, 1), mk_chain(Family::V4, 2), mk_chain(Family::V6, 2), pick] {
            let element = classes.add(chain);
            assert!(learnt.learn(chain.family, maps(&chain.target)[0], &element), "{chain}");
        }
        assert!(learnt.learn(Family::V4, CLASSES, &external()));
        assert_eq!(learnt, classes);
        for odd in [mk_odd(7, "lb-1"), mk_odd(CLASS_TAG, "lb-1"), mk_odd(CLASS_TAG + 9, "mine")] {
            assert!(!learnt.learn(Family::V4, CLASSES, &odd), "{odd:?}");
        }
        assert!(!learnt.learn(Family::V4, CLASSES, &mk_odd(CLASS_TAG + 9, "lb-1")), "a second number");
        assert!(!learnt.learn(Family::V4, CLASSES, &mk_odd(CLASS_TAG + 9, "pick-3")), "of another map");
        assert!(
            !learnt.learn(Family::V4, PICKERS, &mk_odd(CLASS_TAG + 9, "pick-3")),
            "it would not come back"
        );
        assert!(!learnt.learn(Family::V4, BALANCES, &external()), "it could go round in circles");
    }
}
