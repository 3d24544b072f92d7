//! The kernel's tables as data: the elements of our nf_tables maps, and the chains that verdicts lead to.
//!
//! Owns the vocabulary that the model writes and every dataplane reads. Leaves to the model the desired
//! elements, and to the dataplane their encoding. A fixed skeleton of chains and maps is in table `portico` of
//! the families `ip` and `ip6`. Every Service and endpoint event only changes elements of it
//! (docs/nftables.md).
//!
//! A frontend is always one (address, protocol, port). A NodePort is one frontend for each node address it answers on;
//! only one of these addresses has elements, and stands in for the others ([`Key::NodeAddress`]).
//! So `ClusterIP`s, NodePorts, load-balancer VIPs and external IPs share the same few maps.
//!
//! Invariant: a key belongs to exactly one map and one address family, and the kind of its value follows from the key.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Layer-4 protocol of a Service port, with the number that IP headers carry (IANA protocol numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum Protocol {
    /// IANA protocol number 6.
    Tcp = 6,
    /// IANA protocol number 17.
    Udp = 17,
    /// IANA protocol number 132.
    Sctp = 132,
}

/// Address family of a table, a Service or a node address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// IPv4, nf_tables family `ip`.
    V4,
    /// IPv6, nf_tables family `ip6`.
    V6,
}

/// Address that clients dial: IP address, protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// Destination address of the packet.
    pub address: IpAddr,
    /// Protocol that clients use.
    pub protocol: Protocol,
    /// Port that clients connect to.
    pub port: u16,
}

/// Destination after rewriting: an endpoint's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Address of the endpoint, of the frontend's family.
    pub address: IpAddr,
    /// Port on the endpoint.
    pub port: u16,
}

/// Endpoint list of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum List {
    /// The list that all clients, or those inside the cluster, use. Its slots start at 0.
    Cluster,
    /// Endpoints on this node, for external clients under `externalTrafficPolicy: Local`. Its slots start at
    /// [`LOCAL_SLOTS`].
    Local,
}

/// First slot of a frontend's [`List::Local`] in the maps `endpoints` and `affinity-slots`.
pub const LOCAL_SLOTS: u32 = 0x10_0000;

/// Stands for all addresses of a Service port with session affinity, in one family. Within our chains it
/// replaces the destination of the port's packets, before the endpoint's address does. No packet leaves with
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alias {
    /// An address that no host has, different for each Service port (see [`crate::affinity`]).
    pub address: IpAddr,
    /// Protocol of the port.
    pub protocol: Protocol,
}

/// A chain that picks one of `endpoints` endpoints with equal probability and rewrites the destination to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// Number of slots to pick from, at least 1.
    pub endpoints: u32,
    /// List of the slots.
    pub list: List,
    /// Whether the connection's source is replaced with the node's own address.
    pub masquerade: bool,
}

/// A chain for `ClientIP` session affinity: sends a client to the endpoint of its affinity entry, if that is in
/// the list. Otherwise it picks an endpoint and adds an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recall {
    /// Timeout of an unused entry, in seconds.
    pub seconds: u32,
    /// Pool of the affinity map, so that a flood of clients in one namespace takes no entries from others (see
    /// [`crate::affinity::pool`]).
    pub pool: u32,
    /// List that the endpoint must be in.
    pub list: List,
    /// Whether the connection's source is replaced with the node's own address.
    pub masquerade: bool,
}

/// A chain that picks one of `endpoints` affinity ids with equal probability, and returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pick {
    /// Number of slots to pick from, at least 1.
    pub endpoints: u32,
    /// List of the slots.
    pub list: List,
}

/// A chain beside the fixed skeleton.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Chain `lb-…`.
    Balance(Balance),
    /// Chain `aff-…`.
    Recall(Recall),
    /// Chain `pick-…`.
    Pick(Pick),
}

