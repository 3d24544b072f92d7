//! The model of a load balancer, and the promises of every provider.
//!
//! ```text
//!  Service, nodes, pods ──operator──▶ LoadBalancer ─┐
//!                                                   ├─plan──▶ Plan<Step> ──execute──▶ the cloud
//!  the cloud ──inventory / observe──▶ Observed ─────┤
//!                                                   └─report─▶ Report ──operator──▶ Service status
//! ```
//!
//! Owns: the [`LoadBalancerProvider`] trait, the desired model ([`LoadBalancer`]), [`Plan`], [`Report`],
//! [`ProviderError`], and (feature `contract`) the suite every provider passes.
//! Leaves to others: reading Services (the operator), talking to a cloud (a crate per provider).
//! Invariant: pure. No runtime, no Kubernetes type, no SDK type; the manifest proves it.

mod capabilities;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod desired;
mod error;
mod model;
mod plan;
mod provider;
mod read_mode;
mod report;
pub mod subset;

pub use capabilities::{
    Capabilities, Field, FieldRule, Mutability, OptionSpec, StatusKind, TargetKind, option, rule,
};
pub use desired::Desired;
pub use error::{ProviderError, Retry};
pub use model::*;
pub use plan::{Blocked, Effect, Obstacle, Plan, PlannedStep, Waiting};
pub use provider::{Inventory, LoadBalancerProvider, Outcome, Owned};
pub use read_mode::ReadMode;
pub use report::{Fact, Ingress, IpMode, PortStatus, Report, Topic, Truth};

/// Compiles and runs the example of `CONTRIBUTING.md`.
#[cfg(doctest)]
#[doc = include_str!("../../../CONTRIBUTING.md")]
pub struct Contributing;
