//! The address that clients connect to.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One entry of `status.loadBalancer.ingress`, without its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IngressAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name.
    Hostname(String),
}

impl fmt::Display for IngressAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Hostname(name) => f.write_str(name),
        }
    }
}