/// Verdict of a dispatch map (`services`, `short`, `local`, `no-endpoints`, `no-endpoints-node-ports`,
/// `affinity-picks`) on a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Continue in a balancing chain.
    Balance(Balance),
    /// Continue in a chain of session affinity.
    Recall(Recall),
    /// Jump to a chain that picks an affinity id.
    Pick(Pick),
    /// Continue in chain `external`, which distinguishes local from external clients by the maps `short` and
    /// `local`.
    External,
    /// Answer with ICMP port unreachable; a TCP client sees "connection refused".
    Reject,
    /// Drop without an answer.
    Drop,
}

/// One element's map and key. Names of the maps are in [`Key::map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Key {
    /// `services`: first lookup of every packet. Value: [`Value::Verdict`].
    Service(Frontend),
    /// `short`: clients on this node or in pods, for frontends whose verdict is [`Verdict::External`].
    Short(Frontend),
    /// `local`: all other clients of those frontends.
    Local(Frontend),
    /// `no-endpoints`: looked up in the filter hooks, for packets that no chain rewrote.
    NoEndpoints(Frontend),
    /// `endpoints`: (frontend, slot). Value: [`Value::Backend`].
    Endpoint(Frontend, u32),
    /// `affinity-ports`: the Service port of a frontend. Value: [`Value::Alias`].
    AffinityPort(Frontend),
    /// `affinity-picks`, `affinity-picks-local`: number of slots of a list. Value: [`Verdict::Pick`].
    AffinityPick(Alias, List),
    /// `affinity-slots`: (Service port, slot). Value: [`Value::Id`].
    AffinitySlot(Alias, u32),
    /// `affinity-endpoints`, `affinity-endpoints-local`: members of a list, by (Service port, id). Value:
    /// [`Value::Backend`].
    AffinityEndpoint(Alias, List, u32),
    /// `node-addresses`: an address of NodePorts that another one stands in for.
    NodeAddress(IpAddr),
    /// `node-port-stand-ins`: the address that stands in for those. The protocol only makes it a key. Value:
    /// [`Value::Alias`].
    NodePortStandIn(Family, Protocol),
    /// `node-ports`: NodePorts with endpoints. At those addresses the destination is replaced before the first
    /// lookup.
    NodePort(Family, Protocol, u16),
    /// `no-endpoints-node-ports`: NodePorts without endpoints, at those addresses. Looked up after
    /// `no-endpoints`. Value: [`Verdict::Reject`].
    NodePortNoEndpoints(Family, Protocol, u16),
    /// `cluster-ips`: every ClusterIP, to reject ports that its Service lacks.
    ClusterIp(IpAddr),
    /// `hairpin`: an endpoint on this node that may reach itself through a frontend. The packet must then be
    /// masqueraded.
    Hairpin(IpAddr, Protocol, u16),
    /// `firewalled`: frontends with `loadBalancerSourceRanges`.
    Firewalled(Frontend),
    /// `source-ranges`: (frontend, admitted sources).
    SourceRange(Frontend, IpNet),
    /// `pod-cidrs`: sources that count as pods of this cluster.
    PodCidr(IpNet),
    /// `node-pods`: of those, sources that are pods on this node.
    NodePod(IpNet),
    /// `service-cidrs`: ranges of `ClusterIP`s. Packets to unallocated ones are dropped.
    ServiceCidr(IpNet),
}

/// Value of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Value {
    /// A member of a set.
    Present,
    /// Verdict of a dispatch map.
    Verdict(Verdict),
    /// Destination of a slot or an affinity id.
    Backend(Backend),
    /// Affinity id of an endpoint, the same after every restart (see [`AFFINITY_TAG`]).
    Id(u32),
    /// An address that stands for others: the alias of a Service port, or the stand-in of NodePorts.
    Alias(IpAddr),
}

