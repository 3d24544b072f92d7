//! The chains beside the skeleton: the rules of `lb-N`, `aff-T-…` and `pick-N`, and the parser of their names.
//!
//! Each chain is complete in itself, so that adding or removing one never changes another.

use portico_netlink::nftables::{Chain, DynamicSetOperation, Expression, Family, Rule};
use portico_proxy_core::{
    plan::AffinityMap,
    table::{Balance, List, Pick, Recall, Target},
};

use super::{
    kernel_family,
    names::{PICKERS, table},
    rules::{self, FRONTEND, Part, Words, rule},
};

/// `ip daddr . meta l4proto`: the key of a Service port, once its alias has replaced the frontend's address.
/// The protocol adds nothing, but nft accepts a `dnat` to a port only after one.
const ALIAS: [Part; 2] = [Part::Destination, Part::Protocol];
/// `ip saddr . ip daddr`: the key of `affinity-<seconds>-<pool>`.
const CLIENT: [Part; 2] = [Part::Source, Part::Destination];

/// The chain itself, without its rules.
pub(super) fn chain(family: Family, target: &Target) -> Chain {
    Chain { table: table(family), name: target.chain(), base: None }
}

/// The chain's rules, in order.
pub(super) fn rules(family: Family, target: &Target, masquerade_mark: u32) -> Vec<Rule> {
    let w = Words { family };
    let all = match *target {
        Target::Balance(balance) => balance_rules(w, balance, masquerade_mark),
        Target::Recall(recall) => recall_rules(w, recall, masquerade_mark),
        Target::Pick(Pick { endpoints, list }) => {
            vec![w.priority_from(&slot(&ALIAS, endpoints, list), "affinity-slots")]
        }
    };
    let name = target.chain();
    all.into_iter().map(|words| rule(family, &name, &[words])).collect()
}

/// The key of a random slot.
fn slot(of: &[Part], endpoints: u32, list: List) -> Vec<Part> {
    [of, &[Part::Random { modulus: endpoints, offset: list.first_slot() }]].concat()
}

fn balance_rules(w: Words, balance: Balance, masquerade_mark: u32) -> Vec<Vec<Expression>> {
    let Balance { endpoints, list, masquerade } = balance;
    let mark = masquerade.then(|| rules::mark(masquerade_mark));
    mark.into_iter().chain([w.dnat_to(&slot(&FRONTEND, endpoints, list), "endpoints")]).collect()
}

fn recall_rules(w: Words, recall: Recall, masquerade_mark: u32) -> Vec<Vec<Expression>> {
    let Recall { seconds, pool, list, masquerade } = recall;
    let (endpoints, picks) = match list {
        List::Cluster => ("affinity-endpoints", "affinity-picks"),
        List::Local => ("affinity-endpoints-local", "affinity-picks-local"),
    };
    let map = AffinityMap { family: portico_proxy_core::table::Family::V4, seconds, pool }.name();
    let change = |operation, seconds| w.change_map(operation, &map, &CLIENT, seconds);
    let to_endpoint = || w.dnat_to(&[ALIAS[0], ALIAS[1], Part::Priority], endpoints);
    let pick = [w.priority_from(&ALIAS, picks), w.verdict_of(&[Part::Priority], PICKERS)].concat();
    let mut all = Vec::new();
    if masquerade {
        all.push(rules::mark(masquerade_mark));
    }
    // From here on all addresses of the Service port are one. Nothing leaves with it: the last rule but one replaces it, or the last
    // one drops the packet.
    all.push(w.destination_from(&FRONTEND, "affinity-ports"));
    // A client with an entry: renew its timeout, and take its endpoint if the list still has it.
    let renew = change(DynamicSetOperation::Update, Some(seconds));
    all.push([w.priority_from(&CLIENT, &map), renew].concat());
    all.push(to_endpoint());
    // Otherwise pick one and add an entry. An update would keep the data of an existing element.
    all.push(pick);
    all.push(change(DynamicSetOperation::Delete, None));
    all.push(change(DynamicSetOperation::Add, Some(seconds)));
    all.push(to_endpoint());
    all.push(rules::drop_packet());
    all
}

/// Parses the name of an affinity map.
pub(super) fn parse_map_name(family: Family, name: &str) -> Option<AffinityMap> {
    let (seconds, pool) = parse_affinity(name.strip_prefix("affinity-")?)?;
    let family = [portico_proxy_core::table::Family::V4, portico_proxy_core::table::Family::V6]
        .into_iter()
        .find(|known| kernel_family(*known) == family)?;
    let map = AffinityMap { family, seconds, pool };
    (map.name() == name).then_some(map)
}

/// Parses `<seconds>-<pool>`.
fn parse_affinity(text: &str) -> Option<(u32, u32)> {
    let (seconds, pool) = text.split_once('-')?;
    Some((seconds.parse().ok()?, u32::from_str_radix(pool, 16).ok()?))
}

/// Parses the name of a chain, the inverse of [`Target::chain`]. `None`: it is none of ours.
pub(super) fn parse(name: &str) -> Option<Target> {
    let (rest, masquerade) = name.strip_suffix("-masq").map_or((name, false), |rest| (rest, true));
    let (rest, list) = rest.strip_suffix("-local").map_or((rest, List::Cluster), |rest| (rest, List::Local));
    let target = match rest.split_once('-')? {
        ("lb", endpoints) => {
            Target::Balance(Balance { endpoints: endpoints.parse().ok()?, list, masquerade })
        }
        ("aff", affinity) => {
            let (seconds, pool) = parse_affinity(affinity)?;
            Target::Recall(Recall { seconds, pool, list, masquerade })
        }
        ("pick", endpoints) => Target::Pick(Pick { endpoints: endpoints.parse().ok()?, list }),
        _ => return None,
    };
    // Refuses what parses but is written differently, such as a leading zero.
    (target.chain() == name).then_some(target)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mk_target() -> impl Strategy<Value = Target> {
        let numbers = (1u32.., any::<u32>(), any::<bool>(), any::<bool>(), 0..3);
        numbers.prop_map(|(number, pool, local, masquerade, kind)| {
            let list = if local { List::Local } else { List::Cluster };
            match kind {
                0 => Target::Balance(Balance { endpoints: number, list, masquerade }),
                1 => Target::Recall(Recall { seconds: number, pool, list, masquerade }),
                _ => Target::Pick(Pick { endpoints: number, list }),
            }
        })
    }

    proptest! {
        #[test]
        fn every_chain_name_reads_back_as_what_it_is_of(target in mk_target()) {
            prop_assert_eq!(parse(&target.chain()), Some(target));
        }

        #[test]
        fn a_name_that_reads_is_the_name_of_what_it_says(
            name in "(lb|aff|pick)-[0-9]{0,3}(-[0-9a-f]{7,8})?(-local|-masq){0,2}[0-9]{0,3}",
        ) {
            if let Some(target) = parse(&name) {
                prop_assert_eq!(target.chain(), name);
            }
        }

        #[test]
        fn every_map_name_reads_back(seconds in any::<u32>(), pool in any::<u32>()) {
            let map = AffinityMap { family: portico_proxy_core::table::Family::V6, seconds, pool };
            prop_assert_eq!(parse_map_name(Family::Ip6, &map.name()), Some(map));
            prop_assert_eq!(parse_map_name(Family::Ip6, &format!("affinity-{seconds}")), None);
        }
    }
}
