//! The backend side: nodes (through their node ports) or pods.
//!
//! Owns: the target kinds, and [`Backends`], all that the targets of one Service depend on. Leaves to others: which nodes and pods are eligible (the operator) and which
//! answer (the load balancer's health check).
//! Invariant: a Service's targets are all of one kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::hash::SpecHash;
use super::listener::{Listener, ListenerKey, Port};
use super::options::Options;
use super::owner::Owner;
use super::policy::{ExternalTrafficPolicy, IpFamily};
use crate::capabilities::TargetKind;

/// `metadata.name` of a Node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The targets of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// Each listener to its `node_port` on these nodes.
    Nodes(BTreeSet<NodeTarget>),
    /// Each listener straight to these pods.
    Pods(BTreeSet<PodTarget>),
}

impl Targets {
    /// Whether these are nodes or pods.
    pub fn kind(&self) -> TargetKind {
        match self {
            Self::Nodes(_) => TargetKind::Node,
            Self::Pods(_) => TargetKind::Pod,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Nodes(nodes) => nodes.len(),
            Self::Pods(pods) => pods.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A node that may take traffic of this Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeTarget {
    /// The node's name.
    pub name: NodeName,
    /// Its internal addresses, of any family.
    pub addresses: BTreeSet<IpAddr>,
    /// Its external addresses (`ExternalIP`), of any family; often none.
    pub external_addresses: BTreeSet<IpAddr>,
    /// `spec.providerID`, which names the machine to a cloud.
    pub provider_id: Option<String>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Whether ready endpoints of this Service run on it. Health checks decide this for a real load
    /// balancer; a provider without one needs it for `externalTrafficPolicy: Local`.
    pub has_ready_endpoints: bool,
}

/// A pod that takes traffic of this Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodTarget {
    /// The pod's address.
    pub address: IpAddr,
    /// Its port for each listener; a listener that is missing here (a named `targetPort` the pod lacks)
    /// does not go to this pod.
    pub ports: BTreeMap<ListenerKey, Port>,
    /// The node it runs on.
    pub node: Option<NodeName>,
    /// That node's zone.
    pub zone: Option<String>,
}

/// The cluster's side of an existing load balancer: everything that its targets depend on, and nothing else.
///
/// It exists although the rest of the Service is refused. Both kinds of targets are here, since what serves may
/// still be of the kind that the Service no longer asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backends {
    /// Owner of the load balancer: goes into every tag.
    pub owner: Owner,
    /// `spec.ports`, without those that cannot be read.
    pub listeners: BTreeSet<Listener>,
    /// Eligible nodes, for what sends to nodes.
    pub nodes: BTreeSet<NodeTarget>,
    /// Eligible pods, for what sends to pods.
    pub pods: BTreeSet<PodTarget>,
    /// `spec.ipFamilies`, the primary one first; at least one.
    pub ip_families: Vec<IpFamily>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: ExternalTrafficPolicy,
    /// Annotations that this provider listed in its [`crate::Capabilities::options`], by their full names. One that does
    /// not parse stops no target.
    pub options: Options,
}

impl Backends {
    /// The targets of one kind.
    pub fn of_kind(&self, kind: TargetKind) -> Targets {
        match kind {
            TargetKind::Node => Targets::Nodes(self.nodes.clone()),
            TargetKind::Pod => Targets::Pods(self.pods.clone()),
        }
    }

    /// The listener on `key`, if the Service still has it.
    pub fn listener(&self, key: ListenerKey) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.key() == key)
    }

    /// A digest of all of it; see [`SpecHash`].
    pub fn spec_hash(&self) -> SpecHash {
        SpecHash::of(self)
    }
}
