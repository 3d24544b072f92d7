//! The small closed choices of a load balancer.
//!
//! Owns: one enum for each. Leaves to others: defaults that differ between providers.
//! Invariant: no choice is a boolean whose meaning a caller has to look up.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExternalTrafficPolicy {
    /// Any node takes it on to any endpoint.
    #[default]
    Cluster,
    /// A node serves only with endpoints of its own, and the client's address is kept.
    Local,
}

/// `spec.sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionAffinity {
    /// Each connection on its own.
    #[default]
    None,
    /// A client's address stays with one target.
    ClientIp {
        /// How long after its last connection; Kubernetes allows 1 s to 86,400 s.
        timeout: Duration,
    },
}

/// Whether targets get the client's address in a header before the data.
/// <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyProtocol {
    /// Targets get no PROXY header.
    #[default]
    Off,
    /// The binary header, version 2.
    V2,
}

/// The networks that can reach the load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// The outside world.
    #[default]
    External,
    /// The cluster's own network.
    Internal,
}

/// Whether a change that needs another load balancer may make one (law 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replacement {
    /// No: show what would happen, and wait.
    #[default]
    NeedsConsent,
    /// Yes, by annotation `portico.dev/allow-replacement`.
    Allowed,
}

/// An address family, as `spec.ipFamilies` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// 32 bits.
    IPv4,
    /// 128 bits.
    IPv6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::IPv4,
            IpAddr::V6(_) => Self::IPv6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        })
    }
}
