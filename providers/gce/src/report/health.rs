//! The report of the nodes' health, and of the weights that Google reads.
//!
//! Owns: the words. Leaves to others: asking (`observed`). Invariant: a family of which Google says nothing at all, while
//! it does of the other, is no news: not everything is told everywhere.

use portico_provider::{Fact, IpFamily, Topic, Truth};

use crate::resource::{Endpoint, Health, Seen, Weight};

/// So many nodes without a weight are named.
const NAMED: usize = 3;

/// How many nodes pass, by one family.
struct Count {
    family: IpFamily,
    healthy: usize,
    unknown: usize,
}

/// `fitting`: how many nodes are to be there.
pub(super) fn fact(families: &[IpFamily], nodes: &[(&Endpoint, &Seen)], fitting: usize) -> Fact {
    let all = nodes.len();
    if all == 0 && fitting > 0 {
        let message = format!("{fitting} nodes are not in its groups yet");
        return healthy(Truth::Unknown, "NotRegisteredYet", message);
    }
    if all == 0 {
        let none = "there is no node to send to: nodes need a providerID of gce:// and an IPv4 address";
        return healthy(Truth::False, "NoTargets", none.to_owned());
    }
    let mut counts: Vec<Count> =
        families.iter().map(|family| count(*family, nodes.iter().map(|(_, seen)| *seen))).collect();
    if counts.iter().any(|it| it.unknown < all) {
        counts.retain(|it| it.unknown < all);
    }
    let passing: Vec<String> = counts.iter().map(|it| passing(it, all, families)).collect();
    let message = format!("{} pass their health check{}", passing.join(" and "), weights(nodes));
    let worst = counts.iter().min_by_key(|it| (it.healthy, it.unknown));
    match worst.map(|it| (it.healthy, it.unknown)) {
        Some((0, 0)) => {
            let open = format!("{message}: traffic goes to all of them, as a health check can be wrong too");
            healthy(Truth::False, "AllUnhealthy", open)
        }
        None | Some((0, _)) => healthy(Truth::Unknown, "NotProbedYet", message),
        _ => healthy(Truth::True, "TargetsHealthy", message),
    }
}

fn healthy(holds: Truth, reason: &str, message: String) -> Fact {
    Fact { topic: Topic::TargetsHealthy, holds, reason: reason.to_owned(), message }
}

fn count<'a>(family: IpFamily, nodes: impl Iterator<Item = &'a Seen>) -> Count {
    let mut count = Count { family, healthy: 0, unknown: 0 };
    for Seen { v4, v6, weight: _ } in nodes {
        match if family == IpFamily::IPv4 { v4 } else { v6 } {
            Health::Healthy => count.healthy += 1,
            Health::Unknown => count.unknown += 1,
            Health::Unhealthy => {}
        }
    }
    count
}

/// `2 of 3 nodes`; of a dual-stack Service with the family.
fn passing(Count { family, healthy, unknown: _ }: &Count, all: usize, families: &[IpFamily]) -> String {
    let over = if families.len() > 1 { format!(" over {family}") } else { String::new() };
    format!("{healthy} of {all} nodes{over}")
}

/// The weights that Google reads; empty if they were not read.
fn weights(nodes: &[(&Endpoint, &Seen)]) -> String {
    let nodes = nodes.iter();
    let weighed: Vec<(&str, &Weight)> =
        nodes.filter_map(|(node, seen)| Some((node.instance.as_str(), seen.weight.as_ref()?))).collect();
    let read: Vec<u32> = weighed
        .iter()
        .filter_map(|(_, weight)| match weight {
            Weight::Is(weight) => Some(*weight),
            Weight::Unread(_) => None,
        })
        .collect();
    let unread: Vec<String> = weighed
        .iter()
        .filter_map(|(node, weight)| match weight {
            Weight::Is(_) => None,
            Weight::Unread(why) => Some(format!("{node} ({why})")),
        })
        .collect();
    if weighed.is_empty() {
        return String::new();
    }
    let named = unread.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let but = match unread.len() {
        0 => String::new(),
        count if count > NAMED => format!(", and none of {count}, such as {named}"),
        _ => format!(", and none of {named}"),
    };
    let sum: u64 = read.iter().copied().map(u64::from).sum();
    format!("; Google reads weights of {} nodes, {sum} in all{but}", read.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [IpFamily; 2] = [IpFamily::IPv4, IpFamily::IPv6];

    fn mk_fact(families: &[IpFamily], nodes: &[(Health, Health, Option<Weight>)]) -> Fact {
        let node = |(number, (v4, v6, weight)): (u8, &(Health, Health, Option<Weight>))| {
            let endpoint = Endpoint { instance: format!("node-{number}"), ip: [10, 0, 0, number].into() };
            (endpoint, Seen { v4: *v4, v6: *v6, weight: weight.clone() })
        };
        let nodes: Vec<_> = (0..).zip(nodes).map(node).collect();
        let nodes: Vec<_> = nodes.iter().map(|(node, seen)| (node, seen)).collect();
        fact(families, &nodes, 0)
    }

    #[test]
    fn the_worse_family_counts_and_one_that_nothing_is_said_of_does_not() {
        use Health::{Healthy, Unhealthy, Unknown};
        for (nodes, families, reason, message) in [
            (vec![(Healthy, Unknown)], &BOTH[..1], "TargetsHealthy", "1 of 1 nodes pass"),
            (
                vec![(Healthy, Unhealthy), (Healthy, Unhealthy)],
                &BOTH[..],
                "AllUnhealthy",
                "2 of 2 nodes over IPv4 and 0 of 2 nodes over IPv6 pass",
            ),
            (vec![(Healthy, Unknown)], &BOTH[..], "TargetsHealthy", "1 of 1 nodes over IPv4 pass"),
            (vec![(Unknown, Unhealthy)], &BOTH[1..], "AllUnhealthy", "0 of 1 nodes pass"),
            (vec![(Unknown, Unknown)], &BOTH[..], "NotProbedYet", "0 of 1 nodes over IPv4 and"),
            (vec![], &BOTH[..], "NoTargets", "there is no node"),
        ] {
            let nodes: Vec<_> = nodes.into_iter().map(|(v4, v6)| (v4, v6, None)).collect();
            let fact = mk_fact(families, &nodes);
            assert_eq!(fact.reason, reason, "{}", fact.message);
            assert!(fact.message.starts_with(message), "{}", fact.message);
        }
    }

    #[test]
    fn while_it_is_being_made_nobody_is_warned_of_nodes_that_are_still_to_come() {
        let fact = fact(&BOTH, &[], 3);
        assert_eq!((fact.reason.as_str(), fact.holds), ("NotRegisteredYet", Truth::Unknown));
    }

    #[test]
    fn weights_are_summed_and_those_that_google_cannot_read_are_named() {
        let weights = [Weight::Is(2), Weight::Unread("MISSING_WEIGHT".to_owned()), Weight::Is(0)];
        let nodes = weights.map(|weight| (Health::Healthy, Health::Unknown, Some(weight)));
        let message = mk_fact(&BOTH[..1], &nodes).message;
        let reported = "; Google reads weights of 2 nodes, 2 in all, and none of node-1 (MISSING_WEIGHT)";
        assert!(message.ends_with(reported), "{message}");
    }
}
