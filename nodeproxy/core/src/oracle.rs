//! The outcome of a connection, from Services and endpoints alone, without a kernel.
//!
//! Owns the meaning of each behaviour of kube-proxy for one connection. It reads the model's objects and never
//! its elements, so the tests can compare it with [`crate::walk`], which reads the elements as the kernel does.
//! Leaves history to `history`: the last endpoint of each client, and the connections under way.
//!
//! Invariant: total and deterministic. The same packet, objects and history give the same answer.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    affinity,
    claims::ClaimKind,
    compile,
    input::{Lack, Service, ServiceName, ServicePort, TrafficPolicy},
    interface::InterfaceName,
    model::Model,
    select::{self, Lists},
    table::{Backend, Family, Frontend},
};

#[cfg(any(test, feature = "packets"))]
pub mod history;

/// The first packet of a connection, as it reaches this node's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address of the packet.
    pub source: IpAddr,
    /// Whether this node itself sends it: its source is one of the node's addresses.
    pub from_node: bool,
    /// Interface on which it arrives; `None` for this node's own packets. Only read where pods are recognised
    /// by interface.
    pub interface: Option<InterfaceName>,
    /// Destination address, protocol and port.
    pub to: Frontend,
}

/// The client address that the endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The client's own.
    Preserved,
    /// An address of this node.
    Masqueraded,
}

/// Outcome of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of these endpoints, each with the same probability, and the source that each sees.
    Backends(BTreeMap<Backend, Source>),
    /// An ICMP error: a TCP client sees "connection refused".
    Refused,
    /// The packet is dropped without an answer.
    Dropped,
    /// No Service has the address: the packet is forwarded as it came.
    NotOurs,
}

/// Kind of the sender of the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientKind {
    /// A pod on this node.
    Pod,
    /// A pod of this cluster that is not known to be on this node.
    FarPod,
    /// This node itself, or a pod in its network namespace.
    Node,
    /// Any other host.
    Outside,
}

/// Reason why the endpoints see this node and not the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Masquerade {
    /// `--dataplane=userspace`: the connection to the endpoint is this node's own.
    Proxied,
    /// `--masquerade-all` is set.
    All,
    /// A client of a `ClusterIP` that is no pod: the answer would not come back through this node.
    NoPod,
    /// The same where pods are recognised by interface: the client is no pod of this node, but may be one of
    /// another node.
    NoPodHere,
    /// `externalTrafficPolicy: Cluster`: the endpoint may be on another node.
    ClusterPolicy,
    /// This node's own connection to a Service with `externalTrafficPolicy: Local`.
    OwnNode,
    /// A pod of another node, at a Service with `externalTrafficPolicy: Local` that has no endpoint here: an endpoint on a
    /// third node would answer it past this one.
    FarPod,
}

/// Reason for an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An endpoint serves it.
    Served,
    /// The source is in none of `loadBalancerSourceRanges`.
    SourceRange,
    /// No endpoint anywhere that could serve.
    NoEndpoints,
    /// The policy is `Local`, and only other nodes have endpoints.
    NoLocalEndpoints,
    /// A `ClusterIP` of this Service, which has no such port.
    NoSuchPort(ServiceName),
    /// An address in this range of `ClusterIP`s that no Service has.
    Unallocated(IpNet),
    /// The address belongs to no Service.
    Elsewhere,
}

/// The Service port of a packet, and the endpoint lists under its policies.
#[derive(Clone, Debug)]
pub(crate) struct Met<'a> {
    pub(crate) service: &'a Service,
    pub(crate) kind: ClaimKind,
    pub(crate) port: &'a ServicePort,
    pub(crate) policy: TrafficPolicy,
    pub(crate) masquerade: Option<Masquerade>,
    pub(crate) lists: Lists,
}

/// An outcome with its reasons.
#[derive(Clone, Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) client: ClientKind,
    pub(crate) met: Option<Met<'a>>,
    pub(crate) reason: Reason,
    /// Whether the client keeps its endpoint by session affinity.
    pub(crate) keeps: bool,
    pub(crate) outcome: Outcome,
}

/// Outcome of a connection whose client has no affinity entry.
pub fn outcome(model: &Model, packet: &Packet) -> Outcome {
    decide(model, packet, None).outcome
}

/// The same for a client whose affinity entry names this endpoint of the Service port.
#[cfg(test)]
pub(crate) fn outcome_with_affinity(model: &Model, packet: &Packet, last: Option<Backend>) -> Outcome {
    decide(model, packet, last).outcome
}

