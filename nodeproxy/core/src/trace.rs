//! The destination of a packet and the reasons, as one answer for people and programs.
//!
//! Owns [`Trace`]: the oracle's decision with its reasons, the probability of each endpoint, and the packet's
//! lookups in our tables. Leaves the comparison with the kernel to [`crate::check`], and the connection to the
//! user to the daemon.
//!
//! Invariants: `trace(m, p).outcome()` is the oracle's outcome. Every endpoint of the port is listed, used or
//! not, and the probabilities of the used ones add up to 1.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    claims::ClaimKind,
    compile,
    input::{ServiceName, TrafficPolicy},
    interface::InterfaceName,
    model::Model,
    oracle::{self, ClientKind, Decision, Masquerade, Met, Outcome, Packet, Reason, Source},
    select,
    select::Listed,
    table::{Backend, Family, Frontend},
    walk::{self, PacketContext, Step},
};

pub use crate::select::Standing;

mod text;

#[cfg(test)]
mod tests;

/// Outcome of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// An endpoint with a probability above 0 gets it.
    Forwarded,
    /// The client sees "connection refused".
    Refused,
    /// The client gets no answer.
    Dropped,
    /// No Service has the address: the packet is forwarded as it came.
    NotOurs,
}

/// The Service port that the packet meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Namespace and name of the Service.
    pub service: ServiceName,
    /// Name of its port; empty for a single unnamed one.
    pub name: String,
    /// Its number in the Service.
    pub port: u16,
    /// How the Service has the dialled address.
    pub by: ClaimKind,
    /// Other Services that claim the same address and port without getting them.
    pub waiting: Vec<ServiceName>,
    /// Policy for this client.
    pub policy: TrafficPolicy,
    /// The field that sets the policy, or the exception, in words.
    pub policy_reason: String,
    /// `loadBalancerSourceRanges`, where they apply.
    pub source_ranges: Vec<IpNet>,
    /// Seconds for which a client keeps its endpoint, with session affinity.
    pub affinity_seconds: Option<u32>,
    /// The endpoint in the client's affinity entry, if there is one.
    #[serde(default)]
    pub last: Option<Last>,
    /// Reason why the endpoints see this node and not the client, if they do.
    pub masquerade: Option<Masquerade>,
}

/// Affinity entry of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Last {
    /// The endpoint that it names.
    pub backend: Backend,
    /// Whether this packet goes there again. If not, the packet may not use the endpoint, and is balanced.
    pub kept: bool,
}

/// One endpoint of the port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedEndpoint {
    /// Address and port.
    pub backend: Backend,
    /// Name of its node.
    pub node: Option<String>,
    /// Whether it is on this node.
    pub here: bool,
    /// Its standing under the policy.
    pub standing: Standing,
    /// Probability that a new connection goes there, from 0 to 1.
    pub probability: f64,
    /// The source that it sees; `None` if its probability is 0.
    pub sees: Option<Source>,
    /// The source address that it sees: of several addresses of the node, the one on the route to the endpoint.
    pub source_addresses: Vec<IpAddr>,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// Name of the node that the packet arrives at.
    pub node: String,
    /// Source address of the packet.
    pub from: IpAddr,
    /// Interface on which it arrives here, where pods are recognised by interface and it is known.
    #[serde(default)]
    pub interface: Option<InterfaceName>,
    /// Kind of the sender.
    pub client: ClientKind,
    /// Destination as the client wrote it.
    pub to: Frontend,
    /// The Service port of the destination, if any.
    pub service: Option<ServicePort>,
    /// Whether an endpoint gets the packet, or what the client sees instead.
    pub result: End,
    /// One word for the reason.
    pub reason: String,
    /// The reason in a sentence.
    pub because: String,
    /// All endpoints of the port, used or not.
    pub endpoints: Vec<TracedEndpoint>,
    /// The lookups in the tables, up to the choice between several endpoints.
    pub path: Vec<Step>,
    /// The comparison with the kernel, if it was requested.
    pub kernel: Option<Check>,
}

/// Traces the first packet of a connection whose client has no affinity entry.
pub fn trace(model: &Model, packet: &Packet) -> Trace {
    trace_with_affinity(model, packet, None)
}

