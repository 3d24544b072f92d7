//! Annotations of the AWS Load Balancer Controller: what it makes of each, and what this provider makes.
//!
//! Owns: the table. Leaves to others: reading values (`options`), what they mean (`wanted`). Source: that controller's
//! annotations reference and `pkg/service`, v2.4 to v3.5. Where the two differ the row says why, and docs/aws.md has it.
//! Invariant: every key of that reference has a row.

use std::collections::BTreeMap;
use std::time::Duration;

use portico_provider::{
    ExternalTrafficPolicy, HealthCheck, Listener, LoadBalancer, NodeName, PodTarget, Protocol,
    SessionAffinity, TargetKind, Targets,
};

use super::plans::mk_base;
use super::{mk_options, mk_port};
use crate::CAPABILITIES;
use crate::Quotas;
use crate::capabilities as key;
use crate::cloud::resources::{GroupHealth, Transport};
use crate::wanted::{Frontend, Placement, Wanted, WantedListener};
use crate::wanted::{group_defaults, translate};

const DOCS: &str = include_str!("../../../../docs/aws.md");
/// Names in that controller's annotations reference, without the prefix.
const REFERENCE: &[&str] = &[
    "type",
    "nlb-target-type",
    "name",
    "internal",
    "scheme",
    "proxy-protocol",
    "proxy-protocol-per-target-group",
    "ip-address-type",
    "access-log-enabled",
    "access-log-s3-bucket-name",
    "access-log-s3-bucket-prefix",
    "cross-zone-load-balancing-enabled",
    "ssl-cert",
    "ssl-ports",
    "ssl-negotiation-policy",
    "backend-protocol",
    "additional-resource-tags",
    "healthcheck-protocol",
    "healthcheck-port",
    "healthcheck-path",
    "healthcheck-healthy-threshold",
    "healthcheck-unhealthy-threshold",
    "healthcheck-timeout",
    "healthcheck-interval",
    "healthcheck-success-codes",
    "eip-allocations",
    "private-ipv4-addresses",
    "ipv6-addresses",
    "target-group-attributes",
    "target-group-attributes.80",
    "subnets",
    "alpn-policy",
    "target-node-labels",
    "attributes",
    "listener-attributes.TCP-80",
    "security-groups",
    "security-group-prefix-lists",
    "manage-backend-security-group-rules",
    "inbound-sg-rules-on-private-link-traffic",
    "disable-nlb-sg",
    "enable-prefix-for-ipv6-source-nat",
    "source-nat-ipv6-prefixes",
    "minimum-load-balancer-capacity",
    "enable-icmp-for-path-mtu-discovery",
    "multi-cluster-target-group",
    "enable-tcp-udp-listener",
    "quic-enabled-ports",
    "actions.TCP-80",
];

/// The Service that annotations are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    /// TCP 80 "http" by node port 30080, TCP 9090 "admin" by 39090, policy Cluster.
    Nodes,
    /// The same, policy Local, health-check node port 32000.
    Local,
    /// The same, by pods at 8080 and 9091.
    Pods,
    /// UDP 53 by node port 30053.
    Udp,
}

fn full(name: &str) -> String {
    let prefix = if name.starts_with("actions.") {
        "service.beta.kubernetes.io/"
    } else {
        "service.beta.kubernetes.io/aws-load-balancer-"
    };
    format!("{prefix}{name}")
}

fn mk_service(on: On, annotations: &[(&str, &str)]) -> LoadBalancer {
    let named = |protocol, port, name: &str| Listener {
        protocol,
        port: mk_port(port),
        name: name.to_owned(),
        node_port: Some(mk_port(30_000 + port)),
    };
    let tcp = [named(Protocol::Tcp, 80, "http"), named(Protocol::Tcp, 9090, "admin")];
    let annotations: Vec<(String, &str)> =
        annotations.iter().map(|(name, value)| (full(name), *value)).collect();
    let pairs: Vec<(&str, &str)> = annotations.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let base = LoadBalancer {
        listeners: tcp.clone().into(),
        health_check: HealthCheck::node_proxy(),
        options: mk_options(&pairs),
        ..mk_base()
    };
    let pods = |base: LoadBalancer| {
        let ports = BTreeMap::from([(tcp[0].key(), mk_port(8080)), (tcp[1].key(), mk_port(9091))]);
        let pod =
            PodTarget { address: "10.0.0.7".parse().unwrap(), ports, node: None::<NodeName>, zone: None };
        let health_check = Some(HealthCheck::tcp_traffic());
        LoadBalancer { targets: Targets::Pods([pod].into()), health_check, ..base }
    };
    match on {
        // As the operator chooses.
        On::Nodes if CAPABILITIES.chosen_targets(&base.options) == Some(TargetKind::Pod) => pods(base),
        On::Nodes => base,
        On::Local => LoadBalancer {
            external_traffic_policy: ExternalTrafficPolicy::Local,
            health_check: Some(HealthCheck::local_endpoints(mk_port(32_000))),
            ..base
        },
        On::Pods => pods(base),
        On::Udp => LoadBalancer { listeners: [named(Protocol::Udp, 53, "dns")].into(), ..base },
    }
}

