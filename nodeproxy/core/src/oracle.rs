//! Why does this packet go there? The answer from Services and endpoints alone, without a kernel.
//!
//! Owns what each behaviour of kube-proxy means for one connection. It reads the model's objects, never its elements, so
//! that [`crate::walk`], which reads the elements as the kernel does, can be held against it.
//!
//! Invariant: total and deterministic; the same packet and objects give the same answer whatever happened before.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    claims::Kind,
    input::{Service, TrafficPolicy},
    model::Model,
    select,
    table::{Backend, Family, Frontend},
};

/// The first packet of a connection, as it reaches this node's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub source: IpAddr,
    /// Whether this node itself sends it (its source is one of the node's addresses).
    pub from_node: bool,
    /// Where it goes.
    pub to: Frontend,
}

/// Which client the endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The client itself.
    Preserved,
    /// An address of this node.
    Masqueraded,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of these endpoints, each with the same probability, and whom it sees.
    Backends(BTreeMap<Backend, Source>),
    /// An ICMP error: a TCP client sees "connection refused".
    Refused,
    /// Silence.
    Dropped,
    /// No Service's business: the packet goes where it would go without us.
    NotOurs,
}

/// Says what becomes of a connection.
pub fn outcome(model: &Model, packet: &Packet) -> Outcome {
    match model.holder(&packet.to) {
        Some((claim, service)) if admits(service, claim.kind, packet, model) => {
            serve(model, packet, service, claim.kind, claim.port)
        }
        Some(_) => Outcome::Dropped,
        None => elsewhere(model, packet.to.address),
    }
}

fn serve(model: &Model, packet: &Packet, service: &Service, kind: Kind, index: usize) -> Outcome {
    let Some(port) = service.ports.get(index) else { return Outcome::NotOurs };
    let (node, config) = (model.node_facts(), model.config());
    let family = Family::of(packet.to.address);
    let lists = select::select(service, port, family, model.slices(&service.name), node, config);
    let has_detector = node.pod_cidrs.iter().any(|net| Family::of(net.addr()) == family);
    let from_pod = node.pod_cidrs.iter().any(|net| net.contains(&packet.source));
    let inside = from_pod || packet.from_node;
    let (policy, masquerade) = match (kind, service.external_policy) {
        (Kind::ClusterIp, _) => {
            (service.internal_policy, config.masquerade_all || (has_detector && !from_pod))
        }
        (_, TrafficPolicy::Cluster) => (TrafficPolicy::Cluster, true),
        (_, TrafficPolicy::Local) if inside => (TrafficPolicy::Cluster, packet.from_node && !from_pod),
        (_, TrafficPolicy::Local) => (TrafficPolicy::Local, false),
    };
    let list = if policy == TrafficPolicy::Local { &lists.local } else { &lists.cluster };
    match (list.is_empty(), lists.any) {
        (false, _) => {
            Outcome::Backends(list.iter().map(|b| (*b, seen(packet, b, masquerade, &lists))).collect())
        }
        (true, true) => Outcome::Dropped,
        (true, false) => Outcome::Refused,
    }
}

/// An endpoint that reaches itself would see its own address as the client and answer itself.
fn seen(packet: &Packet, backend: &Backend, masquerade: bool, lists: &select::Lists) -> Source {
    let hairpin = packet.source == backend.address && lists.here.contains(backend);
    if masquerade || hairpin { Source::Masqueraded } else { Source::Preserved }
}

fn admits(service: &Service, kind: Kind, packet: &Packet, model: &Model) -> bool {
    let family = Family::of(packet.to.address);
    let ranges = || service.source_ranges.iter().filter(|net| Family::of(net.addr()) == family);
    let open = ranges().count() == 0 || ranges().any(|net| net.prefix_len() == 0);
    if kind != Kind::LoadBalancer || open {
        return true;
    }
    let allows = |address: &IpAddr| ranges().any(|net: &IpNet| net.contains(address));
    let is_vip = service.load_balancer_vips.contains(&packet.source);
    allows(&packet.source) || (is_vip && model.node_facts().addresses.iter().any(allows))
}

/// No frontend: a port that its Service lacks, an unallocated `ClusterIP`, or somebody else's address.
fn elsewhere(model: &Model, address: IpAddr) -> Outcome {
    let is_cluster_ip = |s: &Service| !s.ports.is_empty() && s.cluster_ips.contains(&address);
    if model.all_services().any(is_cluster_ip) {
        Outcome::Refused
    } else if model.service_cidrs().iter().any(|net| net.contains(&address)) {
        Outcome::Dropped
    } else {
        Outcome::NotOurs
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
