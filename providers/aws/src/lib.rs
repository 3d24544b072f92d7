//! Network Load Balancers on AWS.
//!
//! ```text
//!  LoadBalancer ─translate─▶ Wanted ─┐
//!                                    ├─plan──▶ Plan<Step> ─execute─▶ Sdk ─▶ ELBv2, EC2, tagging
//!  Sdk ───observe─▶ Observed ────────┘                             AWS's SDKs; in tests over a client that fails
//! ```
//! Owns: [`AwsProvider`]. Leaves to others: DNS records, certificates, subnets, instances, elastic addresses: the
//! user makes those, and names them. Invariants: nothing without this cluster's owner tags is touched; deletion
//! protection is never switched off; the pure half (options, wanted, plan, report) knows no SDK.

mod cache;
mod capabilities;
mod cloud;
mod config;
mod execute;
mod names;
mod observe;
mod observed;
mod options;
mod plan;
mod provider;
mod quotas;
mod report;
mod step;
mod tags;
#[cfg(test)]
mod tests;
mod wanted;

pub use capabilities::CAPABILITIES;
pub use cloud::Sdk;
pub use config::Config;
pub use provider::AwsProvider;
pub use quotas::{InvalidQuota, Quota, Quotas};
