//! The endpoints of a Service port that this node may use, by the rules of kube-proxy (`CategorizeEndpoints`,
//! `topologyModeFromHints` and the endpoint slice cache of Kubernetes 1.36).
//!
//! Owns readiness, the fallback to terminating endpoints, topology hints and the `Local` lists. Leaves to
//! `compile` the answer for an empty list.
//!
//! Invariant: lists are sorted and without duplicates, so they do not depend on the order of slices.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    input::{Config, Endpoint, EndpointSlice, NodeInfo, Service, ServicePort, TrafficPolicy},
    table::{Backend, Family, Protocol},
};

/// Endpoints of one Service port and family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    /// For clients under policy `Cluster`; empty when no client of the port is.
    pub(crate) cluster: Vec<Backend>,
    /// For clients under policy `Local`; empty when no client of the port is.
    pub(crate) local: Vec<Backend>,
    /// Whether any node has an endpoint that could serve. An empty `local` then means drop, otherwise reject.
    pub(crate) any: bool,
    /// Members of either list that run on this node.
    pub(crate) here: BTreeSet<Backend>,
}

/// The ports of a Service's slices by name, for Services with many ports.
pub(crate) struct Ports<'a>(HashMap<&'a str, Vec<(Protocol, &'a EndpointSlice, u16)>>);

impl<'a> Ports<'a> {
    pub(crate) fn new(slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let mut ports = HashMap::<_, Vec<_>>::new();
        for slice in slices {
            for port in &slice.ports {
                ports.entry(&*port.name).or_default().push((port.protocol, slice, port.port));
            }
        }
        Self(ports)
    }

    /// Slices that have a Service's port, with its number there.
    fn of(&self, port: &ServicePort) -> impl Iterator<Item = (&'a EndpointSlice, u16)> {
        let named = self.0.get(&*port.name).map_or(&[][..], Vec::as_slice);
        let its = named.iter().filter(|(protocol, ..)| *protocol == port.protocol);
        its.map(|(_, slice, number)| (*slice, *number))
    }
}

/// Standing of one endpoint under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It is ready and gets new connections.
    Ready,
    /// It terminates, but still serves, and no endpoint is ready: it gets new connections.
    Fallback,
    /// It is not ready.
    NotReady,
    /// It terminates, and others are ready.
    Terminating,
    /// The policy is `Local`, and it is on another node.
    OtherNode,
    /// Hints name other nodes for it (`trafficDistribution: PreferSameNode`).
    HintedToOtherNode,
    /// Hints name other zones for it (topology-aware routing, `trafficDistribution: PreferSameZone`).
    HintedToOtherZone,
}

/// One endpoint of a port, used or not.
#[derive(Clone, Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) backend: Backend,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) here: bool,
    /// Under policy `Cluster`.
    pub(crate) cluster: Standing,
    /// Under policy `Local`.
    pub(crate) local: Standing,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    here: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

/// Whether an address other than the `ClusterIP` leads to the port.
pub(crate) fn is_external(service: &Service, port: &ServicePort, family: Family, config: &Config) -> bool {
    let of = |addresses: &[std::net::IpAddr]| addresses.iter().any(|a| Family::of(*a) == family);
    port.node_port.is_some()
        || of(&service.load_balancer_vips)
        || (config.external_ips && of(&service.external_ips))
}

/// Chooses the endpoints of one port for clients that reach this node.
pub(crate) fn select<'a>(
    service: &Service,
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &NodeInfo,
    config: &Config,
) -> Lists {
    select_of(service, port, family, &Ports::new(slices), node, config)
}

