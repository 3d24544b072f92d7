//! Listeners and the target groups behind them.
//!
//! Owns: TCP and UDP on one port, TLS, health checks, target-group attributes, targets. Leaves to others: the load
//! balancer itself. Invariant: one listener for each port, one target group for each listener.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portico_provider::subset::Room;
use portico_provider::{
    ExternalTrafficPolicy, Field, HealthCheck, IpFamily, Listener, LoadBalancer, Port, Probe, ProbePort,
    Protocol, ProxyProtocol, SessionAffinity, Targets,
};

use super::{Obstacles, Origin, targets};
use crate::capabilities as key;
use crate::cloud::resources::{
    Alpn, GroupHealth, GroupShape, HealthProtocol, ListenerExtras, ListenerSpec, Target, TargetType, TlsSpec,
    Transport,
};
use crate::options::{CheckPort, Choices, TlsPorts};
use crate::quotas::Quotas;
use crate::wanted::WantedListener;

/// Whether targets see who connects.
pub(crate) const PRESERVE_CLIENT: &str = "preserve_client_ip.enabled";
const STICKINESS: &str = "stickiness.enabled";
const PROXY_PROTOCOL: &str = "proxy_protocol_v2.enabled";
const DELAY: &str = "deregistration_delay.timeout_seconds";
const UNHEALTHY_TERMINATION: &str = "target_health_state.unhealthy.connection_termination.enabled";
const TLS_POLICY: &str = "ELBSecurityPolicy-TLS13-1-2-2021-06";

pub(super) fn listeners(
    origin: Origin,
    desired: &LoadBalancer,
    choices: &Choices,
    quotas: &Quotas,
    obstacles: &mut Obstacles,
) -> BTreeMap<u16, WantedListener> {
    let mut by_port: BTreeMap<u16, Vec<&Listener>> = BTreeMap::new();
    for listener in &desired.listeners {
        if listener.protocol == Protocol::Sctp {
            let message = format!("{} cannot be served: an NLB takes TCP and UDP", listener.key());
            obstacles.push((Field::Listeners, message));
            continue;
        }
        by_port.entry(listener.port.get()).or_default().push(listener);
    }
    if desired.listeners.is_empty() {
        obstacles.push((Field::Listeners, "there must be at least one port".to_owned()));
    }
    let room = targets::room(quotas, by_port.len(), targets::crosses_zones(choices));
    let each = by_port.into_iter().map(|(port, listeners)| {
        (port, Translation { origin, desired, choices, port, listeners, room }.listener(obstacles))
    });
    let listeners: BTreeMap<u16, WantedListener> = each.collect();
    obstacles.extend(homeless(choices, &listeners));
    obstacles.extend(beyond(quotas, &listeners));
    listeners
}

/// Quotas of listeners and certificates, reported before anything is created.
fn beyond(quotas: &Quotas, listeners: &BTreeMap<u16, WantedListener>) -> Obstacles {
    let mut beyond = Obstacles::new();
    if listeners.len() > quotas.listeners {
        let message = format!(
            "needs {} listeners, quota {}: use fewer ports, or another Service for some of them",
            listeners.len(),
            quotas.listeners
        );
        beyond.push((Field::Listeners, message));
    }
    let needed: usize = listeners.values().map(|listener| listener.extras.certificates.len()).sum();
    if needed > quotas.certificates {
        let message = format!(
            "annotation {}: needs {needed} certificates beside the default ones, on all listeners together, quota {}: use \
             certificates of several names, or a higher quota (--aws-quota)",
            key::CERTIFICATE,
            quotas.certificates
        );
        beyond.push((Field::Options, message));
    }
    beyond
}

/// Attributes for a listener that is not there.
fn homeless(choices: &Choices, listeners: &BTreeMap<u16, WantedListener>) -> Obstacles {
    let of = |(protocol, port): &(Transport, u16)| {
        let there = listeners.get(port).map(|listener| listener.spec.protocol);
        let remedy = match there {
            Some(there) if there == *protocol => return None,
            Some(there) => format!("the listener of port {port} is {there}: end it in {there}-{port}"),
            None => format!("the Service has no port {port}: remove it"),
        };
        let name = format!("{}{protocol}-{port}", key::LISTENER_ATTRIBUTES_OF);
        Some((Field::Options, format!("annotation {name}: {remedy}")))
    };
    choices.listener_attributes_of.keys().filter_map(of).collect()
}

