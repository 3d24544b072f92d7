//! The slot of each endpoint of a list, and its session-affinity id.
//!
//! Owns stability: an endpoint keeps its slot while the list is long enough. A removal moves the last endpoint
//! into the hole, and a replacement takes the slot of its predecessor. Ids depend on the set of endpoints
//! alone, so they survive restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::table::{AFFINITY_TAG, Backend};

/// Bits of an affinity id below its tag.
const ID_BITS: u32 = 0x00FF_FFFF;

/// Places `wanted` (sorted, distinct) so that as many endpoints as possible keep the slots of `before`.
pub(crate) fn place(before: &[Backend], wanted: &[Backend]) -> Vec<Backend> {
    let mut homeless: BTreeSet<Backend> = wanted.iter().copied().collect();
    let mut slots: Vec<Option<Backend>> = (0..wanted.len())
        .map(|slot| before.get(slot).copied().filter(|backend| homeless.remove(backend)))
        .collect();
    // Those that had a slot beyond the new end fill holes first; the newcomers take what is left.
    let displaced: Vec<_> =
        before.iter().skip(wanted.len()).copied().filter(|backend| homeless.remove(backend)).collect();
    let mut next = displaced.into_iter().chain(homeless);
    for slot in &mut slots {
        if slot.is_none() {
            *slot = next.next();
        }
    }
    slots.into_iter().flatten().collect()
}

/// Gives each endpoint of a frontend its id: a hash of address and port, counted up where two collide.
pub(crate) fn ids(backends: &BTreeSet<Backend>) -> BTreeMap<Backend, u32> {
    let mut taken = BTreeSet::new();
    backends
        .iter()
        .map(|backend| {
            let mut id = hash(backend) & ID_BITS;
            while !taken.insert(id) {
                id = (id + 1) & ID_BITS;
            }
            (*backend, AFFINITY_TAG | id)
        })
        .collect()
}

/// FNV-1a: the standard library's hashers promise no stability between releases, and ids must outlive a restart.
fn hash(backend: &Backend) -> u32 {
    let Backend { address, port } = backend;
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let seed = 0x811C_9DC5;
    let hash = match address {
        IpAddr::V4(v4) => v4.octets().iter().fold(seed, step),
        IpAddr::V6(v6) => v6.octets().iter().fold(seed, step),
    };
    let hash = port.to_be_bytes().iter().fold(hash, step);
    hash ^ (hash >> 24)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn mk(last: u8) -> Backend {
        Backend { address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, last)), port: 80 }
    }

    fn mk_all(list: &[u8]) -> Vec<Backend> {
        list.iter().map(|n| mk(*n)).collect()
    }

    #[test]
    fn a_removal_moves_the_last_into_the_hole() {
        assert_eq!(place(&mk_all(&[1, 2, 3, 4]), &mk_all(&[1, 3, 4])), mk_all(&[1, 4, 3]));
    }

    #[test]
    fn a_replacement_takes_the_place_of_what_it_replaces() {
        assert_eq!(place(&mk_all(&[1, 2, 3]), &mk_all(&[1, 3, 9])), mk_all(&[1, 9, 3]));
    }

    #[test]
    fn an_addition_goes_to_the_end() {
        assert_eq!(place(&mk_all(&[2, 3]), &mk_all(&[1, 2, 3])), mk_all(&[2, 3, 1]));
    }

    #[test]
    fn ids_that_collide_are_still_distinct() {
        // 2^24 ids and enough endpoints that some hashes are bound to meet.
        let mk = |n: u16, port| {
            let [a, b] = n.to_be_bytes();
            Backend { address: IpAddr::V4(Ipv4Addr::new(10, b, a, b)), port }
        };
        let many: BTreeSet<_> =
            (0..300).flat_map(|n| (8000..8300).map(move |port| (n, port))).map(|(n, p)| mk(n, p)).collect();
        let hashes: BTreeSet<_> = many.iter().map(|b| hash(b) & ID_BITS).collect();
        assert!(hashes.len() < many.len(), "the test needs a collision");
        let distinct: BTreeSet<_> = ids(&many).into_values().collect();
        assert_eq!(distinct.len(), many.len());
        assert!(distinct.iter().all(|id| id & !ID_BITS == AFFINITY_TAG));
    }

    proptest! {
        #[test]
        fn placing_keeps_the_set_and_moves_no_more_than_it_must(
            before in proptest::sample::subsequence((0u8..12).collect::<Vec<_>>(), 0..12).prop_shuffle(),
            wanted in proptest::sample::subsequence((0u8..12).collect::<Vec<_>>(), 0..12),
        ) {
            let (before, wanted) = (mk_all(&before), mk_all(&wanted));
            let placed = place(&before, &wanted);
            prop_assert_eq!(placed.iter().collect::<BTreeSet<_>>(), wanted.iter().collect::<BTreeSet<_>>());
            prop_assert_eq!(placed.len(), wanted.len());
            for (slot, backend) in before.iter().take(wanted.len()).enumerate() {
                if wanted.contains(backend) {
                    prop_assert_eq!(placed[slot], *backend);
                }
            }
        }
    }
}
