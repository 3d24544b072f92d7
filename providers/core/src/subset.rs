//! Which of many candidates stand behind a load balancer that takes fewer of them.
//!
//! Owns: the choice. Leaves to others: who is a candidate (the operator), how many a load balancer takes (its
//! provider). Invariants: stable, as each candidate's rank is its own (rendezvous hashing): one that joins or leaves
//! changes the choice by itself and at most one other. Zones are served alike. It is equal in every process.

use std::collections::BTreeMap;

/// One that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<T> {
    /// Its zone; candidates without one count as one zone.
    pub zone: String,
    /// Its unique name, which decides its rank.
    pub id: String,
    /// Chosen before any of its zone that is not.
    pub preferred: bool,
    /// The chosen value.
    pub value: T,
}

/// How many are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of each zone, at most.
    pub zone: usize,
    /// In all, at most.
    pub total: usize,
}

/// The chosen ones. `salt` spreads the choices of different load balancers: a Service's UID.
pub fn subset<T>(
    candidates: impl IntoIterator<Item = Candidate<T>>,
    salt: &str,
    Room { zone: a_zone, total }: Room,
) -> Vec<T> {
    let mut zones: BTreeMap<String, BTreeMap<(bool, u64, String), T>> = BTreeMap::new();
    for Candidate { zone, id, preferred, value } in candidates {
        zones.entry(zone).or_default().insert((!preferred, rank(salt, &id), id), value);
    }
    let mut queues: Vec<_> = zones.into_values().map(|ranked| ranked.into_values().take(a_zone)).collect();
    let mut chosen = Vec::new();
    // Round by round one of each zone, until there is no room or nobody.
    loop {
        let before = chosen.len();
        for queue in &mut queues {
            if chosen.len() == total {
                return chosen;
            }
            chosen.extend(queue.next());
        }
        if chosen.len() == before {
            return chosen;
        }
    }
}

/// FNV-1a, 64 bits, and `SplitMix64`'s finish, so that names that differ in their end only differ in all bits.
fn rank(salt: &str, id: &str) -> u64 {
    let bytes = salt.bytes().chain([0]).chain(id.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn chosen(numbers: &BTreeSet<u16>, room: Room) -> BTreeSet<u16> {
        let candidates = numbers.iter().map(|number| Candidate {
            zone: format!("zone-{}", number % 3),
            id: format!("i-{number}"),
            preferred: number.is_multiple_of(7),
            value: *number,
        });
        subset(candidates, "uid", room).into_iter().collect()
    }

    proptest! {
        #[test]
        fn one_that_leaves_or_joins_moves_one_other_at_most(
            all in proptest::collection::btree_set(0u16..400, 1..150),
            pick in any::<prop::sample::Index>(),
            zone in 1usize..40,
            total in 1usize..60,
        ) {
            let room = Room { zone, total };
            let gone = *all.iter().nth(pick.index(all.len())).unwrap();
            let rest = all.iter().copied().filter(|number| *number != gone).collect();
            let (before, after) = (chosen(&all, room), chosen(&rest, room));
            prop_assert!(after.difference(&before).count() <= 2, "{:?}", after.difference(&before));
            prop_assert!(before.difference(&after).count() <= 2, "{:?}", before.difference(&after));
        }

        #[test]
        fn zones_are_served_alike_and_no_limit_is_passed(
            all in proptest::collection::btree_set(0u16..400, 1..150), zone in 1usize..40, total in 1usize..60,
        ) {
            let chosen = chosen(&all, Room { zone, total });
            let of = |set: &BTreeSet<u16>, n: u16| set.iter().filter(|number| **number % 3 == n).count();
            prop_assert!(chosen.len() <= total);
            let room: usize = (0..3).map(|n| of(&all, n).min(zone)).sum();
            prop_assert_eq!(chosen.len(), room.min(total));
            let most = (0..3).map(|n| of(&chosen, n)).max().unwrap();
            prop_assert!(most <= zone);
            for n in 0..3 {
                prop_assert!(of(&chosen, n) + 1 >= most.min(of(&all, n)), "zone {n}: {chosen:?}");
            }
        }
    }

    #[test]
    fn preferred_ones_come_first_and_different_services_choose_differently() {
        let all: BTreeSet<u16> = (0..300).collect();
        let room = Room { zone: 100, total: 30 };
        assert!(chosen(&all, room).iter().all(|number| number.is_multiple_of(7)));
        let of = |salt: &str| -> BTreeSet<u16> {
            let candidates = all.iter().map(|number| Candidate {
                zone: String::new(),
                id: format!("i-{number}"),
                preferred: false,
                value: *number,
            });
            subset(candidates, salt, room).into_iter().collect()
        };
        assert_ne!(of("one"), of("two"));
    }
}
