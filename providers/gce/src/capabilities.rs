//! Capabilities of Google's passthrough load balancers.
//!
//! Owns: the capability, field and option tables. Leaves to others: acting on them (`wanted`, `plan`).
//! Invariant: an option that is listed and not implemented is refused with a message, never ignored.

use portico_provider::{
    Capabilities, Field, IpFamily, Mutability, OptionSpec, Protocol, StatusKind, TargetKind, option, rule,
};

pub(crate) const TYPE: &str = "networking.gke.io/load-balancer-type";
pub(crate) const OLD_TYPE: &str = "cloud.google.com/load-balancer-type";
pub(crate) const TIER: &str = "cloud.google.com/network-tier";
pub(crate) const GLOBAL_ACCESS: &str = "networking.gke.io/internal-load-balancer-allow-global-access";
pub(crate) const INTERNAL_SUBNET: &str = "networking.gke.io/internal-load-balancer-subnet";
pub(crate) const SUBNET: &str = "networking.gke.io/load-balancer-subnet";
pub(crate) const ADDRESSES: &str = "networking.gke.io/load-balancer-ip-addresses";
pub(crate) const RBS: &str = "cloud.google.com/l4-rbs";
pub(crate) const DENY_FIREWALL: &str = "portico.dev/gce-deny-firewall";
pub(crate) const COLLECTION_V6: &str = "networking.gke.io/ip-collection-v6";
pub(crate) const WEIGHTED: &str = "networking.gke.io/weighted-load-balancing";
pub(crate) const STRONG_AFFINITY: &str = "networking.gke.io/l4-strong-session-affinity";
/// Cached to GKE's users, and not done here.
pub(crate) const NOT_IMPLEMENTED: [&str; 2] =
    ["networking.gke.io/custom-forwarding-rule", "networking.gke.io/l4lb-config"];

const fn refused(index: usize) -> OptionSpec {
    option(NOT_IMPLEMENTED[index], "nothing: not implemented", "off", Mutability::Immutable)
}

/// Capabilities of this provider, and the annotations that it reads.
pub const CAPABILITIES: Capabilities = Capabilities {
    protocols: &[Protocol::Tcp, Protocol::Udp],
    mixed_protocols: true,
    target_kinds: &[TargetKind::Node],
    // Packets reach a node with the load balancer's address as their destination.
    needs_node_ports: false,
    pods_in_place_of_node_ports: false,
    ip_families: &[IpFamily::IPv4, IpFamily::IPv6],
    status: StatusKind::Ip,
    source_ranges: true,
    session_affinity: true,
    proxy_protocol: false,
    fields: &[
        rule(Field::Listeners, Mutability::Mutable),
        rule(Field::Targets, Mutability::Mutable),
        rule(Field::TargetKind, Mutability::Immutable),
        rule(Field::HealthCheck, Mutability::Mutable),
        rule(Field::SourceRanges, Mutability::Mutable),
        rule(Field::SessionAffinity, Mutability::Mutable),
        // The health check that comes with it, and how many nodes are chosen.
        rule(Field::ExternalTrafficPolicy, Mutability::Mutable),
        rule(Field::ProxyProtocol, Mutability::Immutable),
        rule(Field::IpFamilies, Mutability::Mutable),
        rule(Field::RequestedAddresses, Mutability::Replace),
        rule(Field::Scheme, Mutability::Replace),
        rule(Field::Group, Mutability::Immutable),
        rule(Field::Options, Mutability::Mutable),
    ],
    options: &[
        option(TYPE, "Internal or External", "portico.dev/scheme", Mutability::Replace),
        option(OLD_TYPE, "Internal or External", "portico.dev/scheme", Mutability::Replace),
        option(TIER, "Premium or Standard", "Premium", Mutability::Replace),
        option(GLOBAL_ACCESS, "true or false; internal only", "false", Mutability::Mutable),
        option(
            INTERNAL_SUBNET,
            "name of a subnetwork; internal only",
            "--gce-subnetwork",
            Mutability::Replace,
        ),
        option(
            SUBNET,
            "name of a subnetwork; internal or IPv6 only",
            "--gce-subnetwork",
            Mutability::Replace,
        ),
        option(
            ADDRESSES,
            "name of a reserved address of the region; of two families IPV4-NAME,IPV6-NAME",
            "one is reserved",
            Mutability::Replace,
        ),
        option(RBS, "enabled, which is always so", "enabled", Mutability::Mutable),
        option(DENY_FIREWALL, "true or false", "false", Mutability::Mutable),
        option(WEIGHTED, "pods-per-node; with externalTrafficPolicy: Local", "off", Mutability::Mutable),
        option(STRONG_AFFINITY, "enabled; with sessionAffinity: ClientIP", "off", Mutability::Mutable),
        option(
            COLLECTION_V6,
            "URL of a public delegated prefix; external IPv6 only",
            "Google's addresses",
            Mutability::Replace,
        ),
        refused(0),
        refused(1),
    ],
    // The rest of these two domains is about Ingress, Gateway and network policies.
    option_prefixes: &[
        "networking.gke.io/load-balancer-",
        "networking.gke.io/internal-load-balancer-",
        "networking.gke.io/l4",
        "cloud.google.com/l4",
    ],
};