/// One port: one listener of the Service, or a TCP and a UDP one.
struct Translation<'a> {
    origin: Origin,
    desired: &'a LoadBalancer,
    choices: &'a Choices,
    port: u16,
    listeners: Vec<&'a Listener>,
    room: Room,
}

impl Translation<'_> {
    fn listener(&self, obstacles: &mut Obstacles) -> WantedListener {
        let tls = self.tls();
        let protocol = match (self.listeners.as_slice(), &tls) {
            ([_, _, ..], _) => Transport::TcpUdp,
            ([one], _) if one.protocol == Protocol::Udp => Transport::Udp,
            (_, Some(_)) => Transport::Tls,
            _ => Transport::Tcp,
        };
        if protocol == Transport::TcpUdp && tls.is_some() {
            let message = format!(
                "port {} is both TCP and UDP, and cannot end TLS: name others in {}",
                self.port,
                key::TLS_PORTS
            );
            obstacles.push((Field::Options, message));
        }
        let shape = GroupShape {
            protocol: match protocol {
                Transport::Tls if self.choices.tls_to_targets => Transport::Tls,
                Transport::Tls => Transport::Tcp,
                plain => plain,
            },
            targets: match self.desired.targets {
                Targets::Nodes(_) => TargetType::Instance,
                Targets::Pods(_) => TargetType::Ip,
            },
            family: family(self.desired),
        };
        WantedListener {
            extras: self.extras(protocol),
            spec: ListenerSpec { port: self.port, protocol, tls: tls.filter(|_| protocol == Transport::Tls) },
            shape,
            health: self.health(obstacles),
            attributes: self.attributes(shape, obstacles),
            targets: self.targets(shape, obstacles),
            room: self.room.total,
        }
    }

    /// Certificates beside the default one, and attributes.
    fn extras(&self, protocol: Transport) -> ListenerExtras {
        let Choices { certificates, listener_attributes_of, .. } = self.choices;
        let further = certificates.iter().skip(1).filter(|_| protocol == Transport::Tls);
        ListenerExtras {
            certificates: further.cloned().collect(),
            attributes: listener_attributes_of.get(&(protocol, self.port)).cloned().unwrap_or_default(),
        }
    }

    fn tls(&self) -> Option<TlsSpec> {
        let Choices { certificates, tls_ports, tls_policy, alpn, .. } = self.choices;
        let tcp = self.listeners.iter().find(|listener| listener.protocol == Protocol::Tcp)?;
        let asked = match tls_ports {
            TlsPorts::All => self.listeners.len() == 1,
            TlsPorts::Named(ports) => ports.contains(&tcp.name) || ports.contains(&self.port.to_string()),
        };
        let certificate = certificates.first().filter(|_| asked)?.clone();
        let policy = tls_policy.clone().unwrap_or_else(|| TLS_POLICY.to_owned());
        Some(TlsSpec { certificate, policy, alpn: alpn.unwrap_or(Alpn::None) })
    }

    fn health(&self, obstacles: &mut Obstacles) -> GroupHealth {
        let choice = &self.choices.check;
        let base = match self.origin {
            Origin::Own if !choice.says_what() => self.own_check(obstacles),
            _ => self.controllers_check(),
        };
        if self.desired.health_check.is_none() && choice.port.is_none() {
            let message = format!(
                "an NLB cannot do without a health check, and nothing answers on TCP: name a port that does in {}",
                key::CHECK_PORT
            );
            obstacles.push((Field::HealthCheck, message));
        }
        let protocol = choice.protocol.unwrap_or(base.protocol);
        let http = protocol != HealthProtocol::Tcp;
        let (interval, timeout) = match (choice.interval, choice.timeout) {
            (None, None) => (base.interval, base.timeout),
            // What is not said gives way to what is.
            (Some(interval), None) => (interval, base.timeout.min(interval)),
            (None, Some(timeout)) => (base.interval.max(timeout), timeout),
            (Some(interval), Some(timeout)) => (interval, timeout),
        };
        if timeout > interval {
            let message = format!(
                "annotation {}: {timeout} s is longer than the interval of {interval} s, which AWS does not take: lower it, or \
                 raise {}",
                key::CHECK_TIMEOUT,
                key::CHECK_INTERVAL
            );
            obstacles.push((Field::Options, message));
        }
        GroupHealth {
            protocol,
            port: choice.port.as_ref().map_or(base.port, |port| self.check_port(port, obstacles)),
            path: http.then(|| choice.path.clone().or(base.path).unwrap_or_else(|| "/".to_owned())),
            codes: http.then(|| choice.codes.clone().unwrap_or_else(|| "200-399".to_owned())),
            interval,
            timeout,
            healthy: choice.healthy.unwrap_or(base.healthy),
            unhealthy: choice.unhealthy.unwrap_or(base.unhealthy),
        }
    }

    /// This provider's default.
    fn own_check(&self, obstacles: &mut Obstacles) -> GroupHealth {
        let check = self.desired.health_check.clone().unwrap_or_else(HealthCheck::tcp_traffic);
        if !check.is_sane() {
            let message = format!("{check}: nothing may be zero, and a path begins with /");
            obstacles.push((Field::HealthCheck, message));
        }
        let HealthCheck { probe, interval, timeout, healthy_threshold, unhealthy_threshold } = check;
        let (protocol, port, path) = match probe {
            Probe::Tcp { port } => (HealthProtocol::Tcp, port, None),
            Probe::Http { port, path } => (HealthProtocol::Http, port, Some(path)),
        };
        let bounded = |value: u32| i32::try_from(value.clamp(2, 10)).unwrap_or(10);
        GroupHealth {
            protocol,
            port: fixed(port),
            path,
            codes: None,
            interval: seconds(interval, 5, 300),
            timeout: seconds(timeout, 2, 120),
            healthy: bounded(healthy_threshold),
            unhealthy: bounded(unhealthy_threshold),
        }
    }

    /// The AWS Load Balancer Controller's default: `pkg/service/model_build_target_group.go`.
    fn controllers_check(&self) -> GroupHealth {
        let local = self.desired.external_traffic_policy == ExternalTrafficPolicy::Local;
        let probe = self.desired.health_check.as_ref().map(|check| &check.probe);
        match (&self.desired.targets, probe) {
            (Targets::Nodes(_), Some(Probe::Http { port, path })) if local => GroupHealth {
                protocol: HealthProtocol::Http,
                port: fixed(*port),
                path: Some(path.clone()),
                codes: None,
                interval: 10,
                timeout: 6,
                healthy: 2,
                unhealthy: 2,
            },
            _ => GroupHealth {
                protocol: HealthProtocol::Tcp,
                port: None,
                path: None,
                codes: None,
                interval: 10,
                timeout: 10,
                healthy: 3,
                unhealthy: 3,
            },
        }
    }

    /// `None`: the traffic port.
    fn check_port(&self, port: &CheckPort, obstacles: &mut Obstacles) -> Option<u16> {
        let name = match port {
            CheckPort::Traffic => return None,
            CheckPort::Fixed(port) => return Some(*port),
            CheckPort::Named(name) => name,
        };
        let mut refuse = |what: &str| {
            let message = format!("annotation {} is {name:?}, {what}", key::CHECK_PORT);
            obstacles.push((Field::Options, message));
            None
        };
        if self.listeners.iter().any(|listener| listener.name == *name) {
            return None;
        }
        let Some(named) = self.desired.listeners.iter().find(|listener| listener.name == *name) else {
            return refuse("but the Service has no port of that name: name one that it has");
        };
        match &self.desired.targets {
            Targets::Nodes(_) => named.node_port.map(Port::get),
            Targets::Pods(pods) => {
                let all: BTreeSet<u16> =
                    pods.iter().filter_map(|pod| Some(pod.ports.get(&named.key())?.get())).collect();
                match all.first() {
                    Some(_) if all.len() > 1 => {
                        refuse("but pods have several ports of that name: name a number")
                    }
                    // Without pods there is nothing to check.
                    first => first.copied(),
                }
            }
        }
    }

    fn attributes(&self, shape: GroupShape, obstacles: &mut Obstacles) -> BTreeMap<String, String> {
        let Choices { proxy_everywhere, proxy_ports, group_attributes, group_attributes_of, .. } =
            self.choices;
        let mut attributes = match self.origin {
            Origin::Own => defaults(shape),
            Origin::Controller => BTreeMap::new(),
        };
        let mut set = |key: &str, value: &str| attributes.insert(key.to_owned(), value.to_owned());
        if let SessionAffinity::ClientIp { timeout: _aws_has_its_own } = self.desired.session_affinity {
            set(STICKINESS, "true");
        }
        if self.desired.proxy_protocol == ProxyProtocol::V2 {
            set(PROXY_PROTOCOL, "true");
        }
        attributes.extend(group_attributes.clone());
        attributes.extend(group_attributes_of.get(&self.port).cloned().unwrap_or_default());
        let proxied = match proxy_ports {
            _ if *proxy_everywhere => Some(true),
            Some(ports) => Some(ports.contains(&self.port)),
            None => None,
        };
        attributes.extend(proxied.map(|proxied| (PROXY_PROTOCOL.to_owned(), proxied.to_string())));
        obstacles.extend(self.refused(shape.protocol, &attributes));
        attributes
    }

    /// Values that AWS's documentation says it does not take:
    /// <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/edit-target-group-attributes.html>.
    fn refused(&self, protocol: Transport, attributes: &BTreeMap<String, String>) -> Obstacles {
        let says = |key: &str, value: &str| attributes.get(key).is_some_and(|said| said == value);
        let attribute = |key: &str, why: &str| {
            let message = format!(
                "annotation {}: {key} cannot be so on port {}: {why}",
                key::GROUP_ATTRIBUTES,
                self.port
            );
            (Field::Options, message)
        };
        let mut refused = Obstacles::new();
        if says(STICKINESS, "true") && protocol == Transport::Tls {
            let message = format!(
                "AWS keeps no client on one target on port {}, as the load balancer speaks TLS to its targets: set annotation \
                 {} to tcp, or spec.sessionAffinity to None and {STICKINESS}=false",
                self.port,
                key::BACKEND_PROTOCOL
            );
            refused.push((Field::SessionAffinity, message));
        }
        if protocol.is_udp() && says(PROXY_PROTOCOL, "true") {
            let message =
                format!("port {} is UDP and cannot have PROXY headers, which are for TCP", self.port);
            refused.push((Field::ProxyProtocol, message));
        }
        if protocol.is_udp() && says(PRESERVE_CLIENT, "false") {
            let remedy = "it is UDP, whose clients' addresses AWS always keeps: remove it there, or name TCP ports one by one \
                          (target-group-attributes.<port>)";
            refused.push(attribute(PRESERVE_CLIENT, remedy));
        }
        if protocol.is_udp() && says(UNHEALTHY_TERMINATION, "true") {
            let remedy = "it is UDP, for which AWS has only false: remove it there";
            refused.push(attribute(UNHEALTHY_TERMINATION, remedy));
        }
        let delay = attributes.get(DELAY).filter(|delay| !delay.parse().is_ok_and(|it: u32| it <= 3600));
        if delay.is_some() {
            refused.push(attribute(DELAY, "it has to be 0 to 3600 seconds"));
        }
        refused
    }

    fn targets(&self, shape: GroupShape, obstacles: &mut Obstacles) -> BTreeSet<Target> {
        let kind = (shape.targets, shape.family);
        targets::of_listeners(self.desired.into(), &self.listeners, kind, self.room, obstacles)
    }
}

