//! Possible targets of a Service: eligible nodes, and nodes and pods with ready endpoints.
//!
//! Owns: reading Nodes and EndpointSlices into what load balancers need of them, and choosing among them.
//! Leaves to others: health checks (the load balancer's), which kind of target is wanted (`desired`), how fast nodes
//! may be taken away (`node_removal`).
//! Invariant: equal inputs in any order give equal targets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use portico_provider::{
    ExternalTrafficPolicy, Listener, ListenerKey, NodeName, NodeTarget, PodTarget, Port, Protocol,
};

use crate::cache::service::ServiceKey;

pub(super) const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// A node whose Ready condition turned false so soon after it was made has not been ready yet.
const JOINING: SignedDuration = SignedDuration::from_secs(30);
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Whether a node may be behind load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eligibility {
    Ready,
    /// Not for long. `since`: when it ceased to be ready; `None`: it never was, as far as is known.
    NotReady {
        since: Option<Timestamp>,
    },
    /// No: it is labelled so.
    Excluded,
    /// No: it is being deleted, or the autoscaler is about to. Somebody means this very node.
    Leaving,
}

/// The part of a Node that load balancers need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// As a target, without endpoints.
    pub(super) target: NodeTarget,
    pub(super) eligibility: Eligibility,
}

impl NodeState {
    /// Reads a Node; addresses that do not parse (a hostname) are no addresses.
    pub(crate) fn of(node: &Node) -> Option<(NodeName, Self)> {
        let name = NodeName(node.metadata.name.clone()?);
        let addresses = |kind: &str| -> BTreeSet<IpAddr> {
            let status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            status.filter(|address| address.type_ == kind).filter_map(|a| a.address.parse().ok()).collect()
        };
        let target = NodeTarget {
            name: name.clone(),
            addresses: addresses("InternalIP"),
            external_addresses: addresses("ExternalIP"),
            provider_id: node.spec.as_ref().and_then(|spec| spec.provider_id.clone()),
            zone: node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL).cloned()),
            has_ready_endpoints: true,
        };
        Some((name, Self { target, eligibility: eligibility(node) }))
    }
}

fn eligibility(node: &Node) -> Eligibility {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    if node.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == AUTOSCALER_TAINT) {
        return Eligibility::Leaving;
    }
    // Its presence counts, whatever its value: KEP-1143.
    if node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDE_LABEL)) {
        return Eligibility::Excluded;
    }
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    if ready.is_some_and(|condition| condition.status == "True") {
        return Eligibility::Ready;
    }
    let made = node.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let since = ready.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    Eligibility::NotReady { since: since.filter(|since| since.duration_since(made) > JOINING) }
}

/// An EndpointSlice, whosever it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SliceId {
    namespace: String,
    name: String,
}

impl SliceId {
    /// The id of an object; objects from the API server always have both parts.
    pub(crate) fn of(slice: &EndpointSlice) -> Option<Self> {
        Some(Self { namespace: slice.metadata.namespace.clone()?, name: slice.metadata.name.clone()? })
    }

    /// As one of this Service's, which is of the same namespace.
    pub(crate) fn of_service(&self, name: String) -> SliceKey {
        let service = ServiceKey { namespace: self.namespace.clone(), name };
        SliceKey { service, slice: self.name.clone() }
    }
}

/// An EndpointSlice, found by its Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SliceKey {
    /// The Service that it names.
    pub(crate) service: ServiceKey,
    /// `metadata.name`.
    pub(crate) slice: String,
}

impl SliceKey {
    /// The slice, whosever it is.
    pub(crate) fn id(&self) -> SliceId {
        SliceId { namespace: self.service.namespace.clone(), name: self.slice.clone() }
    }
}

/// The part of an EndpointSlice that load balancers need: ready endpoints, and their ports by name and protocol. Both are
/// sorted slices: a cluster has one of these for each Service, and a tree of few entries is ten times as large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceState {
    endpoints: Box<[EndpointState]>,
    ports: Box<[((Protocol, String), Port)]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EndpointState {
    address: IpAddr,
    node: Option<NodeName>,
    zone: Option<String>,
}

impl SliceState {
    /// Whether it has a ready endpoint of this address.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        // Endpoints are in the order of their addresses.
        self.endpoints.binary_search_by_key(&address, |endpoint| endpoint.address).is_ok()
    }

    /// The addresses of its ready endpoints.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.address)
    }

    /// Reads a slice, with the name of its Service; one that names none is nobody's.
    pub(crate) fn of(slice: &EndpointSlice) -> Option<(String, Self)> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?.clone();
        // No condition means ready: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let endpoints = ready.filter_map(|endpoint| {
            // Consumers take the first address only; the API says so.
            let address = endpoint.addresses.first()?.parse().ok()?;
            let node = endpoint.node_name.clone().map(NodeName);
            Some(EndpointState { address, node, zone: endpoint.zone.clone() })
        });
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
            Some(((protocol, port.name.clone().unwrap_or_default()), port.port?.try_into().ok()?))
        });
        let endpoints: BTreeSet<EndpointState> = endpoints.collect();
        let ports: BTreeMap<(Protocol, String), Port> = ports.collect();
        Some((
            service,
            Self { endpoints: endpoints.into_iter().collect(), ports: ports.into_iter().collect() },
        ))
    }
}

/// Nodes to send a Service's traffic to, of those that the guard admits. Under `Cluster` every node serves every
/// Service, so where endpoints run makes no difference, and moving a pod changes no load balancer.
pub(crate) fn nodes(
    nodes: &[NodeTarget],
    slices: &[SliceState],
    policy: ExternalTrafficPolicy,
) -> BTreeSet<NodeTarget> {
    let serving: BTreeSet<&NodeName> = slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .filter_map(|endpoint| endpoint.node.as_ref())
        .collect();
    let everywhere = policy == ExternalTrafficPolicy::Cluster;
    let target = |node: &NodeTarget| NodeTarget {
        has_ready_endpoints: everywhere || serving.contains(&node.name),
        ..node.clone()
    };
    nodes.iter().map(target).collect()
}

/// Pods to send a Service's traffic to, each with its port for each listener, but for addresses that are `refused`.
pub(crate) fn pods(
    slices: &[SliceState],
    listeners: &BTreeSet<Listener>,
    refused: &BTreeSet<IpAddr>,
) -> BTreeSet<PodTarget> {
    let mut pods: BTreeMap<IpAddr, PodTarget> = BTreeMap::new();
    for SliceState { endpoints, ports } in slices {
        let reachable: BTreeMap<ListenerKey, Port> = listeners
            .iter()
            .filter_map(|it| {
                let same = |protocol: Protocol, name: &str| protocol == it.protocol && name == it.name;
                let (_, port) = ports.iter().find(|((protocol, name), _)| same(*protocol, name))?;
                Some((it.key(), *port))
            })
            .collect();
        for EndpointState { address, node, zone } in
            endpoints.iter().filter(|it| !refused.contains(&it.address))
        {
            // A pod with differing ports for one name is split over several slices.
            let pod = pods.entry(*address).or_insert_with(|| PodTarget {
                address: *address,
                ports: BTreeMap::new(),
                node: node.clone(),
                zone: zone.clone(),
            });
            pod.ports.extend(reachable.iter().map(|(key, port)| (*key, *port)));
        }
    }
    pods.into_values().filter(|pod| !pod.ports.is_empty()).collect()
}

#[cfg(test)]
pub(super) mod tests;
