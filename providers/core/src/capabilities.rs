//! Capabilities of a provider, as data: the operator validates, documents and chooses targets by them.
//!
//! Owns: [`Capabilities`], the field table (law 7) and the option table. Leaves to others: acting on them.
//! Invariant: every [`Field`] has exactly one [`Mutability`] per provider; the contract suite checks it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{IpFamily, Options, Protocol};

/// Capabilities of a provider, fixed at build time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent yes-or-no facts that no caller ever passes by position"
)]
pub struct Capabilities {
    /// Listeners it takes.
    pub protocols: &'static [Protocol],
    /// Whether one Service may have listeners of several protocols.
    pub mixed_protocols: bool,
    /// Kinds of targets, the preferred one first.
    pub target_kinds: &'static [TargetKind],
    /// Whether node targets are reached through their node ports, so that a Service with
    /// `allocateLoadBalancerNodePorts: false` cannot have them (a passthrough load balancer needs none).
    pub needs_node_ports: bool,
    /// Whether it reaches pods whatever the cluster's network is, and changes to them in place. A Service that declined node
    /// ports that node targets need then gets pods as targets, unless something else chooses them.
    pub pods_in_place_of_node_ports: bool,
    /// Families it gives addresses of.
    pub ip_families: &'static [IpFamily],
    /// The kind of address that clients connect to.
    pub status: StatusKind,
    /// Whether it enforces `loadBalancerSourceRanges` itself (else the node proxy does).
    pub source_ranges: bool,
    /// Whether it keeps a client on one target.
    pub session_affinity: bool,
    /// Whether it can write PROXY protocol headers.
    pub proxy_protocol: bool,
    /// For each field: what a change costs.
    pub fields: &'static [FieldRule],
    /// Annotations it understands.
    pub options: &'static [OptionSpec],
    /// The prefix of its own annotations, if no other program uses it: an unknown key under it is a typing error.
    pub option_prefixes: &'static [&'static str],
}

impl Capabilities {
    /// The cost of a change of `field` here; a field without a row cannot change.
    pub fn mutability(&self, field: Field) -> Mutability {
        self.fields
            .iter()
            .find(|rule| rule.field == field)
            .map_or(Mutability::Immutable, |rule| rule.mutability)
    }

    /// The option that an annotation sets, if it is one of this provider's.
    pub fn option(&self, annotation: &str) -> Option<&'static OptionSpec> {
        self.options.iter().find(|spec| spec.matches(annotation))
    }

    /// The kind of targets that options choose; pods, if they disagree.
    pub fn chosen_targets(&self, options: &Options) -> Option<TargetKind> {
        let said = |spec: &OptionSpec| {
            let value = options.get(spec.key)?;
            spec.targets.iter().find(|(word, _)| *word == value).map(|(_, kind)| *kind)
        };
        let chosen: Vec<TargetKind> = self.options.iter().filter_map(said).collect();
        if chosen.contains(&TargetKind::Pod) { Some(TargetKind::Pod) } else { chosen.first().copied() }
    }
}

/// The kind of targets behind a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// Nodes, at their node ports.
    Node,
    /// Pods, by their own addresses.
    Pod,
}

/// The kind of entry in `status.loadBalancer.ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// Addresses of the load balancer's own.
    Ip,
    /// A DNS name.
    Hostname,
    /// Addresses of nodes, or nothing.
    Nodes,
}

/// A field of [`crate::LoadBalancer`] that a user can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `LoadBalancer::listeners`: ports and protocols.
    Listeners,
    /// `targets`, within one kind.
    Targets,
    /// Nodes to pods, or back.
    TargetKind,
    /// `LoadBalancer::health_check`.
    HealthCheck,
    /// `LoadBalancer::source_ranges`.
    SourceRanges,
    /// `LoadBalancer::session_affinity`.
    SessionAffinity,
    /// `LoadBalancer::external_traffic_policy`.
    ExternalTrafficPolicy,
    /// `LoadBalancer::proxy_protocol`.
    ProxyProtocol,
    /// `LoadBalancer::ip_families`.
    IpFamilies,
    /// `LoadBalancer::requested_addresses`.
    RequestedAddresses,
    /// `LoadBalancer::scheme`: internal or external.
    Scheme,
    /// `LoadBalancer::group`: the load balancer that it shares.
    Group,
    /// One of `options`; its own row is in [`Capabilities::options`].
    Options,
}

