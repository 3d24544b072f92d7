//! `portico-lb`, above its dataplane: what exists, whose it is, which address it has.
//!
//! ```text
//! http ──▶ registry ──▶ ipam (which address) ──▶ store (on disk first) ──▶ placement (on the interface)
//!                  └──▶ dataplane (sockets)
//! ```
//! Owns: the parts below. Leaves to others: carrying traffic (`dataplane`).
//! Invariant: what a caller was told is on disk, so a restart keeps addresses and listeners.

pub mod args;
pub mod http;
pub mod ipam;
pub mod placement;
pub mod registry;
pub mod run;
mod spec;
pub mod store;
#[cfg(test)]
mod tests;
