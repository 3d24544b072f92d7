//! The desired load balancer: what one Service asks for, in words that no cloud and no Kubernetes type owns.
//!
//! Owns: [`LoadBalancer`] and its parts. Leaves to others: where the values come from (the operator parses
//! the Service once, at the edge) and what a provider cannot do (its plan says so, field by field).
//! Invariant: one meaning has one form. Whatever has no order is a set, so equality and
//! [`LoadBalancer::spec_hash`] do not depend on the order of an API list.

mod group;
mod hash;
mod health;
mod ingress;
mod listener;
mod options;
mod owner;
mod policy;
mod target;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use group::GroupName;
pub use hash::SpecHash;
pub use health::{HealthCheck, Probe, ProbePort};
pub use ingress::IngressAddress;
pub use listener::{InvalidListener, Listener, ListenerKey, Port, Protocol};
pub use options::{InvalidOption, OptionReader, Options, parse_duration};
pub use owner::{ClusterUid, InvalidOwner, Owner, ServiceName, ServiceUid};
pub use policy::{ExternalTrafficPolicy, IpFamily, ProxyProtocol, Replacement, Scheme, SessionAffinity};
pub use target::{Backends, NodeName, NodeTarget, PodTarget, Targets};

/// The load balancer one Service asks for.
///
/// Destructure it in full wherever it is compared or translated, so that a new field cannot be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Its owner; every tag names it.
    pub owner: Owner,
    /// `spec.ports`; at least one, each (protocol, port) once.
    pub listeners: BTreeSet<Listener>,
    /// The targets of the traffic.
    pub targets: Targets,
    /// How a target shows that it can take traffic; `None`: every target counts as healthy.
    pub health_check: Option<HealthCheck>,
    /// `spec.loadBalancerSourceRanges`; empty means everybody.
    pub source_ranges: BTreeSet<IpNet>,
    /// `spec.sessionAffinity` and its timeout.
    pub session_affinity: SessionAffinity,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: ExternalTrafficPolicy,
    /// Whether targets get a PROXY protocol header (TCP only).
    pub proxy_protocol: ProxyProtocol,
    /// `spec.ipFamilies`, the primary one first; at least one.
    pub ip_families: Vec<IpFamily>,
    /// Addresses the user asked for, at most one of each family; empty: the provider chooses.
    pub requested_addresses: BTreeSet<IpAddr>,
    /// Whether the whole world or only the own network can reach it.
    pub scheme: Scheme,
    /// Whether the user agreed that a change may replace the load balancer (and so its address).
    pub replacement: Replacement,
    /// The group of Services whose load balancer this one shares, by annotation `portico.dev/group`; each has listeners
    /// of its own there. `None`: it has one to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Annotations that this provider listed in its [`crate::Capabilities::options`], by their full names.
    pub options: Options,
    /// Addresses in the Service's status at this moment. They are not desired state and not part of the spec hash:
    /// a provider claims a free published address before it allocates another (law 6), and takes down a
    /// replaced one only after it is no longer published here (law 7).
    pub published: BTreeSet<IngressAddress>,
}

impl LoadBalancer {
    /// The request of a Service that names its ports and nothing else: a public IPv4 address, policy
    /// `Cluster`, every default. Every target counts as healthy.
    pub fn plain(owner: Owner, listeners: BTreeSet<Listener>, targets: Targets) -> Self {
        Self {
            owner,
            listeners,
            targets,
            health_check: None,
            source_ranges: BTreeSet::new(),
            session_affinity: SessionAffinity::None,
            external_traffic_policy: ExternalTrafficPolicy::Cluster,
            proxy_protocol: ProxyProtocol::Off,
            ip_families: vec![IpFamily::IPv4],
            requested_addresses: BTreeSet::new(),
            scheme: Scheme::External,
            replacement: Replacement::NeedsConsent,
            group: None,
            options: Options::default(),
            published: BTreeSet::new(),
        }
    }

    /// Everything that its targets depend on; targets of the other kind are empty.
    pub fn backends(&self) -> Backends {
        let (nodes, pods) = match &self.targets {
            Targets::Nodes(nodes) => (nodes.clone(), BTreeSet::new()),
            Targets::Pods(pods) => (BTreeSet::new(), pods.clone()),
        };
        Backends {
            owner: self.owner.clone(),
            listeners: self.listeners.clone(),
            nodes,
            pods,
            ip_families: self.ip_families.clone(),
            external_traffic_policy: self.external_traffic_policy,
            options: self.options.clone(),
        }
    }

    /// A digest of everything desired, equal across processes and releases of the compiler; see [`SpecHash`].
    pub fn spec_hash(&self) -> SpecHash {
        SpecHash::of(&Self { published: BTreeSet::new(), ..self.clone() })
    }

    /// The IP addresses among [`LoadBalancer::published`].
    pub fn published_ips(&self) -> BTreeSet<IpAddr> {
        let ips = self.published.iter().filter_map(|address| match address {
            IngressAddress::Ip(ip) => Some(*ip),
            IngressAddress::Hostname(_) => None,
        });
        ips.collect()
    }

    /// The listener on `key`, if there is one.
    pub fn listener(&self, key: ListenerKey) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.key() == key)
    }
}
