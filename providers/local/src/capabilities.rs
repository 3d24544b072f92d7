//! Capabilities of `portico-lb`.
//!
//! Owns: the capability, field and option tables. Leaves to others: acting on them.
//! Invariant: the daemon enforces what is `true` here itself.

use portico_provider::{
    Capabilities, Field, IpFamily, Mutability, OptionSpec, Protocol, StatusKind, TargetKind, rule,
};

/// Annotation: how long a new load balancer takes.
pub(crate) const PROVISIONING_DELAY: &str = "portico.dev/local-provisioning-delay";

/// Capabilities of this provider, and the annotations that it reads.
pub const CAPABILITIES: Capabilities = Capabilities {
    protocols: &[Protocol::Tcp, Protocol::Udp],
    mixed_protocols: true,
    target_kinds: &[TargetKind::Node, TargetKind::Pod],
    needs_node_ports: true,
    pods_in_place_of_node_ports: true,
    ip_families: &[IpFamily::IPv4, IpFamily::IPv6],
    status: StatusKind::Ip,
    source_ranges: true,
    session_affinity: true,
    proxy_protocol: true,
    fields: &[
        rule(Field::Listeners, Mutability::Mutable),
        rule(Field::Targets, Mutability::Mutable),
        rule(Field::TargetKind, Mutability::Mutable),
        rule(Field::HealthCheck, Mutability::Mutable),
        rule(Field::SourceRanges, Mutability::Mutable),
        rule(Field::SessionAffinity, Mutability::Mutable),
        // The health check that comes with it is all that this load balancer sees of it.
        rule(Field::ExternalTrafficPolicy, Mutability::Mutable),
        rule(Field::ProxyProtocol, Mutability::Mutable),
        rule(Field::IpFamilies, Mutability::Mutable),
        rule(Field::RequestedAddresses, Mutability::Replace),
        rule(Field::Scheme, Mutability::Immutable),
        rule(Field::Group, Mutability::Immutable),
        rule(Field::Options, Mutability::Mutable),
    ],
    options: &[OptionSpec {
        key: PROVISIONING_DELAY,
        value: "duration such as 30s",
        default: "the daemon's --provisioning-delay",
        mutability: Mutability::Mutable,
        targets: &[],
    }],
    option_prefixes: &[],
};