impl Field {
    /// Every field, in the order of the docs' tables.
    pub const ALL: [Self; 13] = [
        Self::Listeners,
        Self::Targets,
        Self::TargetKind,
        Self::HealthCheck,
        Self::SourceRanges,
        Self::SessionAffinity,
        Self::ExternalTrafficPolicy,
        Self::ProxyProtocol,
        Self::IpFamilies,
        Self::RequestedAddresses,
        Self::Scheme,
        Self::Group,
        Self::Options,
    ];
}

impl Field {
    /// The name a user knows it by; also a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listeners => "spec.ports",
            Self::Targets => "targets",
            Self::TargetKind => "target kind",
            Self::HealthCheck => "health check",
            Self::SourceRanges => "spec.loadBalancerSourceRanges",
            Self::SessionAffinity => "spec.sessionAffinity",
            Self::ExternalTrafficPolicy => "spec.externalTrafficPolicy",
            Self::ProxyProtocol => "PROXY protocol",
            Self::IpFamilies => "spec.ipFamilies",
            Self::RequestedAddresses => "requested address",
            Self::Scheme => "scheme",
            Self::Group => "group",
            Self::Options => "annotation",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The cost of a change of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutability {
    /// Nothing: it changes in place.
    Mutable,
    /// Another load balancer (or address), made first, with the user's consent.
    Replace,
    /// It cannot change, or cannot be set at all: the user deletes and creates the Service again, or keeps the old value.
    Immutable,
}

/// A row of the field table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRule {
    /// The field that is meant.
    pub field: Field,
    /// The cost of a change.
    pub mutability: Mutability,
}

/// A row of the field table.
pub const fn rule(field: Field, mutability: Mutability) -> FieldRule {
    FieldRule { field, mutability }
}

/// A row of the option table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// The annotation's full name; one that ends in `.` stands for all that begin with it.
    pub key: &'static str,
    /// Accepted values, for docs: `duration such as 30s`.
    pub value: &'static str,
    /// The default, for docs.
    pub default: &'static str,
    /// The cost of a change.
    pub mutability: Mutability,
    /// Values that choose what is behind the load balancer.
    pub targets: &'static [(&'static str, TargetKind)],
}

/// A row of the option table; the arguments are its fields in their order.
pub const fn option(
    key: &'static str,
    value: &'static str,
    default: &'static str,
    mutability: Mutability,
) -> OptionSpec {
    OptionSpec { key, value, default, mutability, targets: &[] }
}

impl OptionSpec {
    /// The same, with values that choose what is behind the load balancer.
    #[must_use]
    pub const fn choosing(self, targets: &'static [(&'static str, TargetKind)]) -> Self {
        Self { targets, ..self }
    }

    /// Whether it is set by this annotation.
    pub fn matches(&self, annotation: &str) -> bool {
        if self.key.ends_with('.') { annotation.starts_with(self.key) } else { annotation == self.key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_the_kind_of_targets_and_pods_win() {
        const ROWS: &[OptionSpec] = &[
            option("a", "", "", Mutability::Mutable).choosing(&[("pods", TargetKind::Pod)]),
            option("b", "", "", Mutability::Mutable)
                .choosing(&[("nodes", TargetKind::Node), ("pods", TargetKind::Pod)]),
        ];
        let capabilities = Capabilities {
            protocols: &[],
            mixed_protocols: false,
            target_kinds: &[TargetKind::Node, TargetKind::Pod],
            needs_node_ports: true,
            pods_in_place_of_node_ports: false,
            ip_families: &[],
            status: StatusKind::Hostname,
            source_ranges: false,
            session_affinity: false,
            proxy_protocol: false,
            fields: &[],
            options: ROWS,
            option_prefixes: &[],
        };
        let chosen = |pairs: &[(&str, &str)]| {
            let options = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            capabilities.chosen_targets(&options.collect())
        };
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[("a", "else"), ("b", "")]), None);
        assert_eq!(chosen(&[("a", "pods"), ("b", "nodes")]), Some(TargetKind::Pod));
        assert_eq!(chosen(&[("b", " nodes ")]), Some(TargetKind::Node));
    }
}
