//! The parts of a process that the operator and the node proxy share.
//!
//! | module | content |
//! |---|---|
//! | [`error`] | an error and its causes in one line |
//! | [`log`] | log lines on standard error, for people or as JSON |
//! | [`tasks`] | named tasks of which none may end |
//! | [`http`] | servers for probes and metrics, with limits on what a client may cost |
//! | [`event`] | Kubernetes Events within the API's limits |
//!
//! Leaves to others: everything about Services. Invariant: nothing here knows a Service, a provider or a packet.

pub mod error;
pub mod event;
pub mod http;
pub mod log;
pub mod tasks;

pub use error::chain;