/// Whether the filter passes an invalid TCP packet (by connection tracking) that is neither SYN nor RST and
/// comes from a server's port. All other packets pass. Such a packet belongs to no connection, so only its
/// sender counts: a pod's may be an endpoint's answer without the address that the client dialled.
#[cfg(test)]
pub(crate) fn lets_invalid_pass(model: &Model, source: IpAddr, interface: Option<InterfaceName>) -> bool {
    !is_pod(model, source, interface)
}

/// The outcome by the elements: the same, except for the source that an endpoint sees behind a proxy.
pub fn outcome_by_elements(model: &Model, packet: &Packet, last: Option<Backend>) -> Outcome {
    decide_as(model, packet, last, false).outcome
}

/// Outcome of a connection, with its reasons.
pub(crate) fn decide<'a>(model: &'a Model, packet: &Packet, last: Option<Backend>) -> Decision<'a> {
    decide_as(model, packet, last, model.config().proxied)
}

fn decide_as<'a>(model: &'a Model, packet: &Packet, last: Option<Backend>, proxied: bool) -> Decision<'a> {
    let client = client(model, packet);
    let Some(mut met) = meet(model, packet, client) else {
        let (reason, outcome) = elsewhere(model, packet);
        return Decision { client, met: None, reason, keeps: false, outcome };
    };
    if proxied {
        met.masquerade = Some(Masquerade::Proxied);
    }
    let (reason, outcome) = if admits(met.service, packet, model) {
        serve(model, packet, &met, last)
    } else {
        (Reason::SourceRange, Outcome::Dropped)
    };
    let keeps = reason == Reason::Served && met.kept(last).is_some();
    Decision { client, met: Some(met), reason, keeps, outcome }
}

fn client(model: &Model, packet: &Packet) -> ClientKind {
    if is_recognised_by(model, &model.node_info().node_pod_cidrs, packet.source, packet.interface) {
        ClientKind::Pod
    } else if packet.from_node {
        ClientKind::Node
    } else if is_pod(model, packet.source, packet.interface) {
        ClientKind::FarPod
    } else {
        ClientKind::Outside
    }
}

/// Whether the local detector recognises a pod.
fn is_pod(model: &Model, source: IpAddr, interface: Option<InterfaceName>) -> bool {
    is_recognised_by(model, &model.node_info().pod_cidrs, source, interface)
}

/// By the interface, where pods are recognised by interface, and elsewhere by the ranges.
fn is_recognised_by(
    model: &Model,
    ranges: &[IpNet],
    source: IpAddr,
    interface: Option<InterfaceName>,
) -> bool {
    match &model.config().pod_interfaces {
        Some(interfaces) => interfaces.have(interface.as_ref()),
        None => contains(ranges, source),
    }
}

fn has_detector(model: &Model, family: Family) -> bool {
    let mut cidrs = model.node_info().pod_cidrs.iter();
    model.config().pod_interfaces.is_some() || cidrs.any(|net| Family::of(net.addr()) == family)
}

fn contains(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

fn meet<'a>(model: &'a Model, packet: &Packet, client: ClientKind) -> Option<Met<'a>> {
    let (claim, service) = model.holder(&packet.to)?;
    let port = service.ports.get(claim.port)?;
    let (node, config) = (model.node_info(), model.config());
    let family = Family::of(packet.to.address);
    let lists = select::select(service, port, family, model.slices(&service.name), node, config);
    let (policy, masquerade) = match (claim.kind, service.external_policy, client) {
        (ClaimKind::ClusterIp, _, _) => {
            let is_pod = is_pod(model, packet.source, packet.interface);
            let reason =
                if config.pod_interfaces.is_some() { Masquerade::NoPodHere } else { Masquerade::NoPod };
            let no_pod = (has_detector(model, family) && !is_pod).then_some(reason);
            (service.internal_policy, if config.masquerade_all { Some(Masquerade::All) } else { no_pod })
        }
        (_, TrafficPolicy::Cluster, _) => (TrafficPolicy::Cluster, Some(Masquerade::ClusterPolicy)),
        (_, TrafficPolicy::Local, ClientKind::Pod) => (TrafficPolicy::Cluster, None),
        (_, TrafficPolicy::Local, ClientKind::Node) => (TrafficPolicy::Cluster, Some(Masquerade::OwnNode)),
        (_, TrafficPolicy::Local, ClientKind::FarPod) if lists.local.is_empty() => {
            (TrafficPolicy::Cluster, Some(Masquerade::FarPod))
        }
        (_, TrafficPolicy::Local, ClientKind::FarPod | ClientKind::Outside) => (TrafficPolicy::Local, None),
    };
    Some(Met { service, kind: claim.kind, port, policy, masquerade, lists })
}