/// The same for a client whose affinity entry names this endpoint of the Service port.
pub fn trace_with_affinity(model: &Model, packet: &Packet, last: Option<Backend>) -> Trace {
    let decision = oracle::decide(model, packet, last);
    let affinity_id = last.and_then(|last| model.affinity_id(&packet.to, last));
    let context = PacketContext { affinity_id, ..PacketContext::of(model) };
    let (_, path) = walk::path(model.shadow().desired(), context, packet);
    let endpoints = decision.met.as_ref().map(|met| targets(model, packet, met, &decision.outcome));
    Trace {
        node: model.node_info().name.to_string(),
        from: packet.source,
        interface: packet.interface.filter(|_| model.config().pod_interfaces.is_some()),
        client: decision.client,
        to: packet.to,
        service: decision.met.as_ref().map(|met| service_port(model, packet, decision.client, met, last)),
        result: match &decision.outcome {
            Outcome::Backends(_) => End::Forwarded,
            Outcome::Refused => End::Refused,
            Outcome::Dropped => End::Dropped,
            Outcome::NotOurs => End::NotOurs,
        },
        reason: decision.reason.word().to_owned(),
        because: text::because(&decision),
        endpoints: endpoints.unwrap_or_default(),
        path,
        kernel: None,
    }
}

fn service_port(
    model: &Model,
    packet: &Packet,
    client: ClientKind,
    met: &Met<'_>,
    last: Option<Backend>,
) -> ServicePort {
    let family = Family::of(packet.to.address);
    let of_family = |net: &&IpNet| Family::of(net.addr()) == family;
    let restricts = compile::is_load_balanced(met.service, &packet.to);
    let ranges = met.service.source_ranges.iter().filter(|_| restricts);
    ServicePort {
        service: met.service.name.clone(),
        name: met.port.name.to_string(),
        port: met.port.port,
        by: met.kind,
        waiting: model.waiting(&packet.to).map(|claim| claim.service.clone()).collect(),
        policy: met.policy,
        policy_reason: text::policy_reason(met, client).to_owned(),
        source_ranges: ranges.filter(of_family).copied().collect(),
        affinity_seconds: met.service.affinity,
        last: last.map(|backend| Last { backend, kept: met.kept(last).is_some() }),
        masquerade: met.masquerade,
    }
}

fn targets(model: &Model, packet: &Packet, met: &Met<'_>, outcome: &Outcome) -> Vec<TracedEndpoint> {
    let unreachable = BTreeMap::new();
    let chances = match outcome {
        Outcome::Backends(backends) => backends,
        Outcome::Refused | Outcome::Dropped | Outcome::NotOurs => &unreachable,
    };
    let (node, family) = (model.node_info(), Family::of(packet.to.address));
    let of_node = node.addresses.iter().copied().filter(|a| Family::of(*a) == family);
    let of_node: Vec<IpAddr> = of_node.collect();
    let target = |listed: Listed<'_>| {
        let sees = chances.get(&listed.backend).copied();
        TracedEndpoint {
            backend: listed.backend,
            node: listed.endpoint.node.as_ref().map(ToString::to_string),
            here: listed.here,
            standing: match met.policy {
                TrafficPolicy::Cluster => listed.cluster,
                TrafficPolicy::Local => listed.local,
            },
            probability: sees
                .map_or(0.0, |_| 1.0 / f64::from(u32::try_from(chances.len()).unwrap_or(u32::MAX))),
            sees,
            source_addresses: match sees {
                Some(Source::Preserved) => vec![packet.source],
                Some(Source::Masqueraded) => of_node.clone(),
                None => Vec::new(),
            },
        }
    };
    select::listed(met.port, family, model.slices(&met.service.name), node).into_iter().map(target).collect()
}

impl Trace {
    /// The answer as an outcome of the oracle.
    pub fn outcome(&self) -> Outcome {
        match self.result {
            End::Forwarded => {
                let seen = self.endpoints.iter().filter_map(|t| Some((t.backend, t.sees?)));
                Outcome::Backends(seen.collect())
            }
            End::Refused => Outcome::Refused,
            End::Dropped => Outcome::Dropped,
            End::NotOurs => Outcome::NotOurs,
        }
    }
}

impl Reason {
    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Served => "Served",
            Self::SourceRange => "SourceRange",
            Self::NoEndpoints => "NoEndpoints",
            Self::NoLocalEndpoints => "NoLocalEndpoints",
            Self::NoSuchPort(_) => "NoSuchPort",
            Self::Unallocated(_) => "Unallocated",
            Self::Elsewhere => "Elsewhere",
        }
    }
}

impl Decision<'_> {
    /// Number of endpoints that the client may get.
    fn chances(&self) -> usize {
        match &self.outcome {
            Outcome::Backends(backends) => backends.len(),
            Outcome::Refused | Outcome::Dropped | Outcome::NotOurs => 0,
        }
    }
}
