//! From the desired load balancer to what should exist, field by field.
//!
//! Owns: the translation and what cannot be translated. Leaves to others: what exists already (`plan`).
//! Invariant: pure; destructures the model in full, so that a new field cannot be forgotten.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use portico_provider::{
    ExternalTrafficPolicy, Field, HealthCheck as Probing, IpFamily, Listener, LoadBalancer, NodeTarget,
    Owner, Probe, ProbePort, Protocol, ProxyProtocol, Scheme, SessionAffinity, Targets,
};

use crate::capabilities as keys;
use crate::config::Config;
use crate::names::{self, Names, fnv};
use crate::observed::Observed;
use crate::observed::frontends::existing_frontends;
use crate::options::{self, Chosen};
use crate::resource::{Affinity, Backends, Groups, HealthCheck, Tier};
use crate::subset::{Zones, all, choose};

/// Obstacles: field and message.
pub(crate) type Obstacles = Vec<(Field, String)>;

/// All that should exist for a Service, but for what depends on addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) names: Names,
    /// One for each family.
    pub(crate) frontends: Vec<Frontend>,
    pub(crate) ports: BTreeSet<(Protocol, u16)>,
    pub(crate) global_access: bool,
    pub(crate) deny_others: bool,
    pub(crate) affinity: Affinity,
    pub(crate) weighted: bool,
    pub(crate) check: HealthCheck,
    pub(crate) sources: BTreeSet<IpNet>,
    pub(crate) groups: Groups,
    pub(crate) zones: Zones,
}

/// An address and its rules: what is replaced as a whole. Everything in it is fixed once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frontend {
    /// Part of the names of its address and rules; a digest of the rest.
    pub(crate) id: String,
    pub(crate) family: IpFamily,
    pub(crate) scheme: Scheme,
    pub(crate) tier: Option<Tier>,
    pub(crate) subnetwork: Option<String>,
    pub(crate) collection: Option<String>,
    pub(crate) source: Source,
}

/// The source of a frontend's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Portico reserves one, and gives it back.
    Own,
    /// This one. An external one is the user's, reserved before; an internal one is reserved by Portico.
    Exactly(IpAddr),
    /// One that the user reserved, by name.
    Named(String),
    /// That of a frontend which serves already, whoever reserved it.
    Kept(IpAddr),
}

