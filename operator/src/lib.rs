//! The operator: takes each Service through its stages, and provisions the load balancers of those that ask.
//!
//! ```text
//!  API server ──watch──▶ cache ──stages──▶ Work ──plan──▶ a go: observe, execute ──▶ provider
//!                          │                  │                     │
//!                          └──▶ queue ──▶ reconcile ◀───────────────┘
//!                                             └──▶ finalizer, status, conditions, Events
//!  leader: all of it only while the lease is held        gc: what no Service claims
//! ```
//!
//! Owns: the binary `portico-operator`. Leaves to others: how a load balancer comes to be (`providers/`), how packets
//! get there (`nodeproxy/`).
//! Invariant: everything is recoverable from the cluster and the provider; memory only saves work.

mod admin;
mod admission;
mod args;
mod attempt;
mod audit;
mod backoff;
mod cache;
mod class_parameters;
mod classes;
mod cli;
mod cluster;
mod connect;
mod desired;
mod events;
mod fence;
mod gc;
mod inventory;
mod leader;
mod locks;
mod metrics;
mod operation;
mod options;
mod permits;
mod planned;
mod pods;
mod problem;
mod queue;
mod reconcile;
mod resources;
mod run;
mod service;
mod stages;
mod status;
mod table;
mod targets;
#[cfg(test)]
mod testing;
mod track;
mod tracks;
mod trigger;
mod version;
mod view;
mod want;
mod watch;
mod worker;

pub use args::Command;
pub use class_parameters::{
    ClassOptions, LoadBalancerClassParameters, LoadBalancerClassParametersSpec, ParametersCondition,
    ParametersStatus, ProxyProtocolParameter, SchemeParameter, TargetKindParameter,
};
pub use cli::{error_text, main as execute};
pub use options::{ANNOTATIONS, AnnotationSpec};
