//! Provisioning: the path from a wanted load balancer to the provider.
//!
//! Owns: attempts, their order, and the inventory of what exists. Leaves to others: what is wanted (`desired`), writes to
//! the cluster (`reconcile`).

pub(crate) mod attempt;
pub(crate) mod inventory;
pub(crate) mod locks;
pub(crate) mod operation;
pub(crate) mod permits;
pub(crate) mod plan_view;
pub(crate) mod track;
pub(crate) mod tracks;
pub(crate) mod trigger;
pub(crate) mod want;
