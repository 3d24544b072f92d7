//! Which nodes stand behind a load balancer, where there are more than it takes.
//!
//! Owns: the choice and GKE's numbers. Leaves to others: which nodes are eligible (the operator).
//! Invariant: stable. A node that joins or leaves changes the choice by at most itself and one other of its zone,
//! and zones are served alike. Source of the numbers: ingress-gce `pkg/neg/syncers/subsets.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portico_provider::{ExternalTrafficPolicy, NodeTarget, Scheme, ServiceUid};

use crate::names::fnv;
use crate::resource::{Endpoint, NO_ADDRESS};

/// Endpoints by zone.
pub(crate) type Zones = BTreeMap<String, BTreeSet<Endpoint>>;

/// So many nodes at most: 25 and 250 (internal), 250 and 3000 (external), by policy Cluster and Local.
fn limit(scheme: Scheme, policy: ExternalTrafficPolicy) -> usize {
    match (scheme, policy) {
        (Scheme::Internal, ExternalTrafficPolicy::Cluster) => 25,
        (Scheme::Internal, ExternalTrafficPolicy::Local)
        | (Scheme::External, ExternalTrafficPolicy::Cluster) => 250,
        (Scheme::External, ExternalTrafficPolicy::Local) => 3000,
    }
}

/// The instance of a node: `gce://project/zone/name`, and its first IPv4 address; none of another region, which one
/// region's backend service cannot have.
fn instance(node: &NodeTarget, region: &str) -> Option<(String, Endpoint)> {
    anywhere(node).filter(|(zone, _)| is_in(zone, region))
}

/// Instances that stand in other regions, with their zones.
pub(crate) fn elsewhere(nodes: &BTreeSet<NodeTarget>, region: &str) -> Vec<(String, Endpoint)> {
    nodes.iter().filter_map(anywhere).filter(|(zone, _)| !is_in(zone, region)).collect()
}

fn is_in(zone: &str, region: &str) -> bool {
    zone.rsplit_once('-').is_some_and(|(own, _letter)| own == region)
}

fn anywhere(node: &NodeTarget) -> Option<(String, Endpoint)> {
    let (_project, rest) = node.provider_id.as_deref()?.strip_prefix("gce://")?.split_once('/')?;
    let (zone, name) = rest.split_once('/')?;
    let ip = *node.addresses.iter().find(|address| matches!(address, IpAddr::V4(_)))?;
    Some((zone.to_owned(), Endpoint { instance: name.to_owned(), ip }))
}

/// So many nodes at most in an instance group: a limit of load balancing, which GKE keeps, too.
const GROUP_LIMIT: usize = 1000;

/// All nodes, for the instance groups that Services share: the same for every Service.
pub(crate) fn all(nodes: &BTreeSet<NodeTarget>, region: &str) -> Zones {
    let mut zones = Zones::new();
    for (zone, endpoint) in nodes.iter().filter_map(|node| instance(node, region)) {
        zones.entry(zone).or_default().insert(Endpoint { ip: NO_ADDRESS, ..endpoint });
    }
    for nodes in zones.values_mut().filter(|nodes| nodes.len() > GROUP_LIMIT) {
        let rank = |node: &Endpoint| (fnv(&[&node.instance]), node.instance.clone());
        let mut ranked: Vec<Endpoint> = nodes.iter().cloned().collect();
        ranked.sort_by_key(rank);
        ranked.truncate(GROUP_LIMIT);
        *nodes = ranked.into_iter().collect();
    }
    zones
}