impl Frontend {
    /// With its ID, which the rest of it decides.
    fn new(rest: Self) -> Self {
        let Self { id: _, family, scheme, tier, subnetwork, collection, source } = &rest;
        let mut words = vec![
            format!("{scheme:?}"),
            format!("{tier:?}"),
            format!("{subnetwork:?}"),
            format!("{source:?}"),
        ];
        if *family == IpFamily::IPv6 {
            words.push(format!("{collection:?}"));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Self { id: format!("{:06x}", fnv(&words) & 0xff_ffff), ..rest }
    }

    /// Whether Portico reserves its address.
    pub(crate) fn reserves(&self) -> bool {
        match self.source {
            Source::Own => true,
            Source::Exactly(_) => self.scheme == Scheme::Internal,
            Source::Named(_) | Source::Kept(_) => false,
        }
    }
}

/// The wanted resources, or all obstacles.
pub(crate) fn translate(desired: &LoadBalancer, config: &Config) -> Result<Wanted, Obstacles> {
    let LoadBalancer {
        owner,
        listeners,
        targets,
        health_check,
        source_ranges,
        session_affinity,
        external_traffic_policy,
        proxy_protocol,
        ip_families,
        requested_addresses,
        scheme,
        replacement: _,
        group,
        options,
        published: _,
    } = desired;
    let names = Names::of(owner);
    let mut wrong = unsupported(listeners, *proxy_protocol);
    wrong.extend(group.as_ref().map(|group| {
        let message = format!("a forwarding rule is one Service's here, and {group} cannot share any: remove annotation portico.dev/group");
        (Field::Group, message)
    }));
    let ports: BTreeSet<_> = listeners.iter().map(|it| (it.protocol, it.port.get())).collect();
    let check = checking(health_check.as_ref(), &ports, names.part("hc"), &mut wrong);
    let (chosen, unread) = options::read(options, *scheme);
    wrong.extend(unread.into_iter().map(|message| (Field::Options, message)));
    let frontends = frontends(&chosen, ip_families, requested_addresses, config, &mut wrong);
    let affinity = affinity(*session_affinity, &chosen, &mut wrong);
    weighing(&chosen, *external_traffic_policy, health_check.as_ref(), &mut wrong);
    let sources = senders(source_ranges, ip_families, &mut wrong);
    if let Targets::Pods(_) = targets {
        let message = "nodes only: set portico.dev/target-kind to node";
        wrong.push((Field::TargetKind, message.to_owned()));
    }
    let (groups, zones) = behind_desired(desired, config.backends, chosen.scheme, &config.region);
    match check {
        Some(check) if wrong.is_empty() => Ok(Wanted {
            names,
            frontends,
            ports,
            global_access: chosen.global_access,
            deny_others: chosen.deny_others,
            affinity,
            weighted: chosen.weighted.is_some(),
            check,
            sources,
            groups,
            zones,
        }),
        _ => Err(wrong),
    }
}

/// The groups behind a load balancer of these backends and this scheme, and the nodes that belong in them.
pub(crate) fn behind(
    owner: &Owner,
    nodes: &BTreeSet<NodeTarget>,
    policy: ExternalTrafficPolicy,
    backends: Backends,
    scheme: Scheme,
    region: &str,
) -> (Groups, Zones) {
    let (name, zones) = match backends {
        Backends::EndpointGroups => {
            (Names::of(owner).part("neg"), choose(nodes, region, &owner.service, scheme, policy))
        }
        Backends::InstanceGroups => (names::shared_group(&owner.cluster), all(nodes, region)),
    };
    (Groups { backends, name }, zones)
}

/// The same, by what is desired.
pub(crate) fn behind_desired(
    desired: &LoadBalancer,
    backends: Backends,
    scheme: Scheme,
    region: &str,
) -> (Groups, Zones) {
    let LoadBalancer { owner, targets, external_traffic_policy, .. } = desired;
    let none = BTreeSet::new();
    let nodes = match targets {
        Targets::Nodes(nodes) => nodes,
        Targets::Pods(_) => &none,
    };
    behind(owner, nodes, *external_traffic_policy, backends, scheme, region)
}

/// Addresses that the user named and that are not served yet: only those have to be asked for.
pub(crate) fn unknown_addresses(desired: &LoadBalancer, observed: &Observed, config: &Config) -> Vec<String> {
    let existing = existing_frontends(observed);
    let named = |frontend: Frontend| match frontend.source {
        Source::Named(name) if !existing.iter().any(|it| it.id == frontend.id) => Some(name),
        _ => None,
    };
    let frontends = translate(desired, config).map(|wanted| wanted.frontends).unwrap_or_default();
    frontends.into_iter().filter_map(named).collect()
}

/// Obstacles of every passthrough load balancer of this provider.
fn unsupported(listeners: &BTreeSet<Listener>, proxy_protocol: ProxyProtocol) -> Obstacles {
    let mut wrong = Obstacles::new();
    if listeners.is_empty() || listeners.iter().any(|listener| listener.protocol == Protocol::Sctp) {
        wrong.push((Field::Listeners, "there must be at least one port, of protocol TCP or UDP".to_owned()));
    }
    if proxy_protocol != ProxyProtocol::Off {
        let message =
            "a passthrough load balancer does not touch the data: set portico.dev/proxy-protocol to off";
        wrong.push((Field::ProxyProtocol, message.to_owned()));
    }
    wrong
}

/// One for each family. Of two names the first is IPv4's: what they name nobody reads before it is used.
fn frontends(
    chosen: &Chosen,
    families: &[IpFamily],
    requested: &BTreeSet<IpAddr>,
    config: &Config,
    wrong: &mut Obstacles,
) -> Vec<Frontend> {
    let Chosen { scheme, tier, subnetwork, named, collection, .. } = chosen;
    misplaced(chosen, families, wrong);
    if !named.is_empty() && (named.len() != families.len() || !requested.is_empty()) {
        let message = format!(
            "annotation {} names {} addresses: it needs one for each of the Service's {} families, IPV4-NAME,IPV6-NAME, and \
             goes with no requested address",
            keys::ADDRESSES,
            named.len(),
            families.len()
        );
        wrong.push((Field::RequestedAddresses, message));
    }
    let foreign = |ip: &&IpAddr| !families.contains(&IpFamily::of(**ip));
    if requested.iter().any(|ip| foreign(&ip)) || requested.len() > families.len() {
        let message = "at most one address of each of the Service's families can be requested";
        wrong.push((Field::RequestedAddresses, message.to_owned()));
    }
    let subnetwork = subnetwork.clone().unwrap_or_else(|| config.subnetwork.clone());
    let make = |family: &IpFamily| {
        let own = if *family == IpFamily::IPv4 { named.first() } else { named.last() };
        let source = match (own, requested.iter().find(|ip| IpFamily::of(**ip) == *family)) {
            (Some(name), _) => Source::Named(name.clone()),
            (None, Some(ip)) => Source::Exactly(*ip),
            (None, None) => Source::Own,
        };
        let external = *scheme == Scheme::External;
        Frontend::new(Frontend {
            id: String::new(),
            family: *family,
            scheme: *scheme,
            tier: external.then_some(tier.unwrap_or(Tier::Premium)),
            subnetwork: (!external || *family == IpFamily::IPv6).then(|| subnetwork.clone()),
            collection: collection.clone().filter(|_| *family == IpFamily::IPv6),
            source,
        })
    };
    families.iter().map(make).collect()
}

/// Annotations that mean nothing for a load balancer of this scheme and these families.
fn misplaced(chosen: &Chosen, families: &[IpFamily], wrong: &mut Obstacles) {
    let Chosen { scheme, tier, subnetwork, global_access, collection, .. } = chosen;
    let six = families.contains(&IpFamily::IPv6);
    let mut only = |key: &str, which: &str| {
        wrong.push((Field::Options, format!("annotation {key} is for {which}: remove it")));
    };
    let external = *scheme == Scheme::External;
    if external && subnetwork.is_some() && !six {
        only(keys::SUBNET, "internal and IPv6 load balancers");
    }
    if external && *global_access {
        only(keys::GLOBAL_ACCESS, "internal load balancers");
    }
    if !external && tier.is_some() {
        only(keys::TIER, "external load balancers");
    }
    if six && *tier == Some(Tier::Standard) {
        only(keys::TIER, "IPv4 where it says Standard");
    }
    if collection.is_some() && !(external && six) {
        only(keys::COLLECTION_V6, "external IPv6 load balancers");
    }
}

/// Affinity, and how long a session may be idle: <https://cloud.google.com/load-balancing/docs/internal#tracking-mode>;
/// for external ones the numbers are GKE's.
fn affinity(asked: SessionAffinity, chosen: &Chosen, wrong: &mut Obstacles) -> Affinity {
    const MOST: u64 = 16 * 60 * 60;
    let least = match chosen.scheme {
        Scheme::External => 60,
        Scheme::Internal => 600,
    };
    match (asked, chosen.strong_affinity.is_some()) {
        (SessionAffinity::None, false) => Affinity::Connection,
        (SessionAffinity::ClientIp { timeout: _ }, false) => Affinity::ClientIp,
        (SessionAffinity::ClientIp { timeout }, true) if (least..=MOST).contains(&timeout.as_secs()) => {
            Affinity::Session { idle: u32::try_from(timeout.as_secs()).unwrap_or_default() }
        }
        (asked, true) => {
            let remedy = match asked {
                SessionAffinity::None => "set spec.sessionAffinity to ClientIP".to_owned(),
                SessionAffinity::ClientIp { timeout } => {
                    let now = timeout.as_secs();
                    format!("its timeoutSeconds is {now} and must be {least} to {MOST}")
                }
            };
            let message = format!("annotation {} needs ClientIP affinity: {remedy}", keys::STRONG_AFFINITY);
            wrong.push((Field::SessionAffinity, message));
            Affinity::Connection
        }
    }
}

/// Only the health check of a Service counts the Service's pods, and only under `Local` there is one.
fn weighing(chosen: &Chosen, policy: ExternalTrafficPolicy, check: Option<&Probing>, wrong: &mut Obstacles) {
    let counts = check.is_some_and(|check| matches!(check.probe, Probe::Http { .. }));
    if chosen.weighted.is_some() && (policy != ExternalTrafficPolicy::Local || !counts) {
        let message = format!(
            "annotation {} weighs nodes by their own pods: set spec.externalTrafficPolicy to Local, or remove it",
            keys::WEIGHTED
        );
        wrong.push((Field::ExternalTrafficPolicy, message));
    }
}

/// Senders of the Service's families; nobody named means everybody.
fn senders(ranges: &BTreeSet<IpNet>, families: &[IpFamily], wrong: &mut Obstacles) -> BTreeSet<IpNet> {
    if ranges.is_empty() {
        return families.iter().map(|family| everybody(*family)).collect();
    }
    for family in families {
        if !ranges.iter().any(|range| IpFamily::of(range.addr()) == *family) {
            let message =
                format!("no {family} range, for an {family} address: nobody could connect. Add one");
            wrong.push((Field::SourceRanges, message));
        }
    }
    ranges.iter().filter(|range| families.contains(&IpFamily::of(range.addr()))).copied().collect()
}

/// All addresses of a family.
pub(crate) fn everybody(family: IpFamily) -> IpNet {
    match family {
        IpFamily::IPv4 => IpNet::V4(ipnet::Ipv4Net::default()),
        IpFamily::IPv6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// The service needs a check; a Service without one gets that of the node proxy.
fn checking(
    check: Option<&Probing>,
    ports: &BTreeSet<(Protocol, u16)>,
    name: String,
    wrong: &mut Obstacles,
) -> Option<HealthCheck> {
    let fallback = Probing::node_proxy();
    let check = check.or(fallback.as_ref())?;
    let Probing { probe, interval, timeout, healthy_threshold, unhealthy_threshold } = check;
    let (port, path) = match probe {
        Probe::Tcp { port } => (port, None),
        Probe::Http { port, path } => (port, Some(path.clone())),
    };
    let tcp = ports.iter().find(|(protocol, _)| *protocol == Protocol::Tcp).map(|(_, port)| *port);
    let port = match port {
        ProbePort::Fixed(port) => Some(port.get()),
        ProbePort::Traffic => tcp,
    };
    let whole = |duration: &Duration| {
        let seconds = u32::try_from(duration.as_secs()).ok().filter(|seconds| (1..=300).contains(seconds));
        seconds.filter(|_| duration.subsec_nanos() == 0)
    };
    let thresholds = (1..=10).contains(healthy_threshold) && (1..=10).contains(unhealthy_threshold);
    match (port, whole(interval), whole(timeout)) {
        (Some(port), Some(interval), Some(timeout))
            if timeout <= interval && thresholds && check.is_sane() =>
        {
            let (healthy, unhealthy) = (*healthy_threshold, *unhealthy_threshold);
            Some(HealthCheck { name, path, port, interval, timeout, healthy, unhealthy })
        }
        _ => {
            let message = format!(
                "{check}: whole seconds from 1 to 300, a timeout no longer than the interval, thresholds from 1 to 10, \
                 and a TCP port to ask"
            );
            wrong.push((Field::HealthCheck, message));
            None
        }
    }
}
