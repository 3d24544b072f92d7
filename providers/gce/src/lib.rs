//! Google Cloud's regional passthrough load balancers, external and internal.
//!
//! ```text
//!  operator ── GceProvider ── Cloud (trait) ── Limited ── SdkCloud ── google-cloud-compute-v1 ──▶ Compute Engine
//!               wanted → plan (pure) → one step at a time          (or emulators/gce, on loopback)
//! ```
//! One load balancer: an address, forwarding rules, a backend service, a health check, an endpoint group (`GCE_VM_IP`)
//! per zone, firewalls. Packets reach a node with the load balancer's address as destination.
//!
//! Owns: [`GceProvider`], the seam [`cloud::Cloud`]. Leaves to others: serving those packets (the node proxy).
//! Invariants: only what carries the cluster's UID is shown or touched; operations are the operator's to wait for.

mod cache;
mod capabilities;
pub mod cloud;
mod config;
mod execute;
mod names;
mod observed;
mod offer;
mod options;
mod parts;
mod plan;
mod provider;
mod refused;
mod remedy;
mod report;
pub mod resource;
mod step;
mod subset;
mod wanted;

pub use capabilities::CAPABILITIES;
pub use cloud::limited::Limited;
pub use cloud::sdk::SdkCloud;
pub use config::Config;
pub use observed::{Observed, Shared};
pub use provider::GceProvider;
pub use refused::{Offer, Refusal};
pub use resource::Backends;
pub use step::{Call, Failure, Step};