/// The chosen nodes. Under `Local`, those with endpoints come first, where not all find room.
pub(crate) fn choose(
    nodes: &BTreeSet<NodeTarget>,
    region: &str,
    service: &ServiceUid,
    scheme: Scheme,
    policy: ExternalTrafficPolicy,
) -> Zones {
    let mut ranked: BTreeMap<String, BTreeMap<(bool, u64, String), Endpoint>> = BTreeMap::new();
    for node in nodes {
        if let Some((zone, endpoint)) = instance(node, region) {
            let later = policy == ExternalTrafficPolicy::Local && !node.has_ready_endpoints;
            let rank = fnv(&[service.as_str(), &endpoint.instance]);
            ranked.entry(zone).or_default().insert((later, rank, endpoint.instance.clone()), endpoint);
        }
    }
    let mut queues: Vec<_> = ranked.into_iter().map(|(zone, nodes)| (zone, nodes.into_values())).collect();
    let mut chosen = Zones::new();
    let mut room = limit(scheme, policy);
    // Round by round one node of each zone, until there is no room or no node.
    while room > 0 {
        let before = room;
        for (zone, queue) in &mut queues {
            if let (true, Some(endpoint)) = (room > 0, queue.next()) {
                chosen.entry(zone.clone()).or_default().insert(endpoint);
                room -= 1;
            }
        }
        if room == before {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use portico_provider::NodeName;
    use proptest::prelude::*;

    use super::*;

    fn mk_node(number: u16) -> NodeTarget {
        NodeTarget {
            name: NodeName(format!("node-{number}")),
            addresses: BTreeSet::from(
                [std::net::Ipv4Addr::from_bits(0x0a80_0000 | u32::from(number)).into()],
            ),
            external_addresses: BTreeSet::new(),
            provider_id: Some(format!("gce://p/zone-{}/node-{number}", number % 3)),
            zone: None,
            has_ready_endpoints: number.is_multiple_of(7),
        }
    }

    fn chosen(nodes: &BTreeSet<u16>, policy: ExternalTrafficPolicy) -> BTreeSet<Endpoint> {
        let nodes = nodes.iter().map(|number| mk_node(*number)).collect();
        let uid = "uid".parse().unwrap();
        choose(&nodes, "zone", &uid, Scheme::Internal, policy).into_values().flatten().collect()
    }

    proptest! {
        #[test]
        fn a_node_that_leaves_moves_one_other_at_most(
            nodes in proptest::collection::btree_set(0u16..300, 1..120), pick in any::<prop::sample::Index>(),
        ) {
            let gone = *nodes.iter().nth(pick.index(nodes.len())).unwrap();
            let before = chosen(&nodes, ExternalTrafficPolicy::Cluster);
            let rest = nodes.iter().copied().filter(|number| *number != gone).collect();
            let after = chosen(&rest, ExternalTrafficPolicy::Cluster);
            prop_assert!(before.len() == nodes.len().min(25));
            prop_assert!(after.difference(&before).count() <= 2, "{:?}", after.difference(&before));
            prop_assert!(before.difference(&after).count() <= 2);
        }
    }

    #[test]
    fn under_local_a_node_with_endpoints_is_chosen_before_one_without() {
        let all: BTreeSet<u16> = (0..1000).collect();
        let chosen = chosen(&all, ExternalTrafficPolicy::Local);
        assert_eq!(chosen.len(), 250);
        let ready = all.iter().filter(|number| number.is_multiple_of(7));
        for number in ready {
            let name = format!("node-{number}");
            assert!(chosen.iter().any(|endpoint| endpoint.instance == name), "{name}");
        }
    }

    #[test]
    fn an_instance_group_has_every_node_of_its_zone_up_to_a_thousand_and_the_same_for_all() {
        let nodes = |count: u16| (0..count).map(mk_node).collect();
        let few = all(&nodes(30), "zone");
        assert_eq!(few.values().map(BTreeSet::len).collect::<Vec<_>>(), [10, 10, 10]);
        assert!(few.values().flatten().all(|node| node.ip == NO_ADDRESS));
        let many = all(&nodes(3300), "zone");
        assert_eq!(many.values().map(BTreeSet::len).collect::<Vec<_>>(), [1000, 1000, 1000]);
        let more = all(&nodes(3303), "zone");
        for (zone, nodes) in &many {
            assert!(nodes.difference(&more[zone]).count() <= 1, "who is in stays in");
        }
    }

    #[test]
    fn a_node_that_is_no_instance_of_this_cloud_is_left_out() {
        let mut node = mk_node(1);
        node.provider_id = Some("aws:///zone/i-1".to_owned());
        let uid = "uid".parse().unwrap();
        let nodes = BTreeSet::from([node]);
        let zones = choose(&nodes, "zone", &uid, Scheme::External, ExternalTrafficPolicy::Cluster);
        assert!(zones.is_empty() && elsewhere(&nodes, "zone").is_empty());
    }

    #[test]
    fn a_node_of_another_region_is_left_out_by_name() {
        let mut far = mk_node(1);
        far.provider_id = Some("gce://p/zone-far-a/node-1".to_owned());
        let nodes = BTreeSet::from([far, mk_node(2)]);
        let uid = "uid".parse().unwrap();
        let zones = choose(&nodes, "zone", &uid, Scheme::External, ExternalTrafficPolicy::Cluster);
        assert_eq!(zones.keys().collect::<Vec<_>>(), ["zone-2"]);
        let far = elsewhere(&nodes, "zone");
        assert_eq!(far.iter().map(|(_, node)| node.instance.as_str()).collect::<Vec<_>>(), ["node-1"]);
    }
}
