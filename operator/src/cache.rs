//! The cache that informers feed: Services, nodes, EndpointSlices, pods and class parameters.
//!
//! Owns: watching, versions, and the targets that the cache offers. Leaves to others: every decision about a Service.

pub(crate) mod class_parameters;
pub(crate) mod node_removal;
pub(crate) mod pods;
pub(crate) mod service;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod targets;
pub(crate) mod version;
pub(crate) mod watch;
