//! How the provider is configured.

/// Configuration of [`BareMetalProvider`](crate::BareMetalProvider).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Publish the addresses of nodes as `status.loadBalancer.ingress`, `ipMode: Proxy`.
    pub publish_node_addresses: bool,
}
