//! The status of a Service's load balancer, as its provider sees it.
//!
//! Owns: [`Report`]. Leaves to others: writing it as status and conditions (the operator).
//! Invariant: addresses are there as soon as the provider says so; target health is a fact beside them,
//! never a condition for publishing (law 10).

use serde::{Deserialize, Serialize};

use crate::model::{IngressAddress, ListenerKey};

/// The status of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `status.loadBalancer.ingress`, all of it, sorted.
    pub ingress: Vec<Ingress>,
    /// Whether the load balancer is provisioned: nothing of it is still on its way.
    pub ready: bool,
    /// Conditions for the user.
    pub facts: Vec<Fact>,
    /// Topics that were not read this time: their last reported condition still holds.
    pub unread: Vec<Topic>,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ingress {
    /// `ip` or `hostname`.
    pub address: IngressAddress,
    /// `ipMode`; `None` for a hostname, which has none.
    pub ip_mode: Option<IpMode>,
    /// `ports`; empty where there is nothing to say about single ports.
    pub ports: Vec<PortStatus>,
}

/// `ipMode` (KEP-1860): whether nodes may take a short cut past the load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IpMode {
    /// Packets arrive with the load balancer's address as their destination, or could: short-circuit.
    #[serde(rename = "VIP")]
    Vip,
    /// Traffic must pass the load balancer (PROXY protocol, TLS), or the address is a node's own.
    Proxy,
}

/// `ports[]` of an ingress entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortStatus {
    /// The listener that is meant.
    pub listener: ListenerKey,
    /// `error`: a CamelCase word, when the port could not be provided.
    pub error: Option<String>,
}

/// One condition: what it is about, whether it holds, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The condition's type.
    pub topic: Topic,
    /// The condition's status.
    pub holds: Truth,
    /// The condition's reason: a CamelCase word.
    pub reason: String,
    /// One sentence for the user, with names, numbers and what to do.
    pub message: String,
}

/// The type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Topic {
    /// The load balancer exists and has its addresses.
    Provisioned,
    /// Enough of its targets answer their health check.
    TargetsHealthy,
    /// Clients that run on a target themselves can connect. Said only where they cannot.
    ReachableFromTargets,
    /// The provider takes every target that is to be one. Said only where it refuses some.
    TargetsAccepted,
    /// Nothing of somebody else's is on what is this Service's. Said only where something is.
    NothingForeign,
}

impl Topic {
    /// Every topic, for docs and tables.
    pub const ALL: [Self; 5] = [
        Self::Provisioned,
        Self::TargetsHealthy,
        Self::ReachableFromTargets,
        Self::TargetsAccepted,
        Self::NothingForeign,
    ];

    /// The condition type on the Service.
    pub fn condition_type(self) -> &'static str {
        match self {
            Self::Provisioned => "portico.dev/LoadBalancerProvisioned",
            Self::TargetsHealthy => "portico.dev/TargetsHealthy",
            Self::ReachableFromTargets => "portico.dev/ReachableFromTargets",
            Self::TargetsAccepted => "portico.dev/TargetsAccepted",
            Self::NothingForeign => "portico.dev/NothingForeign",
        }
    }
}

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Truth {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`: not read yet.
    Unknown,
}