/// Top byte of every affinity id, so that no packet priority of another program looks like one. Between two of
/// our chains the id is the packet's priority (`meta priority`), so it shares no bits with the packet mark.
pub const AFFINITY_TAG: u32 = 0xA500_0000;

impl Key {
    /// Name of the kernel map or set that holds this key.
    pub fn map(&self) -> &'static str {
        match self {
            Self::Service(_) => "services",
            Self::Short(_) => "short",
            Self::Local(_) => "local",
            Self::NoEndpoints(_) => "no-endpoints",
            Self::Endpoint(..) => "endpoints",
            Self::AffinityPort(_) => "affinity-ports",
            Self::AffinityPick(_, List::Cluster) => "affinity-picks",
            Self::AffinityPick(_, List::Local) => "affinity-picks-local",
            Self::AffinitySlot(..) => "affinity-slots",
            Self::AffinityEndpoint(_, List::Cluster, _) => "affinity-endpoints",
            Self::AffinityEndpoint(_, List::Local, _) => "affinity-endpoints-local",
            Self::NodeAddress(_) => "node-addresses",
            Self::NodePortStandIn(..) => "node-port-stand-ins",
            Self::NodePort(..) => "node-ports",
            Self::NodePortNoEndpoints(..) => "no-endpoints-node-ports",
            Self::ClusterIp(_) => "cluster-ips",
            Self::Hairpin(..) => "hairpin",
            Self::Firewalled(_) => "firewalled",
            Self::SourceRange(..) => "source-ranges",
            Self::PodCidr(_) => "pod-cidrs",
            Self::NodePod(_) => "node-pods",
            Self::ServiceCidr(_) => "service-cidrs",
        }
    }

    /// Family of the table that holds this key.
    pub fn family(&self) -> Family {
        let address = match self {
            Self::Service(f)
            | Self::Short(f)
            | Self::Local(f)
            | Self::NoEndpoints(f)
            | Self::Firewalled(f)
            | Self::Endpoint(f, _)
            | Self::AffinityPort(f)
            | Self::SourceRange(f, _) => f.address,
            Self::AffinityPick(alias, _)
            | Self::AffinitySlot(alias, _)
            | Self::AffinityEndpoint(alias, ..) => alias.address,
            Self::NodeAddress(address) | Self::ClusterIp(address) | Self::Hairpin(address, ..) => *address,
            Self::PodCidr(net) | Self::NodePod(net) | Self::ServiceCidr(net) => net.addr(),
            Self::NodePortStandIn(family, _)
            | Self::NodePort(family, ..)
            | Self::NodePortNoEndpoints(family, ..) => return *family,
        };
        Family::of(address)
    }

    /// Whether a packet may still hold this key from a lookup before the current transaction. Such keys are
    /// removed one transaction after the elements that lead to them. `no-endpoints` is among them: a packet
    /// that missed in `services` just before the first endpoint came looks there next. `short` and `local`
    /// follow a verdict.
    pub fn is_referenced_by_packets_in_flight(&self) -> bool {
        matches!(
            self,
            Self::Endpoint(..)
                | Self::AffinityPort(_)
                | Self::AffinityPick(..)
                | Self::AffinitySlot(..)
                | Self::AffinityEndpoint(..)
                | Self::NoEndpoints(_)
                | Self::NodePortNoEndpoints(..)
                | Self::Short(_)
                | Self::Local(_)
        )
    }
}

impl Protocol {
    /// The protocols that a Service port may have.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

impl Family {
    /// Family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl List {
    /// First slot of the list.
    pub fn first_slot(self) -> u32 {
        match self {
            Self::Cluster => 0,
            Self::Local => LOCAL_SLOTS,
        }
    }

    /// List that a slot belongs to.
    pub fn of_slot(slot: u32) -> Self {
        if slot < LOCAL_SLOTS { Self::Cluster } else { Self::Local }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Cluster => "",
            Self::Local => "-local",
        }
    }
}

