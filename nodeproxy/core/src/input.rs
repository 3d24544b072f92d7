//! Input of the model: Services, `EndpointSlice`s, this node, and the configuration.
//!
//! Owns the shapes of this input. Leaves the parsing of API objects to the daemon, which drops unused fields
//! before it stores anything.
//!
//! Invariant: every value is valid. Addresses are addresses, ports are not 0, and a headless Service or one of
//! type `ExternalName` has no `cluster_ips`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    interface::PodInterfaces,
    names,
    table::{Family, Protocol},
};

pub use crate::names::{BadServiceName, Hints, Name, ServiceName};

/// `Cluster` or `Local`, for `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrafficPolicy {
    /// Endpoints on any node.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// A Service that has `ClusterIP`s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.creationTimestamp` in seconds since 1970: the older of two Services keeps a contested frontend.
    pub created: i64,
    /// `spec.clusterIPs`, at most one of each family; a family without one is not served. Empty: the Service is skipped.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses in `status.loadBalancer.ingress` with `ipMode: VIP` or none.
    pub load_balancer_vips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `ClientIP` session affinity, with its timeout in seconds.
    pub affinity: Option<u32>,
    /// `spec.loadBalancerSourceRanges`, see [`Service::admitted`]. An unreadable one is stored as [`nobody`].
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty for a single unnamed port.
    #[serde(with = "names::one")]
    pub name: Name,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Port on every address but the node's own.
    pub port: u16,
    /// Port on the node's addresses.
    pub node_port: Option<u16>,
}

/// An `EndpointSlice` of one Service (label `kubernetes.io/service-name`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Namespace and name of the Service.
    pub service: ServiceName,
    /// `metadata.name`.
    #[serde(with = "names::one")]
    pub name: Name,
    /// Ports of every endpoint in it, with named target ports resolved by the controller.
    pub ports: Vec<SlicePort>,
    /// Endpoints, ready or not.
    pub endpoints: Vec<Endpoint>,
}

/// One of a slice's ports; a Service's port finds its own by name and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlicePort {
    /// Name of the Service's port.
    #[serde(with = "names::one")]
    pub name: Name,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Port on the endpoint.
    pub port: u16,
}

/// One endpoint: `addresses[0]` and what decides whether this node may use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `addresses[0]`, IPv4 or IPv6.
    pub address: IpAddr,
    /// `conditions.ready`, true when absent. `publishNotReadyAddresses` has been worked in by the controller.
    pub ready: bool,
    /// `conditions.serving`, true when absent.
    pub serving: bool,
    /// `conditions.terminating`, false when absent.
    pub terminating: bool,
    /// `nodeName`.
    #[serde(with = "names::optional")]
    pub node: Option<Name>,
    /// `hints.forZones`.
    #[serde(with = "names::many")]
    pub zone_hints: Hints,
    /// `hints.forNodes`.
    #[serde(with = "names::many")]
    pub node_hints: Hints,
}

/// Properties of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// `metadata.name`; empty while unknown. Then no endpoint is local.
    #[serde(with = "names::one")]
    pub name: Name,
    /// Label `topology.kubernetes.io/zone`.
    #[serde(with = "names::optional")]
    pub zone: Option<Name>,
    /// The node's own address of each family (`InternalIP`), for `loadBalancerSourceRanges` that admit the node.
    pub addresses: Vec<IpAddr>,
    /// Addresses on which NodePorts answer.
    pub node_port_addresses: Vec<IpAddr>,
    /// Every address in the node's network namespace. The kernel does not forward packets to them. No element
    /// depends on this field.
    #[serde(default)]
    pub local_addresses: Vec<IpAddr>,
    /// Sources that count as pods of this cluster. Empty: no client counts as a pod.
    pub pod_cidrs: Vec<IpNet>,
    /// The part of them that are pods on this node: only their answers come back through it whoever sends them.
    /// Empty: every pod counts as one of another node.
    pub node_pod_cidrs: Vec<IpNet>,
}

/// Limits of this kernel that change the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lack {
    /// No dynamic maps: affinity is not kept.
    SessionAffinity,
    /// No sets of concatenated ranges: a VIP with `loadBalancerSourceRanges` is closed to everybody.
    SourceRanges,
}

/// Flags of the proxy, and limits of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Ports that a NodePort may have; others are reported and not served, for they may be the node's own.
    pub node_port_range: RangeInclusive<u16>,
    /// Whether every connection to a `ClusterIP` is masqueraded.
    pub masquerade_all: bool,
    /// Whether `spec.externalIPs` is served.
    pub external_ips: bool,
    /// Whether this node's proxy opens the connections to endpoints, which then see the node and never the client.
    #[serde(default)]
    pub proxied: bool,
    /// Interfaces of this node's pods. If set, `NodeInfo::pod_cidrs` and `node_pod_cidrs` are ignored, and
    /// pods of other nodes are clients like any other.
    #[serde(default)]
    pub pod_interfaces: Option<PodInterfaces>,
    /// Limits of the kernel.
    #[serde(default)]
    pub lacks: BTreeSet<Lack>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_port_range: 30000..=32767,
            masquerade_all: false,
            external_ips: false,
            proxied: false,
            pod_interfaces: None,
            lacks: BTreeSet::new(),
        }
    }
}

/// One change of the model's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A Service exists, or changed.
    Service(Service),
    /// A Service was deleted, or became one that is not served.
    ServiceGone(ServiceName),
    /// A slice exists, or changed.
    Slice(EndpointSlice),
    /// A slice was deleted.
    SliceGone {
        /// Service of the slice.
        service: ServiceName,
        /// Name of the slice.
        name: Name,
    },
    /// The node changed.
    Node(NodeInfo),
    /// All ranges of `ClusterIP`s.
    ServiceCidrs(Vec<IpNet>),
}

/// Ranges that contain no packet's source: a restriction that admits nobody.
pub fn nobody() -> [IpNet; 2] {
    [IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)), IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED))]
}

impl Service {
    /// The clients of a family that may connect through load balancers; `None` is everybody. Ranges of one
    /// family restrict the other as well, unless they have length 0: a list of a few clients does not mean all
    /// clients of the other family.
    pub fn admitted(&self, family: Family) -> Option<Vec<IpNet>> {
        let is_open = |net: &IpNet| net.prefix_len() == 0;
        if self.source_ranges.iter().all(is_open) {
            return None;
        }
        let of_family = self.source_ranges.iter().filter(|net| Family::of(net.addr()) == family);
        let ranges: Vec<_> = of_family.map(IpNet::trunc).collect();
        (!ranges.iter().any(is_open)).then_some(ranges)
    }
}

impl NodeInfo {
    /// Addresses on which NodePorts answer, with the address of their family that stands in for them. The
    /// stand-in is the node's own, if NodePorts answer there. Localhost stands for itself.
    pub fn stand_ins(&self) -> BTreeMap<IpAddr, IpAddr> {
        let all = || self.node_port_addresses.iter().copied().filter(|address| !address.is_loopback());
        let first = |of: IpAddr| {
            let family = || all().filter(move |address| Family::of(*address) == Family::of(of));
            family().find(|address| self.addresses.contains(address)).or_else(|| family().next())
        };
        let pairs = all().filter_map(|address| Some((address, first(address)?)));
        pairs.filter(|(address, stand_in)| address != stand_in).collect()
    }

    /// Whether the node itself has the address.
    pub fn has(&self, address: IpAddr) -> bool {
        let known = [&self.addresses, &self.node_port_addresses, &self.local_addresses];
        address.is_loopback() || known.iter().any(|addresses| addresses.contains(&address))
    }
}

impl fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        })
    }
}
