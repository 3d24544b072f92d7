//! This provider's capabilities, and the annotations it reads, under the names of the AWS Load Balancer Controller.
//!
//! Owns: the capability, field and option tables. Leaves to others: reading values (`options`).
//! Invariant: an annotation of that controller which is not honoured here is in [`NOT_HONOURED`] with the reason, and
//! stops the Service's plan; none is silently ignored.

use portico_provider::{
    Capabilities, Field, IpFamily, Mutability, OptionSpec, Protocol, StatusKind, TargetKind, option, rule,
};

/// Prefixes a name as the AWS Load Balancer Controller does.
macro_rules! key {
    ($name:literal) => {
        concat!("service.beta.kubernetes.io/aws-load-balancer-", $name)
    };
}

pub(crate) const ADOPT: &str = "portico.dev/adopt";
pub(crate) const TYPE: &str = key!("type");
pub(crate) const TARGET_TYPE: &str = key!("nlb-target-type");
pub(crate) const SCHEME: &str = key!("scheme");
pub(crate) const INTERNAL: &str = key!("internal");
pub(crate) const NAME: &str = key!("name");
pub(crate) const SUBNETS: &str = key!("subnets");
pub(crate) const EIPS: &str = key!("eip-allocations");
pub(crate) const PRIVATE_ADDRESSES: &str = key!("private-ipv4-addresses");
pub(crate) const IPV6_ADDRESSES: &str = key!("ipv6-addresses");
pub(crate) const SOURCE_NAT: &str = key!("enable-prefix-for-ipv6-source-nat");
pub(crate) const SOURCE_PREFIXES: &str = key!("source-nat-ipv6-prefixes");
pub(crate) const ADDRESS_TYPE: &str = key!("ip-address-type");
pub(crate) const PROXY: &str = key!("proxy-protocol");
pub(crate) const PROXY_PORTS: &str = key!("proxy-protocol-per-target-group");
pub(crate) const CERTIFICATE: &str = key!("ssl-cert");
pub(crate) const TLS_PORTS: &str = key!("ssl-ports");
pub(crate) const TLS_POLICY: &str = key!("ssl-negotiation-policy");
pub(crate) const BACKEND_PROTOCOL: &str = key!("backend-protocol");
pub(crate) const ALPN: &str = key!("alpn-policy");
pub(crate) const CHECK_PROTOCOL: &str = key!("healthcheck-protocol");
pub(crate) const CHECK_PORT: &str = key!("healthcheck-port");
pub(crate) const CHECK_PATH: &str = key!("healthcheck-path");
pub(crate) const CHECK_INTERVAL: &str = key!("healthcheck-interval");
pub(crate) const CHECK_TIMEOUT: &str = key!("healthcheck-timeout");
pub(crate) const CHECK_HEALTHY: &str = key!("healthcheck-healthy-threshold");
pub(crate) const CHECK_UNHEALTHY: &str = key!("healthcheck-unhealthy-threshold");
pub(crate) const CHECK_CODES: &str = key!("healthcheck-success-codes");
pub(crate) const GROUP_ATTRIBUTES: &str = key!("target-group-attributes");
pub(crate) const GROUP_ATTRIBUTES_OF: &str = key!("target-group-attributes.");
/// Ends in `<PROTOCOL>-<port>`: `TCP-80`.
pub(crate) const LISTENER_ATTRIBUTES_OF: &str = key!("listener-attributes.");
pub(crate) const ATTRIBUTES: &str = key!("attributes");
pub(crate) const CROSS_ZONE: &str = key!("cross-zone-load-balancing-enabled");
pub(crate) const SECURITY_GROUPS: &str = key!("security-groups");
pub(crate) const NODE_RULES: &str = key!("manage-backend-security-group-rules");
pub(crate) const PREFIX_LISTS: &str = key!("security-group-prefix-lists");
pub(crate) const TAGS: &str = key!("additional-resource-tags");

pub(crate) const LOG_ENABLED: &str = key!("access-log-enabled");
pub(crate) const LOG_BUCKET: &str = key!("access-log-s3-bucket-name");
pub(crate) const LOG_PREFIX: &str = key!("access-log-s3-bucket-prefix");
pub(crate) const TCP_UDP: &str = key!("enable-tcp-udp-listener");

/// An annotation that is refused.
pub(crate) struct NotHonoured {
    pub(crate) key: &'static str,
    pub(crate) remedy: &'static str,
    /// The value that asks for what there is anyway.
    pub(crate) harmless: Option<&'static str>,
}

