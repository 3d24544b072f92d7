//! The Compute Engine resources of a passthrough load balancer, in our own words.
//!
//! Owns: one struct for each kind, with the fields that Portico sets and compares, and nothing else.
//! Leaves to others: the SDK's types (`cloud/wire`), what they should say (`wanted`).
//! Invariant: references are names, not URLs; what has no order is a set, so equality means "as it should be".
//! Source: <https://cloud.google.com/compute/docs/reference/rest/v1>.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use portico_provider::{IpFamily, Protocol, Scheme};

/// The kinds of resources, each a collection of Compute Engine's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `addresses`, regional.
    Address,
    /// `forwardingRules`, regional.
    ForwardingRule,
    /// `regionBackendServices`.
    BackendService,
    /// `regionHealthChecks`.
    HealthCheck,
    /// `firewalls`, of a network.
    Firewall,
    /// `networkEndpointGroups`, zonal.
    EndpointGroup,
    /// `instanceGroups`, zonal, unmanaged.
    InstanceGroup,
}

impl Kind {
    /// The kinds that Portico creates.
    pub const ALL: [Self; 7] = [
        Self::Address,
        Self::ForwardingRule,
        Self::BackendService,
        Self::HealthCheck,
        Self::Firewall,
        Self::EndpointGroup,
        Self::InstanceGroup,
    ];

    /// Its collection in a URL.
    pub(crate) fn collection(self) -> &'static str {
        match self {
            Self::Address => "addresses",
            Self::ForwardingRule => "forwardingRules",
            Self::BackendService => "backendServices",
            Self::HealthCheck => "healthChecks",
            Self::Firewall => "firewalls",
            Self::EndpointGroup => "networkEndpointGroups",
            Self::InstanceGroup => "instanceGroups",
        }
    }
}

impl Kind {
    /// Whether it has nodes in it.
    pub(crate) fn is_group(self) -> bool {
        matches!(self, Self::EndpointGroup | Self::InstanceGroup)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::ForwardingRule => "forwarding rule",
            Self::BackendService => "backend service",
            Self::HealthCheck => "health check",
            Self::Firewall => "firewall",
            Self::EndpointGroup => "endpoint group",
            Self::InstanceGroup => "instance group",
        })
    }
}

/// The identity of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// The collection that the resource is in.
    pub kind: Kind,
    /// Its zone, if the kind is zonal.
    pub zone: Option<String>,
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, zone, name } = self;
        write!(f, "{kind} {name}")?;
        zone.as_ref().map_or(Ok(()), |zone| write!(f, " in {zone}"))
    }
}

/// Any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A reserved address.
    Address(Address),
    /// The address and ports that clients connect to.
    ForwardingRule(ForwardingRule),
    /// The backend service of frontends.
    BackendService(BackendService),
    /// How backends are probed.
    HealthCheck(HealthCheck),
    /// A firewall rule: allowed sources.
    Firewall(Firewall),
    /// Nodes of one zone.
    EndpointGroup(EndpointGroup),
    /// All nodes of one zone, for all Services.
    InstanceGroup(InstanceGroup),
}

impl Resource {
    /// Kind, zone and name of this resource.
    pub fn id(&self) -> Id {
        let (kind, name, zone) = match self {
            Self::Address(it) => (Kind::Address, &it.name, None),
            Self::ForwardingRule(it) => (Kind::ForwardingRule, &it.name, None),
            Self::BackendService(it) => (Kind::BackendService, &it.name, None),
            Self::HealthCheck(it) => (Kind::HealthCheck, &it.name, None),
            Self::Firewall(it) => (Kind::Firewall, &it.name, None),
            Self::EndpointGroup(it) => (Kind::EndpointGroup, &it.name, Some(it.zone.clone())),
            Self::InstanceGroup(it) => (Kind::InstanceGroup, &it.name, Some(it.zone.clone())),
        };
        Id { kind, zone, name: name.clone() }
    }
}

/// `networkTier`, of external addresses and rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Traffic enters Google's network near the client.
    Premium,
    /// The public Internet.
    Standard,
}

impl Tier {
    /// As the API spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Premium => "PREMIUM",
            Self::Standard => "STANDARD",
        }
    }
}

impl std::str::FromStr for Tier {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "Premium" | "PREMIUM" => Ok(Self::Premium),
            "Standard" | "STANDARD" => Ok(Self::Standard),
            _ => Err(()),
        }
    }
}

/// A reserved regional address. An IPv6 one is a range of length 96, written by its first address; an internal IPv4
/// one may be shared by several rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
    /// IPv4 or IPv6.
    pub family: IpFamily,
    /// Inside or outside.
    pub scheme: Scheme,
    /// External ones only.
    pub tier: Option<Tier>,
    /// Internal ones, and IPv6 ones.
    pub subnetwork: Option<String>,
    /// The user's own prefix that an external IPv6 one comes from; known only to one that is to be made.
    pub collection: Option<String>,
    /// Whether several rules may listen on it: an internal IPv4 one needs purpose `SHARED_LOADBALANCER_VIP`.
    pub shareable: bool,
    /// Its IP address; for one to create: the wanted address.
    pub ip: Option<IpAddr>,
}

/// A forwarding rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardingRule {
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
    /// IPv4 or IPv6.
    pub family: IpFamily,
    /// Inside or outside.
    pub scheme: Scheme,
    /// The forwarded protocol and ports.
    pub forwards: Forwards,
    /// The address that it listens on.
    pub address: AddressRef,
    /// The name of its backend service.
    pub backend_service: String,
    /// External ones only.
    pub tier: Option<Tier>,
    /// Internal ones, and IPv6 ones: network and subnetwork.
    pub place: Option<Place>,
    /// Whether clients of other regions reach it; internal ones only.
    pub global_access: bool,
}

