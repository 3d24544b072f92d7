//! The cloud of a laptop: a real TCP and UDP load balancer for one machine, and the provider that uses it.
//!
//! ```text
//!  operator ── LocalProvider ── HTTP/JSON ──▶ portico-lb
//!               plan, report      api          daemon: api → registry (ipam, store) → dataplane
//!                                              clients ──▶ address:port ──▶ healthy targets
//! ```
//! Owns: [`LocalProvider`], the API between the two ([`api`]), and the daemon ([`daemon`], [`dataplane`]).
//! Leaves to others: what is behind a target (the node proxy).
//! Invariant: the daemon knows addresses, listeners and targets, and nothing of Kubernetes.

// A guard in the head of a `match` or `if let` lives to its end, and a second lock there can deadlock.
#![warn(clippy::significant_drop_in_scrutinee)]

pub mod api;
mod capabilities;
mod client;
pub mod daemon;
pub mod dataplane;
mod plan;
mod provider;
mod report;
mod step;
mod wanted;

pub use capabilities::CAPABILITIES;
pub use provider::{Config, LocalProvider};
pub use step::Step;