const fn refused(key: &'static str, remedy: &'static str, harmless: Option<&'static str>) -> NotHonoured {
    NotHonoured { key, remedy, harmless }
}

/// Known, and refused with what to do instead.
pub(crate) const NOT_HONOURED: &[NotHonoured] = &[
    refused(
        key!("disable-nlb-sg"),
        "a load balancer made without security groups can never have any; remove it",
        Some("false"),
    ),
    refused(
        key!("target-node-labels"),
        "label nodes node.kubernetes.io/exclude-from-external-load-balancers instead",
        None,
    ),
    refused(
        key!("multi-cluster-target-group"),
        "a target group is one cluster's here; remove it",
        Some("false"),
    ),
    refused(
        key!("quic-enabled-ports"),
        "QUIC passes as UDP, without its connection IDs being read; remove it",
        None,
    ),
    refused(
        key!("inbound-sg-rules-on-private-link-traffic"),
        "AWS's default stays, which enforces rules on traffic by PrivateLink too; remove it",
        Some("on"),
    ),
    refused(key!("minimum-load-balancer-capacity"), "capacity is not reserved; remove it", None),
    refused(
        key!("enable-icmp-for-path-mtu-discovery"),
        "only the Service's own ports are let in; remove it",
        Some("off"),
    ),
    refused(key!("access-log-emit-interval"), "Network Load Balancers have no such choice; remove it", None),
    refused(
        "service.beta.kubernetes.io/actions.",
        "traffic is not split among target groups by weight here: remove it, or leave this Service to the AWS Load Balancer \
         Controller",
        None,
    ),
];

use Mutability::{Immutable, Mutable, Replace};

/// Annotations that are honoured.
const HONOURED: &[OptionSpec] = &[
    option(
        ADOPT,
        "name or ARN of a load balancer that the AWS Load Balancer Controller made for this Service",
        "one is made",
        Immutable,
    ),
    option(TYPE, "external, nlb or nlb-ip, which chooses pods as targets", "external", Mutable)
        .choosing(&[("nlb-ip", TargetKind::Pod)]),
    option(
        TARGET_TYPE,
        "instance or ip, in agreement with portico.dev/target-kind if both are there",
        "portico.dev/target-kind",
        Mutable,
    )
    .choosing(&[("instance", TargetKind::Node), ("ip", TargetKind::Pod)]),
    option(SCHEME, "internet-facing or internal", "portico.dev/scheme", Replace),
    option(INTERNAL, "true or false", "portico.dev/scheme", Replace),
    option(NAME, "1 to 32 letters, digits and hyphens", "made from the Service's UID", Replace),
    option(
        SUBNETS,
        "IDs or names, separated by commas; adding is in place, removing replaces",
        "by tag",
        Replace,
    ),
    option(EIPS, "eipalloc-… for each subnet, separated by commas", "AWS chooses", Replace),
    option(PRIVATE_ADDRESSES, "IPv4 for each subnet, separated by commas", "AWS chooses", Replace),
    option(IPV6_ADDRESSES, "IPv6 for each of the named subnets, separated by commas", "AWS chooses", Replace),
    option(SOURCE_NAT, "on or off; on for UDP on a dual-stack load balancer", "off", Mutable),
    option(
        SOURCE_PREFIXES,
        "/80 of each of the named subnets, or auto_assigned, separated by commas",
        "auto_assigned",
        Mutable,
    ),
    option(ADDRESS_TYPE, "ipv4 or dualstack", "spec.ipFamilies", Mutable),
    option(PROXY, "*", "portico.dev/proxy-protocol", Mutable),
    option(PROXY_PORTS, "ports, separated by commas", "none", Mutable),
    option(
        CERTIFICATE,
        "ARNs of ACM or IAM, separated by commas; the first is the default, SNI picks",
        "no TLS",
        Mutable,
    ),
    option(TLS_PORTS, "port numbers or names, separated by commas", "all TCP ports", Mutable),
    option(TLS_POLICY, "an SSL policy's name", "ELBSecurityPolicy-TLS13-1-2-2021-06", Mutable),
    option(BACKEND_PROTOCOL, "tcp or ssl", "tcp", Mutable),
    option(ALPN, "HTTP1Only, HTTP2Only, HTTP2Optional, HTTP2Preferred or None", "None", Mutable),
    option(CHECK_PROTOCOL, "tcp, http or https", "from spec.externalTrafficPolicy", Mutable),
    option(
        CHECK_PORT,
        "a port, the name of one of the Service, or traffic-port",
        "from spec.externalTrafficPolicy",
        Mutable,
    ),
    option(CHECK_PATH, "a path that begins with /", "from spec.externalTrafficPolicy", Mutable),
    option(CHECK_INTERVAL, "5 to 300 seconds", "5", Mutable),
    option(CHECK_TIMEOUT, "2 to 120 seconds", "2", Mutable),
    option(CHECK_HEALTHY, "2 to 10", "2", Mutable),
    option(CHECK_UNHEALTHY, "2 to 10", "2", Mutable),
    option(CHECK_CODES, "such as 200-399", "200-399", Mutable),
    option(GROUP_ATTRIBUTES, "key=value, separated by commas", "AWS's", Mutable),
    option(GROUP_ATTRIBUTES_OF, "the same, for the port at the end of the key", "AWS's", Mutable),
    option(
        LISTENER_ATTRIBUTES_OF,
        "key=value, separated by commas, for the listener at the end of the key: TCP-80",
        "AWS's",
        Mutable,
    ),
    option(ATTRIBUTES, "key=value, separated by commas", "AWS's", Mutable),
    option(CROSS_ZONE, "true or false", "false", Mutable),
    option(
        SECURITY_GROUPS,
        "sg-… or names (tag Name), separated by commas",
        "one that Portico makes",
        Mutable,
    ),
    option(
        NODE_RULES,
        "true or false, beside security-groups: whether --aws-backend-security-group is in front, too",
        "true where it is given",
        Mutable,
    ),
    option(PREFIX_LISTS, "pl-…, separated by commas; who may come in, beside source ranges", "none", Mutable),
    option(
        LOG_ENABLED,
        "true or false; the same as access_logs.s3.enabled among attributes",
        "false",
        Mutable,
    ),
    option(LOG_BUCKET, "a bucket; the same as access_logs.s3.bucket", "none", Mutable),
    option(LOG_PREFIX, "a prefix; the same as access_logs.s3.prefix", "none", Mutable),
    option(
        TCP_UDP,
        "true or false: TCP and UDP on one port share a listener, as they always do here",
        "true",
        Mutable,
    ),
    option(TAGS, "key=value, separated by commas; on what is made from now on", "none", Mutable),
];

