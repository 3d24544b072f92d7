//! What a node proxy forwards, without I/O: Services and endpoints in, kernel tables and packet answers out.
//!
//! ```text
//!   Service, EndpointSlice, node inputs          (input)
//!        │  Model::apply: only what the event touches
//!        ▼
//!   frontends → effective endpoint lists        (model, policy)
//!        │                      │
//!        ▼                      ▼
//!   elements of the kernel      oracle: packet → outcome, without a kernel
//!   tables (table)
//!        │  diff against what is programmed
//!        ▼
//!   Plan { additive, destructive }      (plan): two kernel transactions, each a list of element changes
//! ```
//!
//! Nothing here assumes one address family, and nothing here can do I/O: Cargo.toml has no tokio and no kube.

pub mod affinity;
pub mod check;
pub mod claims;
pub mod explain;
pub mod flows;
pub mod input;
pub mod interface;
pub mod model;
pub mod oracle;
pub mod packets;
pub mod plan;
pub mod shadow;
pub mod snapshot;
pub mod table;
pub mod trace;
pub mod walk;

mod compile;
mod select;
mod slots;
mod wire;