impl Target {
    /// Name of the chain, for example `lb-3`, `lb-3-local`, `lb-3-local-masq`, `aff-10800-8b1f04d2-masq`, `pick-3-local`.
    pub fn chain(&self) -> String {
        let suffix = |masquerade: bool| if masquerade { "-masq" } else { "" };
        match *self {
            Self::Balance(Balance { endpoints, list, masquerade }) => {
                format!("lb-{endpoints}{}{}", list.suffix(), suffix(masquerade))
            }
            Self::Recall(Recall { seconds, pool, list, masquerade }) => {
                format!("aff-{seconds}-{pool:08x}{}{}", list.suffix(), suffix(masquerade))
            }
            Self::Pick(Pick { endpoints, list }) => format!("pick-{endpoints}{}", list.suffix()),
        }
    }
}

impl Verdict {
    /// The chain beside the skeleton that it leads to, if any.
    pub fn target(self) -> Option<Target> {
        match self {
            Self::Balance(balance) => Some(Target::Balance(balance)),
            Self::Recall(recall) => Some(Target::Recall(recall)),
            Self::Pick(pick) => Some(Target::Pick(pick)),
            Self::External | Self::Reject | Self::Drop => None,
        }
    }
}

impl Value {
    /// The chain beside the skeleton that it leads to, if any.
    pub fn target(self) -> Option<Target> {
        match self {
            Self::Verdict(verdict) => verdict.target(),
            Self::Present | Self::Backend(_) | Self::Id(_) | Self::Alias(_) => None,
        }
    }
}

impl From<Target> for Verdict {
    fn from(target: Target) -> Self {
        match target {
            Target::Balance(balance) => Self::Balance(balance),
            Target::Recall(recall) => Self::Recall(recall),
            Target::Pick(pick) => Self::Pick(pick),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(frontend)
            | Self::Short(frontend)
            | Self::Local(frontend)
            | Self::NoEndpoints(frontend)
            | Self::AffinityPort(frontend)
            | Self::Firewalled(frontend) => write!(f, "{frontend}"),
            Self::Endpoint(frontend, slot) => write!(f, "{frontend} slot {slot:#x}"),
            Self::AffinityPick(alias, _) => write!(f, "{alias}"),
            Self::AffinitySlot(alias, slot) => write!(f, "{alias} slot {slot:#x}"),
            Self::AffinityEndpoint(alias, _, id) => write!(f, "{alias} id {id:#010x}"),
            Self::NodeAddress(address) | Self::ClusterIp(address) => write!(f, "{address}"),
            Self::NodePortStandIn(_, protocol) => write!(f, "{protocol}"),
            Self::NodePort(_, protocol, port) | Self::NodePortNoEndpoints(_, protocol, port) => {
                write!(f, "{port}/{protocol}")
            }
            Self::Hairpin(address, protocol, port) => {
                write!(f, "{}/{protocol}", std::net::SocketAddr::new(*address, *port))
            }
            Self::SourceRange(frontend, net) => write!(f, "{frontend} from {net}"),
            Self::PodCidr(net) | Self::NodePod(net) | Self::ServiceCidr(net) => write!(f, "{net}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("present"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Backend(backend) => write!(f, "{backend}"),
            Self::Id(id) => write!(f, "id {id:#010x}"),
            Self::Alias(address) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balance(balance) => f.write_str(&Target::Balance(*balance).chain()),
            Self::Recall(recall) => f.write_str(&Target::Recall(*recall).chain()),
            Self::Pick(pick) => f.write_str(&Target::Pick(*pick).chain()),
            Self::External => f.write_str("external"),
            Self::Reject => f.write_str("reject"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, protocol } = self;
        write!(f, "{address}/{protocol}")
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, protocol, port } = self;
        write!(f, "{}/{protocol}", std::net::SocketAddr::new(*address, *port))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port } = self;
        write!(f, "{}", std::net::SocketAddr::new(*address, *port))
    }
}
