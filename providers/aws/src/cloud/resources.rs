//! AWS's resources as this provider knows them: as they are read, and as they are requested.
//!
//! Owns: their shapes. Leaves to others: which there should be. Invariant: closed enums where AWS has words;
//! what this provider never makes (a Gateway Load Balancer) does not exist here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use portico_provider::{IpFamily, Protocol, Scheme};

use super::refusal::Refusal;
pub(crate) use super::target::{TARGETS_A_CALL, Target};

/// An ARN of `ELBv2`, or the ID of a security group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub String);

impl Id {
    /// The name in an ARN: `…:targetgroup/NAME/…`, `…:loadbalancer/net/NAME/…`.
    pub fn name(&self) -> Option<&str> {
        let (_, named) =
            self.0.split_once(":targetgroup/").or_else(|| self.0.split_once(":loadbalancer/net/"))?;
        named.split('/').next()
    }

    pub fn kind(&self) -> Option<Kind> {
        match self.0.as_str() {
            id if id.starts_with("sg-") => Some(Kind::SecurityGroup),
            arn if arn.contains(":loadbalancer/net/") => Some(Kind::LoadBalancer),
            arn if arn.contains(":targetgroup/") => Some(Kind::TargetGroup),
            arn if arn.contains(":listener/net/") => Some(Kind::Listener),
            _ => None,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kinds of things that carry owner tags of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    LoadBalancer,
    TargetGroup,
    Listener,
    SecurityGroup,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoadBalancer => "load balancer",
            Self::TargetGroup => "target group",
            Self::Listener => "listener",
            Self::SecurityGroup => "security group",
        })
    }
}

/// Tags by key.
pub(crate) type Tags = BTreeMap<String, String>;

/// Values to search for, by the tag's key.
pub(crate) type Filter = BTreeMap<String, Vec<String>>;

impl Subnet {
    /// So many free addresses a load balancer needs in each of its subnets:
    /// <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/network-load-balancers.html>.
    pub(crate) const LEAST: u32 = 8;

    /// Whether a load balancer finds room.
    pub(crate) fn has_room(&self) -> bool {
        self.free.is_none_or(|free| free >= Self::LEAST)
    }

    /// Whether it is in a Local Zone or a Wavelength Zone, by its name: `us-west-2-lax-1a`, not `us-west-2a`.
    pub(crate) fn is_local(&self) -> bool {
        let mut parts: Vec<&str> = self.zone.split('-').collect();
        parts.pop();
        parts.iter().any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    }
}

/// Defines an enum of AWS's words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($word => Ok(Self::$variant),)+ _ => Err(()) }
            }
        }
    };
}

words!(
    /// A protocol of a listener or a target group.
    Transport {
        Tcp = "TCP",
        Udp = "UDP",
        /// Both on one port.
        TcpUdp = "TCP_UDP",
        /// TLS, ended at the load balancer.
        Tls = "TLS",
    }
);
impl Transport {
    /// Whether it is UDP, or UDP too.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::TcpUdp)
    }

    /// Whether what a Service calls `protocol` passes.
    pub fn carries(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self != Self::Udp,
            Protocol::Udp => self.is_udp(),
            Protocol::Sctp => false,
        }
    }
}

words!(
    /// The kind of a target group's targets.
    TargetType {
        /// Instances, each with a node port.
        Instance = "instance",
        Ip = "ip",
    }
);
words!(
    /// The families of a load balancer's addresses.
    AddressType {
        Ipv4 = "ipv4",
        Dualstack = "dualstack",
    }
);
words!(
    /// The protocol of a health check.
    HealthProtocol {
        Tcp = "TCP",
        /// A GET answers as the matcher says.
        Http = "HTTP",
        /// The same over TLS; the certificate is not checked.
        Https = "HTTPS",
    }
);
words!(
    /// The preference among application protocols in TLS.
    Alpn {
        Http1Only = "HTTP1Only",
        Http2Only = "HTTP2Only",
        /// HTTP/1 is preferred to HTTP/2.
        Http2Optional = "HTTP2Optional",
        /// HTTP/2 is preferred to HTTP/1.
        Http2Preferred = "HTTP2Preferred",
        None = "None",
    }
);

/// A load balancer's `State.Code`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeState {
    Provisioning,
    Active,
    /// It serves, but AWS could not scale it.
    Impaired(String),
    /// It could not be made.
    Failed(String),
}

/// A load balancer that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    pub id: Id,
    pub name: String,
    /// The DNS name.
    pub hostname: String,
    pub scheme: Scheme,
    pub families: Families,
    /// One for each zone.
    pub subnets: BTreeSet<SubnetMapping>,
    /// Empty: made without, and can never have any.
    pub security_groups: BTreeSet<Id>,
    pub state: LifeState,
}

/// The families of a load balancer, and whether UDP can pass over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// Which addresses it has.
    pub kind: AddressType,
    /// Whether it has a prefix in each subnet to which UDP's sources are translated; only with both families, and AWS
    /// takes no UDP listener there without.
    pub source_nat: bool,
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, source_nat } = self;
        let prefixes = if *source_nat { " with prefixes for source NAT" } else { "" };
        write!(f, "{kind}{prefixes}")
    }
}

/// A subnet of a load balancer, with the addresses it has there if they were chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubnetMapping {
    /// `subnet-…`.
    pub subnet: String,
    /// `eipalloc-…`.
    pub allocation: Option<String>,
    /// Of an internal one.
    pub private_address: Option<Ipv4Addr>,
    /// Of one with both families.
    pub ipv6_address: Option<Ipv6Addr>,
    /// The prefix that UDP's sources are translated to: 80 bits. `None` in a wish: AWS chooses.
    pub source_prefix: Option<Ipv6Net>,
}

