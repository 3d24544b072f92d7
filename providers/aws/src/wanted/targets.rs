//! The targets of a listener: nodes or pods, no more of them than a load balancer takes.
//!
//! Owns: targets and AWS's limits on them. Leaves to others: who is eligible (the operator), the choice itself
//! (`portico_provider::subset`), what is registered already (`plan/targets`). Invariants: each target counts once for each target group
//! it is in. A tenth of every limit stays free, so that new targets are registered before old ones are deregistered.
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html>

use std::collections::BTreeSet;

use portico_provider::subset::{Candidate, Room, subset};
use portico_provider::{
    Backends, ExternalTrafficPolicy, Field, IpFamily, Listener, LoadBalancer, NodeTarget, Owner, PodTarget,
    Port, Protocol, Targets,
};

use super::Obstacles;
use crate::cloud::resources::{Target, TargetType, Transport};
use crate::options::{self, Choices};
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

/// The part of it that is used.
fn planned(Room { zone, total }: Room) -> Room {
    let most = |limit: usize| (limit - limit / 10).max(1);
    Room { zone: most(zone), total: most(total) }
}

/// The candidates that a Service's targets are chosen from.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    owner: &'a Owner,
    nodes: &'a BTreeSet<NodeTarget>,
    pods: &'a BTreeSet<PodTarget>,
    policy: ExternalTrafficPolicy,
}

impl<'a> From<&'a LoadBalancer> for Offer<'a> {
    fn from(desired: &'a LoadBalancer) -> Self {
        static NO_NODES: BTreeSet<NodeTarget> = BTreeSet::new();
        static NO_PODS: BTreeSet<PodTarget> = BTreeSet::new();
        let (nodes, pods) = match &desired.targets {
            Targets::Nodes(nodes) => (nodes, &NO_PODS),
            Targets::Pods(pods) => (&NO_NODES, pods),
        };
        Self { owner: &desired.owner, nodes, pods, policy: desired.external_traffic_policy }
    }
}

impl<'a> From<&'a Backends> for Offer<'a> {
    fn from(backends: &'a Backends) -> Self {
        let Backends {
            owner,
            listeners: _, // one by one
            nodes,
            pods,
            ip_families: _, // a target group has its own
            external_traffic_policy,
            options: _, // they are in the room
        } = backends;
        Self { owner, nodes, pods, policy: *external_traffic_policy }
    }
}

/// The targets of all these listeners, which are behind one target group of this kind and family: AWS sends each
/// protocol to the same port of a target, so that one whose port only some of them have is none.
pub(super) fn of_listeners(
    offer: Offer<'_>,
    listeners: &[&Listener],
    (kind, family): (TargetType, IpFamily),
    room: Room,
    obstacles: &mut Obstacles,
) -> BTreeSet<Target> {
    let of = |listener: &&Listener| match kind {
        TargetType::Instance => on_nodes(offer.policy, listener, offer.nodes, obstacles),
        TargetType::Ip => {
            let own = offer.pods.iter().filter(|pod| IpFamily::of(pod.address) == family);
            own.filter_map(|pod| on_pod(listener, pod)).collect()
        }
    };
    let mut each = listeners.iter().map(of).collect::<Vec<Vec<Candidate<Target>>>>().into_iter();
    let mut candidates = each.next().unwrap_or_default();
    for others in each {
        let all = candidates.len().max(others.len());
        let others: BTreeSet<Target> = others.into_iter().map(|candidate| candidate.value).collect();
        candidates.retain(|candidate| others.contains(&candidate.value));
        if let Some(listener) = listeners.first().filter(|_| candidates.len() < all) {
            let port = match kind {
                TargetType::Instance => "nodePort",
                TargetType::Ip => "targetPort",
            };
            let message = format!(
                "TCP and UDP on port {} share one target group: give both the same {port}",
                listener.port.get()
            );
            obstacles.push((Field::Listeners, message));
        }
    }
    subset(candidates, offer.owner.service.as_str(), planned(room)).into_iter().collect()
}

/// The targets that the cluster offers to existing target groups, whatever else of the Service is refused.
pub(crate) struct Offered<'a> {
    backends: &'a Backends,
    room: Room,
}

impl<'a> Offered<'a> {
    pub(crate) fn new(quotas: &Quotas, backends: &'a Backends) -> Self {
        let listeners = backends.listeners.iter().filter(|listener| listener.protocol != Protocol::Sctp);
        let ports: BTreeSet<Port> = listeners.map(|listener| listener.port).collect();
        let ports: Vec<Port> = ports.into_iter().collect();
        let choices = options::readable(&backends.options, &ports);
        Self { backends, room: room(quotas, ports.len(), crosses_zones(&choices)) }
    }

    /// The ports that the Service has, each once.
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        self.backends.listeners.iter().map(|listener| listener.port.get()).collect()
    }

    /// The targets of a group behind `port`, and how many it takes; none where the Service has no such port any more.
    pub(crate) fn behind(
        &self,
        (protocol, port): (Transport, u16),
        kind: (TargetType, IpFamily),
    ) -> (BTreeSet<Target>, usize) {
        let is_behind =
            |listener: &&Listener| listener.port.get() == port && protocol.carries(listener.protocol);
        let listeners: Vec<&Listener> = self.backends.listeners.iter().filter(is_behind).collect();
        let unasked = &mut Obstacles::new();
        let targets = of_listeners(self.backends.into(), &listeners, kind, self.room, unasked);
        (targets, self.room.total)
    }
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

/// Whether traffic crosses zones, by attributes of the load balancer or of any group.
pub(super) fn crosses_zones(choices: &Choices) -> bool {
    let own = choices.group_attributes_of.values().chain([&choices.attributes, &choices.group_attributes]);
    let mut on = own.filter_map(|attributes| attributes.get("load_balancing.cross_zone.enabled"));
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