/// Those, and the refused ones: listed too, so that the operator hands them over.
const OPTIONS: [OptionSpec; HONOURED.len() + NOT_HONOURED.len()] = {
    let mut all = [HONOURED[0]; HONOURED.len() + NOT_HONOURED.len()];
    let mut index = 0;
    while index < all.len() {
        all[index] = if index < HONOURED.len() {
            HONOURED[index]
        } else {
            option(NOT_HONOURED[index - HONOURED.len()].key, "not honoured", "", Immutable)
        };
        index += 1;
    }
    all
};

/// This provider's capabilities, and the annotations it reads.
pub const CAPABILITIES: Capabilities = Capabilities {
    protocols: &[Protocol::Tcp, Protocol::Udp],
    mixed_protocols: true,
    target_kinds: &[TargetKind::Node, TargetKind::Pod],
    needs_node_ports: true,
    pods_in_place_of_node_ports: false,
    ip_families: &[IpFamily::IPv4, IpFamily::IPv6],
    status: StatusKind::Hostname,
    source_ranges: true,
    session_affinity: true,
    proxy_protocol: true,
    fields: &[
        rule(Field::Listeners, Mutable),
        rule(Field::Targets, Mutable),
        rule(Field::TargetKind, Mutable),
        rule(Field::HealthCheck, Mutable),
        rule(Field::SourceRanges, Mutable),
        rule(Field::SessionAffinity, Mutable),
        rule(Field::ExternalTrafficPolicy, Mutable),
        rule(Field::ProxyProtocol, Mutable),
        rule(Field::IpFamilies, Mutable),
        // Addresses are elastic allocations here, named by an option.
        rule(Field::RequestedAddresses, Immutable),
        rule(Field::Scheme, Replace),
        rule(Field::Group, Replace),
        rule(Field::Options, Mutable),
    ],
    options: &OPTIONS,
    option_prefixes: &[key!(""), "service.beta.kubernetes.io/actions."],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refused_annotation_is_handed_over_and_every_key_is_there_once() {
        for NotHonoured { key, remedy, harmless: _ } in NOT_HONOURED {
            assert!(CAPABILITIES.option(key).is_some() && !remedy.is_empty(), "{key}");
        }
        let mut keys: Vec<&str> = OPTIONS.iter().map(|spec| spec.key).collect();
        keys.sort_unstable();
        let all = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