/// A load balancer to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewLoadBalancer {
    /// 1–32 letters, digits and hyphens.
    pub name: String,
    pub scheme: Scheme,
    pub families: Families,
    /// One for each zone.
    pub subnets: Vec<SubnetMapping>,
    /// At most five, by default.
    pub security_groups: Vec<Id>,
    pub tags: Tags,
}

/// A listener, without its target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    pub port: u16,
    pub protocol: Transport,
    pub tls: Option<TlsSpec>,
}

/// How TLS is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSpec {
    /// ACM's or IAM's ARN.
    pub certificate: String,
    /// `SslPolicy`.
    pub policy: String,
    /// `AlpnPolicy`.
    pub alpn: Alpn,
}

/// A listener that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub id: Id,
    pub spec: ListenerSpec,
    pub group: Option<Id>,
    /// Whether it sends to others as well, by weight; none of ours does.
    pub split: bool,
}

/// Certificates beside the default one, and attributes, of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerExtras {
    /// ARNs beside the default one; a client's SNI picks among all.
    pub certificates: BTreeSet<String>,
    /// By AWS's keys, such as `tcp.idle_timeout.seconds`.
    pub attributes: BTreeMap<String, String>,
}

/// A target group's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHealth {
    pub protocol: HealthProtocol,
    /// `None`: the traffic port.
    pub port: Option<u16>,
    /// The path that an HTTP check asks for.
    pub path: Option<String>,
    /// For HTTP: `200-399`.
    pub codes: Option<String>,
    /// Seconds: 5 to 300.
    pub interval: i32,
    /// Seconds: 2 to 120.
    pub timeout: i32,
    /// 2 to 10.
    pub healthy: i32,
    /// 2 to 10.
    pub unhealthy: i32,
}

/// The properties of a target group that never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupShape {
    pub protocol: Transport,
    pub targets: TargetType,
    pub family: IpFamily,
}

/// A target group that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    pub id: Id,
    pub name: String,
    /// The kind of its targets, and their family.
    pub kind: (TargetType, IpFamily),
    /// The port of targets that name none; for our own target groups the port of their listener.
    pub port: u16,
    /// Those that send there, as last read.
    pub load_balancers: BTreeSet<Id>,
    pub health: GroupHealth,
}

/// A target group to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGroup {
    /// 1–32 letters, digits and hyphens.
    pub name: String,
    /// `vpc-…`.
    pub vpc: String,
    pub shape: GroupShape,
    /// The port of targets that name none; ours always name one.
    pub port: u16,
    pub health: GroupHealth,
    pub tags: Tags,
}

/// A target's `TargetHealth.State`; or that it is none, though it was to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nobody has asked it yet.
    Initial,
    Healthy,
    Unhealthy,
    /// It is no target any more; its connections end.
    Draining,
    /// No listener sends there.
    Unused,
    /// AWS did not take it: it is no target, and is not offered again for a while.
    Refused(Refusal),
}

/// A security group that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: Id,
    pub name: String,
    /// The rules that let clients in, of the form that this provider writes.
    pub rules: BTreeSet<Rule>,
    /// All other rules.
    pub foreign: BTreeSet<ForeignRule>,
    pub tags: Tags,
}

words!(
    /// The protocol of a rule.
    RuleProtocol {
        Tcp = "tcp",
        Udp = "udp",
    }
);

/// The source of a rule's clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Range(IpNet),
    /// From those on a prefix list: `pl-…`.
    PrefixList(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::PrefixList(id) => f.write_str(id),
        }
    }
}

/// A prefix list that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrefixList {
    /// `pl-…`.
    pub id: String,
    pub family: IpFamily,
    /// So many entries it may have; it counts as so many rules, whatever it has.
    pub most: usize,
}

/// An ingress rule: a source, a protocol and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub protocol: RuleProtocol,
    pub port: u16,
    pub source: Source,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, port, source } = self;
        write!(f, "{protocol}/{port} from {source}")
    }
}

/// An ingress rule of a form that this provider never writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRule {
    /// `tcp`, `udp`, another one's name or number; `-1`: all.
    pub protocol: String,
    /// The first port and the last; `None`: all.
    pub ports: Option<(u16, u16)>,
    /// A range, a prefix list, or a security group.
    pub source: String,
}

impl ForeignRule {
    /// Whether it lets anybody in to this port.
    pub fn opens(&self, protocol: RuleProtocol, port: u16) -> bool {
        let Self { protocol: own, ports, source: _ } = self;
        // 6 and 17 by their numbers.
        let same = match protocol {
            RuleProtocol::Tcp => matches!(own.as_str(), "-1" | "tcp" | "6"),
            RuleProtocol::Udp => matches!(own.as_str(), "-1" | "udp" | "17"),
        };
        same && ports.is_none_or(|(first, last)| (first..=last).contains(&port))
    }
}

impl fmt::Display for ForeignRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, ports, source } = self;
        let protocol = if protocol == "-1" { "everything" } else { protocol };
        match ports {
            Some((first, last)) => write!(f, "{protocol}/{first}-{last} from {source}"),
            None => write!(f, "{protocol} from {source}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// `subnet-…`.
    pub id: String,
    pub zone: String,
    /// Its IPv6 ranges.
    pub ipv6: Vec<Ipv6Net>,
    /// So many of its addresses are free; `None`: it does not say.
    pub free: Option<u32>,
    /// With `Name` and those for discovery.
    pub tags: Tags,
}