fn check(health: &GroupHealth) -> String {
    let GroupHealth { protocol, port, path, codes, interval, timeout, healthy, unhealthy } = health;
    let port = port.map_or("traffic".to_owned(), |port| port.to_string());
    let path = path.clone().map(|path| format!(" {path}")).unwrap_or_default();
    let codes = codes.clone().map(|codes| format!(" {codes}")).unwrap_or_default();
    format!("check {protocol} {port}{path}{codes} {interval}/{timeout}/{healthy}/{unhealthy}")
}

fn differing(of: &BTreeMap<String, String>, from: &BTreeMap<String, String>) -> Vec<String> {
    let differ = of.iter().filter(|(key, value)| from.get(*key) != Some(*value));
    differ.map(|(key, value)| format!("{key}={value}")).collect()
}

/// Everything of port 80 (or 53), and what of the load balancer is not a default.
fn shown(wanted: &Wanted<'_>) -> String {
    let WantedListener { spec, extras, shape, health, attributes, targets: _, room: _ } =
        wanted.listeners.values().next().unwrap();
    let mut words = vec![format!("{}/{} to {} {}", spec.protocol, spec.port, shape.targets, shape.protocol)];
    words.extend(spec.tls.iter().map(|tls| format!("{} {} {}", tls.certificate, tls.policy, tls.alpn)));
    words.push(check(health));
    words.extend(differing(attributes, &group_defaults(*shape)));
    words.extend(extras.certificates.iter().cloned());
    words.extend(differing(&extras.attributes, &BTreeMap::new()));
    if wanted.listeners.values().any(|it| it.spec.protocol != spec.protocol) {
        let all = wanted.listeners.values().map(|it| format!("{}/{}", it.spec.protocol, it.spec.port));
        words.push(all.collect::<Vec<_>>().join("+"));
    }
    words.push(format!("{:?}", wanted.scheme).to_lowercase());
    words.extend(wanted.name.clone());
    words.push(wanted.families.to_string());
    words.extend(differing(&wanted.attributes, &crate::wanted::balancer_defaults()));
    match &wanted.placement {
        Placement::Discovered => {}
        Placement::Addressed(all) => words.push(format!("{} addresses", all.len())),
        Placement::Named(all) => {
            words.extend(all.iter().map(|it| {
                let address = it.allocation.clone().or(it.private_address.map(|it| it.to_string()));
                let address = address.or(it.ipv6_address.map(|it| it.to_string()));
                let prefix = it.source_prefix.map(|it| it.to_string());
                [Some(it.subnet.clone()), address, prefix].into_iter().flatten().collect::<Vec<_>>().join("=")
            }));
        }
    }
    match &wanted.frontend {
        Frontend::Own(rules) => {
            let lists = rules.iter().map(ToString::to_string).filter(|rule| rule.contains("pl-"));
            words.extend(lists);
        }
        Frontend::Given { groups, node_rules } => {
            words.extend(groups.iter().map(|id| id.0.clone()));
            words.extend(node_rules.map(|on| format!("node rules {on}")));
        }
    }
    let own = |key: &&String| !key.starts_with("portico.dev/");
    words.extend(wanted.tags.keys().filter(own).map(|key| format!("tag {key}={}", wanted.tags[key])));
    words.join("; ")
}

fn made(on: On, annotations: &[(&str, &str)]) -> String {
    match translate(&mk_service(on, annotations), &Quotas::default()) {
        Ok(wanted) => shown(&wanted),
        Err(obstacles) => {
            let all: Vec<String> = obstacles.into_iter().map(|(_, message)| message).collect();
            format!("refused: {}", all.join("; "))
        }
    }
}

