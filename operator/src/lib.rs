//! The operator: takes each Service through its stages, and provisions the load balancers of those that ask.
//!
//! ```text
//!  API server ──watch──▶ cache ──stages──▶ Work ──plan──▶ attempt: read, execute ──▶ provider
//!                          │                  │                     │
//!                          └──▶ queue ──▶ reconcile ◀───────────────┘
//!                                             └──▶ finalizer, status, conditions, Events
//!  leader: all of it only while the lease is held        gc: what no Service claims
//! ```
//!
//! Owns: the binary `portico-operator`. Leaves to others: how a load balancer comes to be (`providers/`), how packets
//! get there (`nodeproxy/`).
//! Invariant: everything is recoverable from the cluster and the provider; memory only saves work.

mod args;
mod background;
mod backoff;
mod cache;
mod cli;
mod desired;
mod metrics;
mod process;
mod provision;
mod reconcile;
#[cfg(test)]
mod testing;

pub use args::Command;
pub use cache::class_parameters::{
    ClassOptions, LoadBalancerClassParameters, LoadBalancerClassParametersSpec, ParametersCondition,
    ParametersStatus, ProxyProtocolParameter, SchemeParameter, TargetKindParameter,
};
pub use cli::main as execute;
pub use desired::options::{ANNOTATIONS, AnnotationSpec};
