//! nf_tables, conntrack and node addresses over raw netlink: the one seam between Portico and the kernel.
//!
//! ```text
//!   nftables::Batch ──► nftables::Client ──► socket ──► kernel     one batch is one transaction: all or nothing
//!   nftables::{Table, Chain, Rule, Set, Element} ◄── dumps
//!   conntrack::Conntrack      delete flows by filter, count
//!   addresses::{list, Watch}  addresses of this node, and changes of them
//!   routes::interface_towards the interface on the way to an address
//!   nftables::Watch           who changed which table
//! ```
//!
//! This crate owns the wire format (attributes, messages, sequence numbers, acknowledgements) and knows nothing about
//! Services. It has no background threads: every call blocks, and no call blocks longer than [`TIMEOUT`] without a reply.
//! Sockets belong to the network namespace of the thread that opened them.
//!
//! Invariant: no input from the kernel makes a decoder panic; what this crate does not know decodes to a named unknown.

pub mod addresses;
pub mod attribute;
pub mod conntrack;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod hostile;
pub mod message;
pub mod nftables;
pub mod probe;
pub mod routes;
mod socket;

pub use error::{Error, Result};
pub use nix::errno::Errno;
pub use socket::{Socket, TIMEOUT};
