//! The forwarding of a node proxy without I/O: Services and endpoints in, kernel tables and packet outcomes out.
//!
//! ```text
//!   Service, EndpointSlice, NodeInfo             (input)
//!        │  Model::apply: only what the event touches
//!        ▼
//!   frontends → effective endpoint lists        (model, policy)
//!        │                      │
//!        ▼                      ▼
//!   elements of the kernel      oracle: packet → outcome, without a kernel
//!   tables (table)
//!        │  diff against what is programmed
//!        ▼
//!   Plan { additive, destructive }              (shadow, plan): two kernel transactions, lists of element changes
//! ```
//!
//! Nothing here assumes one address family. Nothing here can do I/O: Cargo.toml has no tokio and no kube.

pub mod affinity;
pub mod check;
pub mod claims;
pub mod explain;
pub mod flows;
pub mod input;
pub mod interface;
pub mod model;
pub mod oracle;
#[cfg(any(test, feature = "packets"))]
pub mod packets;
pub mod plan;
pub mod shadow;
pub mod snapshot;
pub mod table;
pub mod trace;
pub mod walk;

mod compile;
mod names;
mod select;
mod slots;