/// The same for one of many ports.
pub(crate) fn select_of(
    service: &Service,
    port: &ServicePort,
    family: Family,
    ports: &Ports<'_>,
    node: &NodeInfo,
    config: &Config,
) -> Lists {
    let candidates = candidates(port, family, ports, node);
    let external = is_external(service, port, family, config);
    let uses_cluster = service.internal_policy == TrafficPolicy::Cluster || external;
    let uses_local = service.internal_policy == TrafficPolicy::Local
        || (service.external_policy == TrafficPolicy::Local && external);
    let mut lists = Lists::default();
    if uses_cluster {
        lists.cluster = cluster_list(&candidates, node);
        lists.any = !lists.cluster.is_empty();
    }
    if uses_local {
        lists.any |= candidates.values().any(|c| c.endpoint.ready || is_fallback(c));
        lists.local = ready_or_fallback(&candidates, |c| c.here);
    }
    lists.here = lists
        .cluster
        .iter()
        .chain(&lists.local)
        .copied()
        .filter(|backend| candidates.get(backend).is_some_and(|c| c.here))
        .collect();
    lists
}

/// Every endpoint of one port, with its standing under either policy: the reasons behind [`select`].
pub(crate) fn listed<'a>(
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &NodeInfo,
) -> Vec<Listed<'a>> {
    let candidates = candidates(port, family, &Ports::new(slices), node);
    let topology = topology(&candidates, node);
    let cluster = cluster_list(&candidates, node);
    let local = ready_or_fallback(&candidates, |c| c.here);
    let standing = |backend: &Backend, candidate: &Candidate<'_>, list: &[Backend], policy| {
        standing(candidate, list.contains(backend), policy, topology)
    };
    let list = |(backend, candidate): (&Backend, &Candidate<'a>)| Listed {
        backend: *backend,
        endpoint: candidate.endpoint,
        here: candidate.here,
        cluster: standing(backend, candidate, &cluster, TrafficPolicy::Cluster),
        local: standing(backend, candidate, &local, TrafficPolicy::Local),
    };
    candidates.iter().map(list).collect()
}

fn standing(candidate: &Candidate<'_>, used: bool, policy: TrafficPolicy, topology: Topology) -> Standing {
    match (candidate.endpoint.ready, used) {
        (true, true) => Standing::Ready,
        (false, true) => Standing::Fallback,
        (_, false) if policy == TrafficPolicy::Local && !candidate.here => Standing::OtherNode,
        (false, false) if is_fallback(candidate) => Standing::Terminating,
        (false, false) => Standing::NotReady,
        (true, false) if topology == Topology::SameNode => Standing::HintedToOtherNode,
        (true, false) => Standing::HintedToOtherZone,
    }
}

/// Every serving endpoint of a port, ready or not, on any node. UDP flows to those stay.
pub(crate) fn serving(
    port: &ServicePort,
    family: Family,
    ports: &Ports<'_>,
    node: &NodeInfo,
) -> BTreeSet<Backend> {
    let candidates = candidates(port, family, ports, node);
    candidates
        .into_iter()
        .filter(|(_, c)| c.endpoint.serving || c.endpoint.ready)
        .map(|(backend, _)| backend)
        .collect()
}

/// Number of ready addresses of a family on this node: the count that a health check node port reports.
pub(crate) fn local_ready(slices: &[EndpointSlice], family: Family, node: &NodeInfo) -> usize {
    let slices = slices.iter().filter(|slice| !slice.ports.is_empty());
    let ready = slices.flat_map(|slice| &slice.endpoints).filter(|e| e.ready && is_here(e, node));
    let addresses: BTreeSet<_> = ready.map(|e| e.address).filter(|ip| Family::of(*ip) == family).collect();
    addresses.len()
}

fn is_here(endpoint: &Endpoint, node: &NodeInfo) -> bool {
    !node.name.is_empty() && endpoint.node.as_ref() == Some(&node.name)
}

