//! Who stands behind a listener: nodes or pods, no more of them than a load balancer takes.
//!
//! Owns: targets and AWS's limits on them. Leaves to others: who is eligible (the operator), the choice itself
//! (`portico_provider::subset`). Invariants: each target counts once for each target group it is in; a tenth of every
//! limit stays free, so that new targets can be registered before old ones go.
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html>

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::subset::{Candidate, Room, subset};
use portico_provider::{
    ExternalTrafficPolicy, Field, IpFamily, Listener, LoadBalancer, NodeTarget, PodTarget, Targets,
};

use super::Obstacles;
use crate::cloud::resources::Target;
use crate::quotas::Quotas;

/// An AWS instance in a Node's `spec.providerID`: `aws:///eu-west-1a/i-0123`.
const PROVIDER_ID: &str = "aws://";

/// How many targets each group of a load balancer with so many groups takes: hard limits.
pub(super) fn room(quotas: &Quotas, groups: usize, cross_zone: bool) -> Room {
    let groups = groups.max(1);
    let zone = (quotas.zone_targets / groups).max(1);
    let total = (quotas.targets / groups).clamp(1, quotas.group_targets.max(1));
    Room { zone, total: if cross_zone { zone } else { total } }
}

/// What of it is used.
fn planned(Room { zone, total }: Room) -> Room {
    let most = |limit: usize| (limit - limit / 10).max(1);
    Room { zone: most(zone), total: most(total) }
}

/// The targets of one listener.
pub(super) fn of_listener(
    desired: &LoadBalancer,
    listener: &Listener,
    family: IpFamily,
    room: Room,
    obstacles: &mut Obstacles,
) -> BTreeSet<Target> {
    let salt = desired.owner.service.as_str();
    let chosen = match &desired.targets {
        Targets::Nodes(nodes) => {
            let candidates = on_nodes(desired.external_traffic_policy, listener, nodes, obstacles);
            subset(candidates, salt, planned(room))
        }
        Targets::Pods(pods) => {
            let own = pods.iter().filter(|pod| IpFamily::of(pod.address) == family);
            let candidates: Vec<_> = own.filter_map(|pod| on_pod(listener, pod)).collect();
            subset(candidates, salt, planned(room))
        }
    };
    chosen.into_iter().collect()
}

fn on_pod(listener: &Listener, pod: &PodTarget) -> Option<Candidate<Target>> {
    let PodTarget { address, ports, node: _, zone } = pod;
    Some(Candidate {
        zone: zone.clone().unwrap_or_default(),
        id: address.to_string(),
        preferred: false,
        value: Target::at(*address, ports.get(&listener.key())?.get()),
    })
}

/// A node without an AWS instance (another cloud's, or a test's) is no target.
fn on_nodes(
    policy: ExternalTrafficPolicy,
    listener: &Listener,
    nodes: &BTreeSet<NodeTarget>,
    obstacles: &mut Obstacles,
) -> Vec<Candidate<Target>> {
    let Some(port) = listener.node_port else {
        let key = listener.key();
        let message = format!(
            "{key} has no node port to send to: set allocateLoadBalancerNodePorts to true, or portico.dev/target-kind \
             to pod"
        );
        obstacles.push((Field::Listeners, message));
        return Vec::new();
    };
    let candidates = nodes.iter().filter_map(|node| {
        let rest = node.provider_id.as_deref()?.strip_prefix(PROVIDER_ID)?;
        let (before, id) = rest.rsplit_once('/')?;
        let zone = before.rsplit('/').next().filter(|zone| !zone.is_empty()).map(str::to_owned);
        id.starts_with("i-").then(|| Candidate {
            zone: zone.or_else(|| node.zone.clone()).unwrap_or_default(),
            id: id.to_owned(),
            // Others would fail their health check, and hold places that could serve.
            preferred: policy == ExternalTrafficPolicy::Local && node.has_ready_endpoints,
            value: Target { id: id.to_owned(), port: port.get() },
        })
    });
    candidates.collect()
}

/// Whether traffic crosses zones, by these attributes of the load balancer or of any group.
pub(super) fn crosses_zones<'a>(attributes: impl Iterator<Item = &'a BTreeMap<String, String>>) -> bool {
    let mut on = attributes.filter_map(|attributes| attributes.get("load_balancing.cross_zone.enabled"));
    on.any(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_each_limit_stays_free_and_listeners_share_it() {
        let quotas = Quotas::default();
        let room = |groups, cross_zone| super::room(&quotas, groups, cross_zone);
        assert_eq!(planned(room(1, true)), Room { zone: 450, total: 450 });
        assert_eq!(planned(room(1, false)), Room { zone: 450, total: 900 });
        assert_eq!(planned(room(5, true)), Room { zone: 90, total: 90 });
        assert_eq!(planned(room(50, false)), Room { zone: 9, total: 54 });
        assert_eq!(planned(room(5_000, true)), Room { zone: 1, total: 1 });
        let raised = Quotas { zone_targets: 1_000, ..quotas };
        assert_eq!(planned(super::room(&raised, 1, true)), Room { zone: 900, total: 900 });
    }
}