/// Instances are reached by IPv4, pods by the Service's first family.
pub(super) fn family(desired: &LoadBalancer) -> IpFamily {
    match desired.targets {
        Targets::Nodes(_) => IpFamily::IPv4,
        Targets::Pods(_) => desired.ip_families.first().copied().unwrap_or(IpFamily::IPv4),
    }
}

/// `None`: the traffic port.
fn fixed(port: ProbePort) -> Option<u16> {
    match port {
        ProbePort::Traffic => None,
        ProbePort::Fixed(port) => Some(port.get()),
    }
}

fn seconds(duration: Duration, least: u64, most: u64) -> i32 {
    i32::try_from(duration.as_secs().clamp(least, most)).unwrap_or(i32::MAX)
}

/// AWS's defaults, which an attribute returns to when it is no longer asked for.
pub(crate) fn defaults(shape: GroupShape) -> BTreeMap<String, String> {
    let GroupShape { protocol, targets, family: _ } = shape;
    let udp = protocol.is_udp();
    let keeps_client = targets == TargetType::Instance || udp;
    let flag = |value: bool| if value { "true" } else { "false" };
    let defaults = [
        (DELAY, "300"),
        ("deregistration_delay.connection_termination.enabled", flag(udp)),
        (STICKINESS, "false"),
        (PROXY_PROTOCOL, "false"),
        (PRESERVE_CLIENT, flag(keeps_client)),
        ("load_balancing.cross_zone.enabled", "use_load_balancer_configuration"),
    ];
    defaults.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}