/// An endpoint can be in two slices while it moves, or its address can already be a new pod's while the old one
/// terminates. The one that does not terminate wins.
fn candidates<'a>(
    port: &ServicePort,
    family: Family,
    ports: &Ports<'a>,
    node: &NodeInfo,
) -> BTreeMap<Backend, Candidate<'a>> {
    let mut candidates = BTreeMap::new();
    for (slice, number) in ports.of(port) {
        for endpoint in slice.endpoints.iter().filter(|e| Family::of(e.address) == family) {
            let backend = Backend { address: endpoint.address, port: number };
            if !endpoint.terminating || !candidates.contains_key(&backend) {
                candidates.insert(backend, Candidate { endpoint, here: is_here(endpoint, node) });
            }
        }
    }
    candidates
}

fn cluster_list(candidates: &BTreeMap<Backend, Candidate<'_>>, node: &NodeInfo) -> Vec<Backend> {
    let topology = topology(candidates, node);
    let ready = candidates.iter().filter(|(_, c)| c.endpoint.ready);
    let list: Vec<_> =
        ready.filter(|(_, c)| is_in(c.endpoint, topology, node)).map(|(backend, _)| *backend).collect();
    if list.is_empty() { ready_or_fallback(candidates, |_| true) } else { list }
}

fn ready_or_fallback(
    candidates: &BTreeMap<Backend, Candidate<'_>>,
    usable: impl Fn(&Candidate<'_>) -> bool,
) -> Vec<Backend> {
    let choose = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Backend> {
        candidates.iter().filter(|(_, c)| usable(c) && wanted(c)).map(|(backend, _)| *backend).collect()
    };
    let ready = choose(&|c| c.endpoint.ready);
    if ready.is_empty() { choose(&is_fallback) } else { ready }
}

fn is_fallback(candidate: &Candidate<'_>) -> bool {
    let Endpoint { ready, serving, terminating, .. } = candidate.endpoint;
    !ready && *serving && *terminating
}

/// Hints apply only if every ready endpoint has some and at least one names this node or zone.
fn topology(candidates: &BTreeMap<Backend, Candidate<'_>>, node: &NodeInfo) -> Topology {
    let ready = || candidates.values().map(|c| c.endpoint).filter(|e| e.ready);
    let hold = |topology, has_hints: fn(&Endpoint) -> bool| {
        ready().all(has_hints) && ready().any(|e| is_in(e, topology, node))
    };
    if hold(Topology::SameNode, |e| !e.node_hints.is_empty()) {
        Topology::SameNode
    } else if hold(Topology::SameZone, |e| !e.zone_hints.is_empty()) {
        Topology::SameZone
    } else {
        Topology::Anywhere
    }
}

fn is_in(endpoint: &Endpoint, topology: Topology, node: &NodeInfo) -> bool {
    match topology {
        Topology::Anywhere => true,
        Topology::SameNode => endpoint.node_hints.contains(&node.name),
        Topology::SameZone => node.zone.as_ref().is_some_and(|zone| endpoint.zone_hints.contains(zone)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Hints, ServiceName, SlicePort};

    /// A Service has a slice for each family; a pod with addresses of both is in both.
    #[test]
    fn a_pod_with_addresses_of_both_families_counts_once_in_each() {
        let node = NodeInfo { name: "here".into(), ..NodeInfo::default() };
        let slice = |addresses: &[&str]| EndpointSlice {
            service: ServiceName { namespace: "ns".into(), name: "web".into() },
            name: addresses[0].into(),
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints: addresses
                .iter()
                .map(|address| Endpoint {
                    address: address.parse().expect("an address"),
                    ready: true,
                    serving: true,
                    terminating: false,
                    node: Some("here".into()),
                    zone_hints: Hints::default(),
                    node_hints: Hints::default(),
                })
                .collect(),
        };
        let slices = [slice(&["10.1.0.1", "10.1.0.2"]), slice(&["10.1.0.2"]), slice(&["fd00::1"])];
        let counts = [Family::V4, Family::V6].map(|family| local_ready(&slices, family, &node));
        assert_eq!(counts, [2, 1]);
    }
}