impl Met<'_> {
    /// The endpoint that a client keeps, if its affinity entry names this one.
    pub(crate) fn kept(&self, last: Option<Backend>) -> Option<Backend> {
        affinity::kept(self.list(), last.filter(|_| self.service.affinity.is_some()))
    }

    /// The endpoints that this client may use.
    pub(crate) fn list(&self) -> &[Backend] {
        match self.policy {
            TrafficPolicy::Cluster => &self.lists.cluster,
            TrafficPolicy::Local => &self.lists.local,
        }
    }
}

fn serve(model: &Model, packet: &Packet, met: &Met<'_>, last: Option<Backend>) -> (Reason, Outcome) {
    match (met.list().is_empty(), met.lists.any) {
        (false, _) => {
            let kept = met.kept(last);
            let may_be = kept.as_ref().map_or(met.list(), std::slice::from_ref);
            let all = may_be.iter().map(|b| (*b, seen(model, packet, b, met.masquerade)));
            (Reason::Served, Outcome::Backends(all.collect()))
        }
        (true, true) => (Reason::NoLocalEndpoints, Outcome::Dropped),
        (true, false) => (Reason::NoEndpoints, Outcome::Refused),
    }
}

/// An endpoint that reaches itself would see its own address as the client and answer itself. A packet for a
/// program on the node itself is not forwarded, so it keeps its source whatever the policy.
fn seen(model: &Model, packet: &Packet, backend: &Backend, masquerade: Option<Masquerade>) -> Source {
    let is_proxied = masquerade == Some(Masquerade::Proxied);
    if !is_proxied && !packet.from_node && model.node_info().has(backend.address) {
        return Source::Preserved;
    }
    let hairpin = || packet.source == backend.address && model.may_reach_itself(backend, packet.to.protocol);
    if masquerade.is_some() || hairpin() { Source::Masqueraded } else { Source::Preserved }
}

fn admits(service: &Service, packet: &Packet, model: &Model) -> bool {
    let Some(ranges) = service.admitted(Family::of(packet.to.address)) else { return true };
    if !compile::is_load_balanced(service, &packet.to) {
        return true;
    }
    if model.config().lacks.contains(&Lack::SourceRanges) {
        return false;
    }
    let allows = |address: &IpAddr| ranges.iter().any(|net: &IpNet| net.contains(address));
    let is_vip = service.load_balancer_vips.contains(&packet.source);
    allows(&packet.source) || (is_vip && model.node_info().addresses.iter().any(allows))
}

/// No frontend: a port that its Service lacks, an unallocated `ClusterIP`, or a foreign address. A packet to an
/// address of the node itself is the node's, even if a Service has the address, too.
fn elsewhere(model: &Model, packet: &Packet) -> (Reason, Outcome) {
    let address = packet.to.address;
    if !packet.from_node && model.node_info().has(address) {
        return (Reason::Elsewhere, Outcome::NotOurs);
    }
    let is_cluster_ip = |s: &&Service| !s.ports.is_empty() && s.cluster_ips.contains(&address);
    let mut ranges = model.service_cidrs().iter();
    if let Some(service) = model.all_services().find(is_cluster_ip) {
        (Reason::NoSuchPort(service.name.clone()), Outcome::Refused)
    } else if let Some(range) = ranges.find(|net| net.contains(&address)) {
        (Reason::Unallocated(*range), Outcome::Dropped)
    } else {
        (Reason::Elsewhere, Outcome::NotOurs)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backends(backends) => {
                for (index, (backend, source)) in backends.iter().enumerate() {
                    let separator = if index > 0 { " or " } else { "" };
                    let source = match source {
                        Source::Preserved => "sees the client",
                        Source::Masqueraded => "sees this node",
                    };
                    write!(f, "{separator}{backend} ({source})")?;
                }
                Ok(())
            }
            Self::Refused => f.write_str("refused"),
            Self::Dropped => f.write_str("dropped"),
            Self::NotOurs => f.write_str("not ours"),
        }
    }
}
