//! NodePort only: no load balancer is made, and the Service says how to be reached without one.
//!
//! ```text
//! LoadBalancer ──plan──▶ nothing to do      LoadBalancer ──report──▶ "use 10.0.0.1:30080"
//!                                                          └─ with `publish_node_addresses`: ingress too
//! ```
//! Owns: the provider and what it reports. Leaves to others: making node ports answer (the node proxy).
//! Invariant: it keeps nothing, so it can neither leak nor lose anything.

mod capabilities;
mod config;
mod plan;
mod provider;
mod report;
mod step;
#[cfg(test)]
mod tests;

pub use capabilities::CAPABILITIES;
pub use config::Config;
pub use provider::BareMetalProvider;
pub use step::NoStep;
