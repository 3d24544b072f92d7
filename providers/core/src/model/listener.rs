//! The frontend side: ports, protocols, listeners.
//!
//! Owns: their newtypes and parsing. Leaves to others: which protocols a provider takes (its capabilities).
//! Invariant: port 0 does not exist here.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A port, protocol or listener key that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListener {
    /// A port outside 1–65535.
    #[error("port {0} is outside 1-65535")]
    Port(String),
    /// Neither TCP, UDP nor SCTP.
    #[error("protocol {0:?} is none of TCP, UDP, SCTP")]
    Protocol(String),
    /// A key that is not of the form `TCP/80`.
    #[error("listener {0:?} is not of the form TCP/80")]
    Key(String),
}

/// A port from 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

impl Port {
    /// The number, from 1 to 65535.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<i64> for Port {
    type Error = InvalidListener;
    fn try_from(number: i64) -> Result<Self, InvalidListener> {
        u16::try_from(number)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or_else(|| InvalidListener::Port(number.to_string()))
    }
}

impl TryFrom<i32> for Port {
    type Error = InvalidListener;
    fn try_from(number: i32) -> Result<Self, InvalidListener> {
        Self::try_from(i64::from(number))
    }
}

impl TryFrom<u16> for Port {
    type Error = InvalidListener;
    fn try_from(number: u16) -> Result<Self, InvalidListener> {
        Self::try_from(i64::from(number))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transport protocol, as `spec.ports[].protocol` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = InvalidListener;
    fn from_str(text: &str) -> Result<Self, InvalidListener> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(InvalidListener::Protocol(other.to_owned())),
        }
    }
}

/// The identity of a listener within its load balancer; prints as `TCP/80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenerKey {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Its port on the load balancer's address.
    pub port: Port,
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, port } = self;
        write!(f, "{protocol}/{port}")
    }
}

impl From<ListenerKey> for String {
    fn from(key: ListenerKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for ListenerKey {
    type Error = InvalidListener;
    fn try_from(text: String) -> Result<Self, InvalidListener> {
        let (protocol, port) = text.split_once('/').ok_or_else(|| InvalidListener::Key(text.clone()))?;
        let number: i64 = port.parse().map_err(|_not_a_number| InvalidListener::Key(text.clone()))?;
        Ok(Self { protocol: protocol.parse()?, port: number.try_into()? })
    }
}

/// One port the load balancer listens on: an entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// `ports[].protocol`.
    pub protocol: Protocol,
    /// `ports[].port`.
    pub port: Port,
    /// `ports[].name`; empty on a Service with one port.
    pub name: String,
    /// `ports[].nodePort`; `None` under `allocateLoadBalancerNodePorts: false`.
    pub node_port: Option<Port>,
}

impl Listener {
    /// Its identity within the load balancer.
    pub fn key(&self) -> ListenerKey {
        ListenerKey { protocol: self.protocol, port: self.port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_between_1_and_65535() {
        assert!(Port::try_from(0i32).is_err());
        assert!(Port::try_from(65_536i32).is_err());
        assert!(Port::try_from(-1i32).is_err());
        assert_eq!(Port::try_from(65_535i32).unwrap().get(), 65_535);
    }

    #[test]
    fn a_listener_key_reads_back_what_it_prints() {
        let key = ListenerKey { protocol: Protocol::Udp, port: 53i32.try_into().unwrap() };
        assert_eq!(ListenerKey::try_from(key.to_string()).unwrap(), key);
        for wrong in ["UDP", "UDP/", "UDP/0", "ICMP/1", "UDP/x"] {
            assert!(ListenerKey::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