/// A network and a subnetwork in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the VPC network, without its project.
    pub network: String,
    /// Name of the subnetwork, without project and region.
    pub subnetwork: String,
}

/// Protocol and ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwards {
    /// Up to five ports.
    Ports(Protocol, BTreeSet<u16>),
    /// All ports of a protocol.
    AllPorts(Protocol),
    /// Every protocol and port (`L3_DEFAULT`).
    Everything,
}

impl Forwards {
    /// Whether packets to this port are forwarded.
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Ports(own, ports) => *own == protocol && ports.contains(&port),
            Self::AllPorts(own) => *own == protocol,
            Self::Everything => true,
        }
    }
}

impl fmt::Display for Forwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(protocol, ports) => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                write!(f, "{protocol} {}", ports.join(","))
            }
            Self::AllPorts(protocol) => write!(f, "{protocol}, all ports"),
            Self::Everything => f.write_str("L3_DEFAULT"),
        }
    }
}

/// How a rule names its address; reading one always gives the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressRef {
    /// The address itself: an ephemeral one, or one that was read.
    Ip(IpAddr),
    /// The name of a reserved address of this region.
    Named(String),
}

/// A backend service of protocol `UNSPECIFIED`, which fits rules of any protocol, so that it never has to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendService {
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
    /// Inside or outside.
    pub scheme: Scheme,
    /// Internal ones only.
    pub network: Option<String>,
    /// The kind of session affinity.
    pub affinity: Affinity,
    /// Whether nodes get traffic by the weight that their health check answers with.
    pub weighted: bool,
    /// The name of its health check.
    pub health_check: String,
    /// The kind of its groups; all are of one kind, for as long as it exists.
    pub backends: Backends,
    /// Its groups: zone and name.
    pub groups: BTreeSet<(String, String)>,
    /// A digest of the nodes that are in the groups, written when they are; see [`crate::Observed::holds`].
    pub synced_hash: Option<String>,
}

/// The kind of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backends {
    /// Endpoint groups of each Service's own, `GCE_VM_IP`.
    #[default]
    EndpointGroups,
    /// Instance groups that all Services of the cluster share.
    InstanceGroups,
}

impl Backends {
    /// The kind of such a group.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::EndpointGroups => Kind::EndpointGroup,
            Self::InstanceGroups => Kind::InstanceGroup,
        }
    }
}

/// The groups of one load balancer: one in each zone, all of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(crate) backends: Backends,
    pub(crate) name: String,
}

impl Groups {
    pub(crate) fn in_zone(&self, zone: &str) -> Id {
        Id { kind: self.backends.kind(), zone: Some(zone.to_owned()), name: self.name.clone() }
    }
}

/// The kind of session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// `NONE`: addresses, protocol and ports together.
    Connection,
    /// A client's address, as long as the set of nodes stays the same.
    ClientIp,
    /// A client's address, whatever becomes of the set, until it was idle for so many seconds.
    Session {
        /// Seconds without a packet until the client is forgotten.
        idle: u32,
    },
}

/// A health check of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
    /// The path of an HTTP check; `None`: a TCP connection.
    pub path: Option<String>,
    /// The node's port that is probed.
    pub port: u16,
    /// Seconds from one probe to the next.
    pub interval: u32,
    /// Seconds an answer may take.
    pub timeout: u32,
    /// Good answers in a row.
    pub healthy: u32,
    /// Bad answers in a row.
    pub unhealthy: u32,
}

/// An ingress firewall rule of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
    /// Name of the VPC network, without its project.
    pub network: String,
    /// Less is stronger.
    pub priority: u32,
    /// Source ranges that the rule applies to.
    pub sources: BTreeSet<IpNet>,
    /// Receivers; empty: any.
    pub destinations: BTreeSet<IpNet>,
    /// Allow or deny.
    pub verdict: Verdict,
}

/// The action of a firewall rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Lets these protocols and ports in; none: it is disabled.
    Allow(BTreeSet<(Protocol, u16)>),
    /// Drops every packet from the sources.
    DenyAll,
    /// An action that Portico never writes, such as all ports of a protocol: another writer has changed it.
    Foreign,
}

/// A group of type `GCE_VM_IP`; its endpoints are listed apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointGroup {
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
    /// Zone of its nodes, such as europe-west1-b.
    pub zone: String,
    /// Network and subnetwork of its nodes.
    pub place: Place,
}

/// An unmanaged instance group; its instances are listed apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceGroup {
    /// Name within its project and region or zone, made by `names`.
    pub name: String,
    /// Zone of its nodes, such as europe-west1-b.
    pub zone: String,
}

/// A node in a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The instance's name.
    pub instance: String,
    /// The address of its first interface; in an instance group, where addresses do not count: [`NO_ADDRESS`].
    pub ip: IpAddr,
}

/// Of a node that is known by its instance's name alone.
pub(crate) const NO_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The health of an endpoint, as Google reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Health over IPv4, by its own prober.
    pub v4: Health,
    /// Health over IPv6, by its own prober.
    pub v6: Health,
    /// Where nodes are weighed and somebody asked.
    pub weight: Option<Weight>,
}

/// What Google made of `X-Load-Balancing-Endpoint-Weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It is this.
    Is(u32),
    /// It is not known; Google's word for why.
    Unread(String),
}

/// The result of probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Google's prober gets good answers.
    Healthy,
    /// It does not.
    Unhealthy,
    /// Nobody has asked it yet, or it belongs to no load balancer yet.
    #[default]
    Unknown,
}
