//! The load balancer that a Service asks for: its fields, annotations, class rules and stages.
//!
//! Owns: parsing, and the problems that a user has to fix. Leaves to others: provisioning it (`provision`).
//! Invariant: no I/O.

pub(crate) mod admission;
pub(crate) mod class_resolver;
pub(crate) mod classes;
pub(crate) mod options;
pub(crate) mod problem;
pub(crate) mod spec;
pub(crate) mod stages;
