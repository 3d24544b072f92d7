//! Balancing chains: the rules of `lb-N` and its relatives, and the way back from a chain's name.
//!
//! Each chain is whole in itself, so that adding or removing one never touches another.

use portico_netlink::nftables::{Chain, DynamicSetOperation, Family, Rule};
use portico_proxy_core::{
    plan::AffinityMap,
    table::{Balance, List},
};

use super::{
    rules::{self, FRONTEND, Part, Words},
    skeleton::{rule, table},
};

/// `ip daddr . meta l4proto . th dport . meta priority`: the key of `affinity-endpoints`.
const ENDPOINT_ID: [Part; 4] = [Part::Destination, Part::Protocol, Part::Port, Part::Priority];
/// `ip saddr . ip daddr . meta l4proto . th dport`: the key of `affinity-<seconds>`.
const CLIENT: [Part; 4] = [Part::Source, Part::Destination, Part::Protocol, Part::Port];

/// The chain itself, without its rules.
pub(super) fn chain(family: Family, balance: &Balance) -> Chain {
    Chain { table: table(family), name: balance.chain(), base: None }
}

/// The chain's rules, in order.
pub(super) fn rules(family: Family, balance: &Balance, masquerade_mark: u32) -> Vec<Rule> {
    let (w, name) = (Words { family }, balance.chain());
    let random = Part::Random { modulus: balance.endpoints, offset: balance.first_slot() };
    let slot = [FRONTEND[0], FRONTEND[1], FRONTEND[2], random];
    let mut all = Vec::new();
    if balance.masquerade {
        all.push(rule(family, &name, &[rules::mark(masquerade_mark)]));
    }
    match balance.affinity {
        None => all.push(rule(family, &name, &[w.dnat_to(&slot, "endpoints")])),
        Some(seconds) => {
            let map = map_name(seconds);
            let remember = |operation, seconds| w.remember(operation, &map, &CLIENT, seconds);
            // A client that is remembered: renew its time, and go to its endpoint if that still exists.
            all.push(rule(
                family,
                &name,
                &[w.priority_from(&CLIENT, &map), remember(DynamicSetOperation::Update, Some(seconds))],
            ));
            all.push(rule(family, &name, &[w.dnat_to(&ENDPOINT_ID, "affinity-endpoints")]));
            // Otherwise pick one and remember it. An update would keep the data of an existing element.
            all.push(rule(family, &name, &[w.priority_from(&slot, "affinity-slots")]));
            all.push(rule(family, &name, &[remember(DynamicSetOperation::Delete, None)]));
            all.push(rule(family, &name, &[remember(DynamicSetOperation::Add, Some(seconds))]));
            all.push(rule(family, &name, &[w.dnat_to(&ENDPOINT_ID, "affinity-endpoints")]));
        }
    }
    all
}

/// Name of the map that remembers clients for `seconds`.
fn map_name(seconds: u32) -> String {
    AffinityMap { family: portico_proxy_core::table::Family::V4, seconds }.name()
}

/// The seconds of an affinity map's name.
pub(super) fn parse_map_name(name: &str) -> Option<u32> {
    let seconds = name.strip_prefix("affinity-")?.parse().ok()?;
    (map_name(seconds) == name).then_some(seconds)
}

/// The balance that a chain's name says, if it is one of ours: [`Balance::chain`] backwards.
pub(super) fn parse(name: &str) -> Option<Balance> {
    let rest = name.strip_prefix("lb-")?;
    let (rest, affinity) = match rest.split_once("-aff-") {
        Some((rest, seconds)) => (rest, Some(seconds.parse().ok()?)),
        None => (rest, None),
    };
    let (rest, masquerade) = rest.strip_suffix("-masq").map_or((rest, false), |rest| (rest, true));
    let (rest, list) = rest.strip_suffix("-local").map_or((rest, List::Cluster), |rest| (rest, List::Local));
    let balance = Balance { endpoints: rest.parse().ok()?, list, masquerade, affinity };
    // Refuses what parses but is written differently, such as a leading zero.
    (balance.chain() == name).then_some(balance)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_chain_name_reads_back_as_its_balance(
            endpoints in 1u32..,
            local in any::<bool>(),
            masquerade in any::<bool>(),
            affinity in proptest::option::of(any::<u32>()),
        ) {
            let list = if local { List::Local } else { List::Cluster };
            let balance = Balance { endpoints, list, masquerade, affinity };
            prop_assert_eq!(parse(&balance.chain()), Some(balance));
        }

        #[test]
        fn a_name_that_reads_as_a_balance_is_its_name(name in "lb-[0-9]{0,3}(-local|-masq|-aff-)*[0-9]{0,3}") {
            if let Some(balance) = parse(&name) {
                prop_assert_eq!(balance.chain(), name);
            }
        }
    }
}