/// What both make of a Service.
struct Row {
    on: On,
    annotations: &'static [(&'static str, &'static str)],
    /// What that controller makes: parts of [`shown`].
    controller: &'static [&'static str],
    /// Where this provider differs: what it makes instead, and words of docs/aws.md that say so.
    but: Option<(&'static str, &'static str)>,
}

const fn same(
    on: On,
    annotations: &'static [(&'static str, &'static str)],
    controller: &'static [&'static str],
) -> Row {
    Row { on, annotations, controller, but: None }
}

const fn differs(
    on: On,
    annotations: &'static [(&'static str, &'static str)],
    controller: &'static [&'static str],
    made: &'static str,
    docs: &'static str,
) -> Row {
    Row { on, annotations, controller, but: Some((made, docs)) }
}

const HTTP: (&str, &str) = ("healthcheck-protocol", "http");
const READY: (&str, &str) = ("healthcheck-path", "/ready");
const CERT: (&str, &str) = ("ssl-cert", "arn:a");
const POLICY: (&str, &str) = ("ssl-negotiation-policy", "P");

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // Targets.
    same(On::Nodes, &[("type", "external")], &["TCP/80 to instance TCP"]),
    same(On::Nodes, &[("type", "nlb-ip")], &["TCP/80 to ip TCP"]),
    same(On::Nodes, &[("type", "nlb-ip"), ("nlb-target-type", "instance")], &["to ip TCP"]),
    same(On::Nodes, &[("type", "external"), ("nlb-target-type", "ip")], &["to ip TCP"]),
    same(On::Nodes, &[("nlb-target-type", "instance")], &["to instance TCP"]),
    differs(On::Nodes, &[("target-node-labels", "a=b")], &[], "refused", "target-node-labels"),
    differs(On::Nodes, &[("multi-cluster-target-group", "true")], &[], "refused", "multi-cluster-target-group"),
    same(On::Nodes, &[("multi-cluster-target-group", "false")], &["TCP/80"]),
    // Health checks.
    differs(On::Nodes, &[], &["check TCP traffic 10/10/3/3"], "check HTTP 10256 /healthz 200-399 5/2/2/2", "no health-check annotation"),
    differs(On::Local, &[], &["check HTTP 32000 /healthz 200-399 10/6/2/2"], "check HTTP 32000 /healthz 200-399 5/2/2/2", "no health-check annotation"),
    differs(On::Pods, &[], &["check TCP traffic 10/10/3/3"], "check TCP traffic 5/2/2/2", "no health-check annotation"),
    same(On::Nodes, &[HTTP, READY], &["check HTTP traffic /ready 200-399 10/10/3/3"]),
    same(On::Nodes, &[READY], &["check TCP traffic 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-port", "traffic-port")], &["check TCP traffic 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-port", "8080")], &["check TCP 8080 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-port", "admin")], &["check TCP 39090 10/10/3/3"]),
    same(On::Pods, &[("healthcheck-port", "admin")], &["check TCP 9091 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-port", "nobody")], &["refused: ", "healthcheck-port", "no port of that name"]),
    same(On::Nodes, &[HTTP], &["check HTTP traffic / 200-399 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-protocol", "HTTP")], &["check HTTP traffic / 200-399 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-protocol", "Https"), READY], &["check HTTPS traffic /ready 200-399 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-protocol", "tcp")], &["check TCP traffic 10/10/3/3"]),
    same(On::Nodes, &[("healthcheck-protocol", "udp")], &["refused: ", "healthcheck-protocol"]),
    same(On::Local, &[READY], &["check HTTP 32000 /ready 200-399 10/6/2/2"]),
    same(On::Local, &[("healthcheck-protocol", "tcp")], &["check TCP 32000 10/6/2/2"]),
    same(On::Local, &[("healthcheck-port", "traffic-port")], &["check HTTP traffic /healthz 200-399 10/6/2/2"]),
    same(On::Pods, &[HTTP, READY, ("healthcheck-port", "8080")], &["check HTTP 8080 /ready 200-399 10/10/3/3"]),
    same(On::Nodes, &[HTTP, ("healthcheck-success-codes", "200,202")], &["check HTTP traffic / 200,202 10/10/3/3"]),
    same(On::Nodes, &[HTTP, ("healthcheck-interval", "20"), ("healthcheck-timeout", "4")], &["200-399 20/4/3/3"]),
    same(On::Nodes, &[HTTP, ("healthcheck-healthy-threshold", "5"), ("healthcheck-unhealthy-threshold", "6")], &["200-399 10/10/5/6"]),
    differs(On::Nodes, &[("healthcheck-interval", "20")], &["20/10/3/3"], "check HTTP 10256 /healthz 200-399 20/2/2/2", "change just those"),
    differs(On::Nodes, &[("healthcheck-timeout", "9")], &["10/9/3/3"], "check HTTP 10256 /healthz 200-399 9/9/2/2", "change just those"),
    differs(On::Nodes, &[("healthcheck-healthy-threshold", "7")], &["10/10/7/3"], "check HTTP 10256 /healthz 200-399 5/2/7/2", "change just those"),
    same(On::Nodes, &[HTTP, ("healthcheck-interval", "5")], &["5/5/3/3"]),
    same(On::Nodes, &[("healthcheck-interval", "10"), ("healthcheck-timeout", "11")], &["refused: ", "healthcheck-timeout", "11 s is longer than the interval of 10 s", "healthcheck-interval"]),
    // Load balancer.
    differs(On::Nodes, &[], &["internal"], "external", "internet-facing"),
    same(On::Nodes, &[("scheme", "internal")], &["internal"]),
    same(On::Nodes, &[("scheme", "internet-facing"), ("internal", "true")], &["external"]),
    same(On::Nodes, &[("internal", "True")], &["internal"]),
    same(On::Nodes, &[("internal", "maybe")], &["refused: ", "internal"]),
    same(On::Nodes, &[("name", "a-name-of-the-thirty-two-allowed")], &["a-name-of-the-thirty-two-allowed"]),
    same(On::Nodes, &[("ip-address-type", "dualstack")], &["dualstack"]),
    same(On::Nodes, &[("subnets", "subnet-1, mine,")], &["subnet-1", "mine"]),
    same(On::Nodes, &[("subnets", "")], &["TCP/80"]),
    same(On::Nodes, &[("scheme", "internet-facing"), ("subnets", "a,b"), ("eip-allocations", "eipalloc-1, eipalloc-2")], &["a=eipalloc-1", "b=eipalloc-2"]),
    same(On::Nodes, &[("scheme", "internal"), ("subnets", "a"), ("private-ipv4-addresses", "10.0.0.9")], &["a=10.0.0.9"]),
    same(On::Nodes, &[("ip-address-type", "dualstack"), ("subnets", "a"), ("ipv6-addresses", "2001:db8::1")], &["a=2001:db8::1"]),
    same(On::Udp, &[("ip-address-type", "dualstack"), ("subnets", "a"), ("enable-prefix-for-ipv6-source-nat", "on"), ("source-nat-ipv6-prefixes", "2001:db8:0:1::/80")], &["a=2001:db8:0:1::/80", "source NAT"]),
    same(On::Nodes, &[("attributes", "load_balancing.cross_zone.enabled=true,")], &["load_balancing.cross_zone.enabled=true"]),
    same(On::Nodes, &[("attributes", "load_balancing.cross_zone.enabled=true"), ("cross-zone-load-balancing-enabled", "false")], &["ipv4"]),
    same(On::Nodes, &[("cross-zone-load-balancing-enabled", "True")], &["load_balancing.cross_zone.enabled=true"]),
    same(On::Nodes, &[("access-log-enabled", "true"), ("access-log-s3-bucket-name", "old"), ("access-log-s3-bucket-prefix", "p"), ("attributes", "access_logs.s3.bucket=new,access_logs.s3.prefix=n")], &["access_logs.s3.bucket=old", "access_logs.s3.enabled=true", "access_logs.s3.prefix=p"]),
    same(On::Nodes, &[("access-log-enabled", "false"), ("access-log-s3-bucket-name", "old"), ("attributes", "access_logs.s3.enabled=true,access_logs.s3.bucket=new")], &["access_logs.s3.bucket=new", "access_logs.s3.enabled=true"]),
    differs(On::Nodes, &[("minimum-load-balancer-capacity", "CapacityUnits=2")], &[], "refused", "minimum-load-balancer-capacity"),
    same(On::Nodes, &[("additional-resource-tags", "Env=dev,Team=a b")], &["tag Env=dev", "tag Team=a b"]),
    // TLS.
    differs(On::Nodes, &[CERT], &["arn:a ELBSecurityPolicy-2016-08 None"], "arn:a ELBSecurityPolicy-TLS13-1-2-2021-06 None", "TLS 1.2"),
    same(On::Nodes, &[CERT, POLICY], &["TLS/80 to instance TCP", "arn:a P None"]),
    same(On::Nodes, &[("ssl-cert", "arn:a, arn:b,"), POLICY], &["arn:a P None", "arn:b"]),
    same(On::Nodes, &[CERT, POLICY, ("ssl-ports", "http")], &["TLS/80+TCP/9090"]),
    same(On::Nodes, &[CERT, POLICY, ("ssl-ports", "9090")], &["TCP/80+TLS/9090"]),
    differs(On::Nodes, &[CERT, POLICY, ("ssl-ports", "*")], &["TCP/80"], "refused", "ssl-ports"),
    same(On::Nodes, &[CERT, POLICY, ("backend-protocol", "ssl")], &["TLS/80 to instance TLS"]),
    same(On::Nodes, &[CERT, POLICY, ("backend-protocol", "tcp")], &["TLS/80 to instance TCP"]),
    same(On::Nodes, &[CERT, POLICY, ("backend-protocol", "ssl"), ("alpn-policy", "HTTP2Preferred")], &["arn:a P HTTP2Preferred"]),
    // Target groups and listeners.
    same(On::Nodes, &[("proxy-protocol", "*")], &["proxy_protocol_v2.enabled=true"]),
    same(On::Nodes, &[("proxy-protocol", "*"), ("target-group-attributes", "proxy_protocol_v2.enabled=false")], &["proxy_protocol_v2.enabled=true"]),
    same(On::Nodes, &[("proxy-protocol-per-target-group", "80, 80,")], &["proxy_protocol_v2.enabled=true"]),
    same(On::Nodes, &[("proxy-protocol-per-target-group", "9090"), ("target-group-attributes", "proxy_protocol_v2.enabled=true")], &["check HTTP 10256 /healthz 200-399 5/2/2/2; external"]),
    same(On::Nodes, &[("target-group-attributes", "stickiness.enabled=true, stickiness.type=source_ip")], &["stickiness.enabled=true", "stickiness.type=source_ip"]),
    same(On::Nodes, &[("target-group-attributes", "deregistration_delay.timeout_seconds=120"), ("target-group-attributes.80", "deregistration_delay.timeout_seconds=")], &["deregistration_delay.timeout_seconds=120"]),
    same(On::Nodes, &[("target-group-attributes", "deregistration_delay.timeout_seconds=120"), ("target-group-attributes.80", "deregistration_delay.timeout_seconds=60")], &["deregistration_delay.timeout_seconds=60"]),
    same(On::Nodes, &[("listener-attributes.TCP-80", "tcp.idle_timeout.seconds=400")], &["tcp.idle_timeout.seconds=400"]),
    same(On::Nodes, &[("enable-tcp-udp-listener", "false")], &["TCP/80"]),
    differs(On::Nodes, &[("quic-enabled-ports", "80")], &[], "refused", "quic-enabled-ports"),
    differs(On::Nodes, &[("actions.TCP-80", r#"{"type":"forward","forwardConfig":{"baseServiceWeight":90,"targetGroups":[{"serviceName":"b","servicePort":80,"weight":10}]}}"#)], &[], "refused", "actions."),
    // Security groups.
    same(On::Nodes, &[("security-groups", "sg-1, by-name")], &["sg-1", "by-name"]),
    same(On::Nodes, &[("security-groups", "sg-1"), ("manage-backend-security-group-rules", "true")], &["sg-1", "node rules true"]),
    same(On::Nodes, &[("security-groups", "sg-1"), ("manage-backend-security-group-rules", "false")], &["sg-1", "node rules false"]),
    same(On::Nodes, &[("security-group-prefix-lists", "pl-1")], &["tcp/80 from pl-1"]),
    same(On::Nodes, &[("inbound-sg-rules-on-private-link-traffic", "on")], &["TCP/80"]),
    differs(On::Nodes, &[("inbound-sg-rules-on-private-link-traffic", "off")], &[], "refused", "inbound-sg-rules-on-private-link-traffic"),
    differs(On::Nodes, &[("disable-nlb-sg", "true")], &[], "refused", "disable-nlb-sg"),
    same(On::Nodes, &[("disable-nlb-sg", "false")], &["TCP/80"]),
    differs(On::Nodes, &[("enable-icmp-for-path-mtu-discovery", "on")], &[], "refused", "enable-icmp-for-path-mtu-discovery"),
];

#[test]
fn each_annotation_means_what_that_controller_makes_of_it_or_the_docs_say_why_not() {
    let mut wrong = Vec::new();
    for Row { on, annotations, controller, but } in TABLE {
        let made = made(*on, annotations);
        let as_there = controller.iter().all(|part| made.contains(part));
        match but {
            None if !as_there => {
                wrong.push(format!("{on:?} {annotations:?}: {controller:?}, but here {made}"));
            }
            Some((here, _)) if !made.contains(here) => {
                wrong.push(format!("{on:?} {annotations:?}: {here:?} by the table, but {made}"));
            }
            Some((_, docs)) if !DOCS.contains(docs) => {
                wrong.push(format!("docs/aws.md does not say {docs:?}"));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_key_of_its_reference_has_a_row_and_is_read_here() {
    for name in REFERENCE {
        let has_row = TABLE.iter().any(|row| row.annotations.iter().any(|(key, _)| key == name));
        assert!(has_row, "{name} has no row");
        assert!(CAPABILITIES.option(&full(name)).is_some(), "{name} is not read");
    }
}

/// Where this provider is right to differ, without any annotation.
#[test]
fn session_affinity_and_tcp_and_udp_on_one_port_are_what_kubernetes_says() {
    let sticky = LoadBalancer {
        session_affinity: SessionAffinity::ClientIp { timeout: Duration::from_hours(3) },
        ..mk_service(On::Nodes, &[])
    };
    let wanted = translate(&sticky, &Quotas::default()).unwrap();
    assert!(shown(&wanted).contains("stickiness.enabled=true") && DOCS.contains("sessionAffinity"));
    let mut both = mk_service(On::Udp, &[]);
    let udp = both.listeners.first().unwrap().clone();
    both.listeners.insert(Listener { protocol: Protocol::Tcp, name: "dns-tcp".to_owned(), ..udp });
    let wanted = translate(&both, &Quotas::default()).unwrap();
    assert_eq!(wanted.listeners[&53].spec.protocol, Transport::TcpUdp);
    assert!(DOCS.contains("TCP and UDP on one port"));
}

/// A Service, its annotations, and parts of the report.
type Refused<'a> = (On, &'a [(&'a str, &'a str)], &'a [&'a str]);

/// Values that AWS's documentation says it does not take: reported by field or annotation, with the remedy, before any call.
#[test]
fn what_aws_is_documented_to_refuse_is_refused_before_with_the_remedy() {
    let attributes = "target-group-attributes";
    let tags = (0..41).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    let long = format!("{}=v", "k".repeat(129));
    let table: [Refused<'_>; 11] = [
        (
            On::Nodes,
            &[CERT, ("backend-protocol", "ssl"), (attributes, "stickiness.enabled=true")],
            &["port 80", "backend-protocol"],
        ),
        (
            On::Udp,
            &[(attributes, "preserve_client_ip.enabled=false")],
            &[attributes, "port 53", "remove it there"],
        ),
        (
            On::Udp,
            &[(attributes, "target_health_state.unhealthy.connection_termination.enabled=true")],
            &[attributes, "port 53"],
        ),
        (On::Udp, &[("proxy-protocol", "*")], &["port 53 is UDP"]),
        (On::Nodes, &[(attributes, "deregistration_delay.timeout_seconds=3601")], &[attributes, "0 to 3600"]),
        (
            On::Nodes,
            &[("additional-resource-tags", "A=b;c")],
            &["additional-resource-tags", "A=b;c", "use letters"],
        ),
        (On::Nodes, &[("additional-resource-tags", "AWS:x=y")], &["additional-resource-tags", "not yours"]),
        (On::Nodes, &[("additional-resource-tags", &tags)], &["41 tags", "name 40 at most"]),
        (On::Nodes, &[("additional-resource-tags", &long)], &["at most 128"]),
        (On::Nodes, &[("healthcheck-path", "ready")], &["healthcheck-path", "begins with /"]),
        (
            On::Nodes,
            &[("healthcheck-success-codes", "100-399")],
            &["healthcheck-success-codes", "200 to 599"],
        ),
    ];
    for (on, annotations, expected) in table {
        let made = made(on, annotations);
        assert!(made.starts_with("refused: "), "{annotations:?}: {made}");
        assert!(expected.iter().all(|part| made.contains(part)), "{annotations:?}: {made}");
    }
    let equal = made(On::Nodes, &[("healthcheck-interval", "10"), ("healthcheck-timeout", "10")]);
    assert!(equal.contains("10/10/2/2"), "reports disagree about equal ones: {equal}");
    assert_eq!(key::NOT_HONOURED.len(), 9);
}
