//! What is possible with node ports alone.
//!
//! Owns: the capability, field and option tables. Leaves to others: acting on them.
//! Invariant: what the node proxy does (source ranges, affinity, policy) is mutable here and costs nothing.

use portico_provider::{Capabilities, Field, IpFamily, Mutability, Protocol, StatusKind, TargetKind, rule};

/// What this provider can do, and the annotations it reads.
pub const CAPABILITIES: Capabilities = Capabilities {
    protocols: &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
    mixed_protocols: true,
    target_kinds: &[TargetKind::Node],
    needs_node_ports: true,
    pods_in_place_of_node_ports: false,
    ip_families: &[IpFamily::IPv4, IpFamily::IPv6],
    status: StatusKind::Nodes,
    source_ranges: false,
    session_affinity: false,
    proxy_protocol: false,
    fields: &[
        rule(Field::Listeners, Mutability::Mutable),
        rule(Field::Targets, Mutability::Mutable),
        rule(Field::TargetKind, Mutability::Immutable),
        rule(Field::HealthCheck, Mutability::Mutable),
        rule(Field::SourceRanges, Mutability::Mutable),
        rule(Field::SessionAffinity, Mutability::Mutable),
        rule(Field::ExternalTrafficPolicy, Mutability::Mutable),
        rule(Field::ProxyProtocol, Mutability::Immutable),
        rule(Field::IpFamilies, Mutability::Mutable),
        rule(Field::RequestedAddresses, Mutability::Immutable),
        rule(Field::Scheme, Mutability::Immutable),
        rule(Field::Group, Mutability::Immutable),
        rule(Field::Options, Mutability::Immutable),
    ],
    options: &[],
    option_prefixes: &[],
};
