//! A target of a target group.
//!
//! Owns: its words. Leaves to others: its health, and why AWS refuses it (`refusal`).

use std::fmt;
use std::net::IpAddr;

/// The most targets that one `RegisterTargets` takes.
pub(crate) const TARGETS_A_CALL: usize = 200;

/// A target: an instance or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// `i-…`, or an address.
    pub id: String,
    pub port: u16,
}

impl Target {
    pub fn at(address: IpAddr, port: u16) -> Self {
        Self { id: address.to_string(), port }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, port } = self;
        if id.contains(':') { write!(f, "[{id}]:{port}") } else { write!(f, "{id}:{port}") }
    }
}
