//! Portico's release on this suite's cluster.

use std::time::Duration;

use portico_e2e::{cluster::Cluster, portico};

/// Name of the release.
pub(crate) const NAME: &str = "portico";

/// The node proxy's program.
pub(crate) const NODE_PROXY: &str = "portico-nodeproxy";

/// Name of the operator: of its Deployment, and of its program in an image.
pub(crate) const OPERATOR: &str = "portico-operator";

/// `--lease-duration`: after so long without renewal another operator may lead.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(15);

/// Waits until all of Portico's pods are ready.
pub(crate) async fn all_ready(cluster: &Cluster) -> anyhow::Result<()> {
    portico::rolled_out(cluster, "deployment/portico-operator").await?;
    portico::rolled_out(cluster, "daemonset/portico-nodeproxy").await
}
