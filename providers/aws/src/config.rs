//! The provider's configuration: the account and the cluster.
//!
//! Owns: [`Config`]. Leaves to others: reading it from flags (the operator), checking it (`provider`).

use std::time::Duration;

use portico_provider::ClusterUid;

use crate::quotas::Quotas;

/// The account and the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `vpc-…` of the cluster's nodes and pods.
    pub vpc: String,
    /// `sg-…` in front of every load balancer, which the rules of the nodes' security groups admit. `None`: nodes admit
    /// all addresses, or the load balancers' own security groups.
    pub backend_security_group: Option<String>,
    /// Subnets tagged with another cluster's name (`kubernetes.io/cluster/<name>`) are not discovered.
    pub cluster_name: Option<String>,
    /// The cluster that owns the Services.
    pub cluster: ClusterUid,
    /// The account's quotas.
    pub quotas: Quotas,
    /// The wait before the first read of what AWS does by itself; later waits are longer.
    pub pace: Duration,
}
