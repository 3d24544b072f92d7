//! How the provider is configured.

use portico_provider::ClusterUid;

use crate::resource::Backends;

/// Configuration of [`GceProvider`](crate::GceProvider).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The project's ID.
    pub project: String,
    /// The project of the network and its subnetworks and firewalls, where that is another one: the host of a Shared VPC.
    pub network_project: Option<String>,
    /// The region of the cluster's nodes.
    pub region: String,
    /// The VPC network of the cluster's nodes.
    pub network: String,
    /// Their subnetwork, which internal addresses come from unless an annotation names another.
    pub subnetwork: String,
    /// The backends of new load balancers; an existing one keeps its own.
    pub backends: Backends,
    /// Compute Engine's counterpart for tests, `http://IP:PORT`; `None`: Google's, with Application Default
    /// Credentials.
    pub endpoint: Option<String>,
    /// The cluster whose Services these are.
    pub cluster: ClusterUid,
}
