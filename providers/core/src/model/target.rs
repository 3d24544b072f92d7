//! The backend side: nodes (through their node ports) or pods.
//!
//! Owns: the target kinds. Leaves to others: which nodes and pods are eligible (the operator) and which
//! answer (the load balancer's health check).
//! Invariant: a Service's targets are all of one kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::listener::{ListenerKey, Port};

/// `metadata.name` of a Node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the traffic goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// Each listener to its `node_port` on these nodes.
    Nodes(BTreeSet<NodeTarget>),
    /// Each listener straight to these pods.
    Pods(BTreeSet<PodTarget>),
}

impl Targets {
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
    /// Its name.
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
    /// Its address.
    pub address: IpAddr,
    /// Its port for each listener; a listener that is missing here (a named `targetPort` the pod lacks)
    /// does not go to this pod.
    pub ports: BTreeMap<ListenerKey, Port>,
    /// The node it runs on.
    pub node: Option<NodeName>,
    /// That node's zone.
    pub zone: Option<String>,
}
