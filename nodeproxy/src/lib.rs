//! `portico-nodeproxy`: forwards traffic to the VIPs and NodePorts of Services on one node.
//!
//! ```text
//!   API server ─► watch ─► convert ─┐                     ┌─► dataplane (nftables) ─► kernel
//!   this node's addresses ──────────┴─► input events ─► sync ─► flows (conntrack)
//!                                               │ model   └─► health, health checks, metrics ─► HTTP
//!   portico-nodeproxy trace, explain ─► socket ─┘ diagnose
//! ```
//!
//! One task owns the model and the dataplane ([`sync`]); all others send it input events or read its output.

pub mod affinity;
pub mod api_client;
pub mod args;
pub mod conntrack;
pub mod convert;
pub mod dataplane;
pub mod dataplane_setup;
pub mod diagnose;
pub mod events;
pub mod health;
pub mod health_check;
pub mod input_event;
pub mod metrics;
pub mod node;
pub mod run;
pub mod serve;
mod sloppy;
pub mod sync;
pub mod taint;
pub mod watch;
