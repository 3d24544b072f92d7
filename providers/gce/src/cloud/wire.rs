//! Between our resources and the SDK's: one pair of functions for each kind.
//!
//! Owns: the translation. Leaves to others: the calls (`sdk`).
//! Invariant: what is written and then read back is equal; what cannot be read (a foreign shape under a name like
//! ours) is `None`, and so never taken for ours.

pub(super) mod groups;

use std::collections::BTreeSet;
use std::net::IpAddr;

use google_cloud_compute_v1::model;
use ipnet::IpNet;
use portico_provider::{IpFamily, Protocol, Scheme};

use super::{CloudError, Found, Operation, OperationState};
use crate::names;
use crate::resource::{
    Address, AddressRef, Affinity, BackendService, Backends, Firewall, ForwardingRule, Forwards, HealthCheck,
    Id, Kind, Place, Resource, Tier, Verdict,
};

/// Seconds that connections to a node that leaves may go on, as GKE has it.
const DRAINING_SECONDS: i32 = 30;

/// Addresses of IPv6 are ranges of this length.
const RANGE_LENGTH: i32 = 96;

/// Partial URLs of this project and region, and full ones of the network's project.
#[derive(Clone, Debug)]
pub(super) struct Urls {
    pub(super) region: String,
    /// The project of the network: this one, or the host of a Shared VPC.
    pub(super) network_project: String,
}

impl Urls {
    fn regional(&self, collection: &str, name: &str) -> String {
        format!("regions/{}/{collection}/{name}", self.region)
    }

    fn network(&self, name: &str) -> String {
        format!("projects/{}/global/networks/{name}", self.network_project)
    }

    fn subnetwork(&self, name: &str) -> String {
        format!("projects/{}/{}", self.network_project, self.regional("subnetworks", name))
    }

    pub(super) fn address(&self, address: &Address, description: &str) -> model::Address {
        let Address { name, family, scheme, tier, subnetwork, collection, shareable: _, ip } = address;
        let wire = model::Address::new()
            .set_name(name)
            .set_description(description)
            .set_address_type(scheme_name(*scheme))
            .set_or_clear_network_tier(tier.map(Tier::as_str))
            .set_or_clear_address(ip.map(|ip| ip.to_string()))
            .set_or_clear_ip_collection(collection.clone())
            .set_or_clear_subnetwork(subnetwork.as_ref().map(|name| self.subnetwork(name)));
        match (family, scheme) {
            (IpFamily::IPv4, Scheme::External) => wire,
            // Rules of several protocols share it.
            (IpFamily::IPv4, Scheme::Internal) => wire.set_purpose("SHARED_LOADBALANCER_VIP"),
            (IpFamily::IPv6, Scheme::External) => {
                wire.set_ip_version("IPV6").set_ipv_6_endpoint_type("NETLB").set_prefix_length(RANGE_LENGTH)
            }
            (IpFamily::IPv6, Scheme::Internal) => wire.set_ip_version("IPV6").set_prefix_length(RANGE_LENGTH),
        }
    }

    pub(super) fn forwarding_rule(&self, rule: &ForwardingRule, description: &str) -> model::ForwardingRule {
        let ForwardingRule {
            name,
            family,
            scheme,
            forwards,
            address,
            backend_service,
            tier,
            place,
            global_access,
        } = rule;
        let mut wire = model::ForwardingRule::new()
            .set_name(name)
            .set_description(description)
            .set_load_balancing_scheme(scheme_name(*scheme))
            .set_backend_service(self.regional("backendServices", backend_service))
            .set_or_clear_network_tier(tier.map(Tier::as_str))
            .set_ip_address(match address {
                AddressRef::Ip(IpAddr::V4(ip)) => ip.to_string(),
                AddressRef::Ip(IpAddr::V6(ip)) => format!("{ip}/{RANGE_LENGTH}"),
                AddressRef::Named(name) => self.regional("addresses", name),
            });
        wire = match forwards {
            Forwards::Ports(protocol, ports) => wire
                .set_ip_protocol(protocol.to_string().as_str())
                .set_ports(ports.iter().map(ToString::to_string)),
            Forwards::AllPorts(protocol) => {
                wire.set_ip_protocol(protocol.to_string().as_str()).set_all_ports(true)
            }
            Forwards::Everything => wire.set_ip_protocol("L3_DEFAULT").set_all_ports(true),
        };
        if *family == IpFamily::IPv6 {
            wire = wire.set_ip_version("IPV6");
        }
        match (place, scheme) {
            (Some(Place { network, subnetwork }), Scheme::Internal) => wire
                .set_network(self.network(network))
                .set_subnetwork(self.subnetwork(subnetwork))
                .set_allow_global_access(*global_access),
            (Some(Place { network: _, subnetwork }), Scheme::External) => {
                wire.set_subnetwork(self.subnetwork(subnetwork))
            }
            (None, _) => wire,
        }
    }

    pub(super) fn backend_service(
        &self,
        service: &BackendService,
        description: &str,
    ) -> model::BackendService {
        let empty = model::BackendService::new().set_name(&service.name).set_description(description);
        self.backend_service_over(service, empty)
    }

    /// One that exists, changed to be as it should; what Portico does not know of it stays.
    pub(super) fn backend_service_over(
        &self,
        service: &BackendService,
        current: model::BackendService,
    ) -> model::BackendService {
        let BackendService {
            name: _,
            scheme,
            network,
            affinity,
            weighted,
            health_check,
            backends,
            groups,
            synced_hash,
        } = service;
        let backend = |(zone, group): &(String, String)| {
            model::Backend::new()
                .set_group(groups::group_url(backends.kind(), zone, group))
                .set_balancing_mode("CONNECTION")
        };
        let description = names::with_synced_hash(
            current.description.as_deref().unwrap_or_default(),
            synced_hash.as_deref(),
        );
        current
            .set_used_by(Vec::<model::BackendServiceUsedBy>::new())
            .set_description(description)
            .set_load_balancing_scheme(scheme_name(*scheme))
            .set_protocol("UNSPECIFIED")
            .set_or_clear_network(network.as_deref().map(|name| self.network(name)))
            .set_session_affinity(if *affinity == Affinity::Connection { "NONE" } else { "CLIENT_IP" })
            .set_or_clear_connection_tracking_policy(tracking(*affinity, *scheme))
            .set_or_clear_locality_lb_policy(weighted.then(|| weighing(*scheme)))
            .set_health_checks([self.regional("healthChecks", health_check)])
            .set_connection_draining(
                model::ConnectionDraining::new().set_draining_timeout_sec(DRAINING_SECONDS),
            )
            .set_backends(groups.iter().map(backend))
    }

    pub(super) fn firewall(&self, firewall: &Firewall, description: &str) -> model::Firewall {
        let Firewall { name, network, priority, sources, destinations, verdict } = firewall;
        let wire = model::Firewall::new()
            .set_name(name)
            .set_description(description)
            .set_network(self.network(network))
            .set_direction("INGRESS")
            .set_priority(i32::try_from(*priority).unwrap_or(i32::MAX))
            .set_source_ranges(sources.iter().map(ToString::to_string))
            .set_destination_ranges(destinations.iter().map(ToString::to_string));
        // A firewall has to let something in: one that lets nothing in is disabled, with what it let in before.
        let wire = wire.set_disabled(*verdict == Verdict::Allow(BTreeSet::new()));
        match verdict {
            Verdict::Foreign => wire,
            Verdict::DenyAll => wire.set_denied([model::firewall::Denied::new().set_ip_protocol("all")]),
            Verdict::Allow(ports) => {
                wire.set_allowed([Protocol::Tcp, Protocol::Udp].into_iter().filter_map(|protocol| {
                    let own: Vec<String> = ports
                        .iter()
                        .filter(|(it, _)| *it == protocol)
                        .map(|(_, port)| port.to_string())
                        .collect();
                    let name = protocol.to_string().to_lowercase();
                    (!own.is_empty())
                        .then(|| model::firewall::Allowed::new().set_ip_protocol(name).set_ports(own))
                }))
            }
        }
    }
}

/// How sessions are kept; of external ones only in projects that Google allows it.
fn tracking(affinity: Affinity, scheme: Scheme) -> Option<model::BackendServiceConnectionTrackingPolicy> {
    let Affinity::Session { idle } = affinity else { return None };
    let policy = model::BackendServiceConnectionTrackingPolicy::new()
        .set_tracking_mode("PER_SESSION")
        .set_idle_timeout_sec(i32::try_from(idle).unwrap_or(i32::MAX));
    Some(match scheme {
        Scheme::External => policy.set_enable_strong_affinity(true),
        Scheme::Internal => policy,
    })
}

/// The algorithm that takes weights from health checks.
fn weighing(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::External => "WEIGHTED_MAGLEV",
        Scheme::Internal => "WEIGHTED_GCP_RENDEZVOUS",
    }
}

fn read_affinity(wire: &model::BackendService) -> Affinity {
    if wire.session_affinity.as_ref().is_none_or(|it| it.name() != Some("CLIENT_IP")) {
        return Affinity::Connection;
    }
    let policy = wire.connection_tracking_policy.as_ref();
    let per_session = |policy: &&model::BackendServiceConnectionTrackingPolicy| {
        policy.tracking_mode.as_ref().is_some_and(|mode| mode.name() == Some("PER_SESSION"))
    };
    match policy.filter(per_session) {
        Some(policy) => {
            let idle = policy.idle_timeout_sec.and_then(|seconds| u32::try_from(seconds).ok());
            Affinity::Session { idle: idle.unwrap_or_default() }
        }
        None => Affinity::ClientIp,
    }
}

pub(super) fn health_check(check: &HealthCheck, description: &str) -> model::HealthCheck {
    let HealthCheck { name, path, port, interval, timeout, healthy, unhealthy } = check;
    let whole = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
    let wire = model::HealthCheck::new()
        .set_name(name)
        .set_description(description)
        .set_check_interval_sec(whole(*interval))
        .set_timeout_sec(whole(*timeout))
        .set_healthy_threshold(whole(*healthy))
        .set_unhealthy_threshold(whole(*unhealthy));
    match path {
        Some(path) => wire.set_type("HTTP").set_http_health_check(
            model::HTTPHealthCheck::new().set_port(i32::from(*port)).set_request_path(path),
        ),
        None => {
            wire.set_type("TCP").set_tcp_health_check(model::TCPHealthCheck::new().set_port(i32::from(*port)))
        }
    }
}

fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::External => "EXTERNAL",
        Scheme::Internal => "INTERNAL",
    }
}

fn scheme_of(name: Option<&str>) -> Option<Scheme> {
    match name? {
        "EXTERNAL" => Some(Scheme::External),
        "INTERNAL" => Some(Scheme::Internal),
        _ => None,
    }
}

/// The last segment of a URL.
fn last(url: &str) -> String {
    url.rsplit('/').next().unwrap_or(url).to_owned()
}

fn found(resource: Resource, description: Option<String>) -> Found {
    Found { resource, description: description.unwrap_or_default(), members: None, users: BTreeSet::new() }
}

/// That of an address, or of a range.
fn first_address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

pub(super) fn read_address(wire: model::Address) -> Option<Found> {
    let ip = wire.address.as_deref().and_then(first_address);
    let six = wire.ip_version.as_ref().is_some_and(|version| version.name() == Some("IPV6"));
    let address = Address {
        family: if six { IpFamily::IPv6 } else { ip.map_or(IpFamily::IPv4, IpFamily::of) },
        name: wire.name?,
        scheme: scheme_of(wire.address_type.as_ref()?.name())?,
        tier: wire.network_tier.as_ref().and_then(|tier| tier.name()?.parse().ok()),
        subnetwork: wire.subnetwork.as_deref().map(last),
        collection: None,
        shareable: scheme_of(wire.address_type.as_ref()?.name())? == Scheme::External
            || six
            || wire.purpose.as_ref().is_some_and(|it| it.name() == Some("SHARED_LOADBALANCER_VIP")),
        ip,
    };
    Some(found(Resource::Address(address), wire.description))
}

pub(super) fn read_forwarding_rule(wire: model::ForwardingRule) -> Option<Found> {
    let forwards = match (wire.ip_protocol.as_ref()?.name()?, wire.all_ports) {
        ("L3_DEFAULT", _) => Forwards::Everything,
        (protocol, Some(true)) => Forwards::AllPorts(protocol.parse().ok()?),
        (protocol, _) => {
            let ports = wire.ports.iter().filter_map(|port| port.parse().ok());
            Forwards::Ports(protocol.parse().ok()?, ports.collect())
        }
    };
    let network = wire.network.as_deref().map(last).unwrap_or_default();
    let place = wire.subnetwork.as_deref().map(|subnetwork| Place { network, subnetwork: last(subnetwork) });
    let ip = first_address(wire.ip_address.as_deref()?)?;
    let rule = ForwardingRule {
        name: wire.name?,
        family: IpFamily::of(ip),
        scheme: scheme_of(wire.load_balancing_scheme.as_ref()?.name())?,
        forwards,
        address: AddressRef::Ip(ip),
        backend_service: last(wire.backend_service.as_deref()?),
        tier: wire.network_tier.as_ref().and_then(|tier| tier.name()?.parse().ok()),
        place,
        global_access: wire.allow_global_access.unwrap_or_default(),
    };
    Some(found(Resource::ForwardingRule(rule), wire.description))
}

pub(super) fn read_backend_service(wire: model::BackendService) -> Option<Found> {
    let affinity = read_affinity(&wire);
    let is_instances =
        |backend: &model::Backend| backend.group.as_ref()?.contains("/instanceGroups/").then_some(());
    let instances = wire.backends.iter().find_map(is_instances).is_some()
        || wire.name.as_deref().is_some_and(names::is_of_instances);
    let backends = if instances { Backends::InstanceGroups } else { Backends::EndpointGroups };
    let rule = |url: &str| url.contains("/forwardingRules/").then(|| last(url));
    let users = wire.used_by.iter().filter_map(|it| rule(it.reference.as_deref()?)).collect();
    let service = BackendService {
        name: wire.name?,
        scheme: scheme_of(wire.load_balancing_scheme.as_ref()?.name())?,
        network: wire.network.as_deref().map(last),
        affinity,
        weighted: wire
            .locality_lb_policy
            .as_ref()
            .is_some_and(|it| matches!(it.name(), Some("WEIGHTED_MAGLEV" | "WEIGHTED_GCP_RENDEZVOUS"))),
        health_check: wire.health_checks.first().map(|url| last(url))?,
        backends,
        groups: wire.backends.iter().filter_map(|backend| zonal(backend.group.as_deref()?)).collect(),
        synced_hash: wire.description.as_deref().and_then(names::synced_hash_of),
    };
    Some(Found { users, ..found(Resource::BackendService(service), wire.description) })
}

/// Zone and name of `…/zones/ZONE/COLLECTION/NAME`.
fn zonal(url: &str) -> Option<(String, String)> {
    let (_, rest) = url.split_once("zones/")?;
    let (zone, rest) = rest.split_once('/')?;
    Some((zone.to_owned(), last(rest)))
}

pub(super) fn read_health_check(wire: model::HealthCheck) -> Option<Found> {
    let (path, port) = match (wire.http_health_check, wire.tcp_health_check) {
        (Some(http), _) => (Some(http.request_path?), http.port?),
        (None, tcp) => (None, tcp?.port?),
    };
    let seconds = |value: Option<i32>| u32::try_from(value?).ok();
    let check = HealthCheck {
        name: wire.name?,
        path,
        port: u16::try_from(port).ok()?,
        interval: seconds(wire.check_interval_sec)?,
        timeout: seconds(wire.timeout_sec)?,
        healthy: seconds(wire.healthy_threshold)?,
        unhealthy: seconds(wire.unhealthy_threshold)?,
    };
    Some(found(Resource::HealthCheck(check), wire.description))
}

pub(super) fn read_firewall(wire: model::Firewall) -> Option<Found> {
    let verdict = if wire.disabled == Some(true) {
        Verdict::Allow(BTreeSet::new())
    } else if wire.denied.is_empty() {
        read_allowed(&wire.allowed).map_or(Verdict::Foreign, Verdict::Allow)
    } else {
        Verdict::DenyAll
    };
    let firewall = Firewall {
        name: wire.name?,
        network: last(wire.network.as_deref()?),
        priority: u32::try_from(wire.priority?).ok()?,
        sources: ranges(&wire.source_ranges),
        destinations: ranges(&wire.destination_ranges),
        verdict,
    };
    Some(found(Resource::Firewall(firewall), wire.description))
}

/// `None`: not single ports of TCP and UDP.
fn read_allowed(wire: &[model::firewall::Allowed]) -> Option<BTreeSet<(Protocol, u16)>> {
    let mut ports = BTreeSet::new();
    for allowed in wire {
        let protocol: Protocol = allowed.ip_protocol.as_ref()?.to_uppercase().parse().ok()?;
        for port in Some(&allowed.ports).filter(|ports| !ports.is_empty())? {
            ports.insert((protocol, port.parse().ok()?));
        }
    }
    Some(ports)
}

/// CIDRs; a single address stands for itself.
fn ranges(texts: &[String]) -> BTreeSet<IpNet> {
    let range = |text: &String| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    texts.iter().filter_map(range).collect()
}

/// `None` for operations on kinds that we do not know.
pub(super) fn read_operation(wire: model::Operation) -> Option<Operation> {
    let target = target(wire.target_link.as_deref()?)?;
    let failed = wire.error.and_then(|error| error.errors.into_iter().next());
    let state = match (wire.status.as_ref().and_then(|status| status.name()), failed) {
        (Some("DONE"), Some(error)) => OperationState::Failed(CloudError::of_operation(
            &error.code.unwrap_or_default(),
            &error.message.unwrap_or_default(),
        )),
        (Some("DONE"), None) => OperationState::Done,
        _ => OperationState::Running,
    };
    Some(Operation {
        name: wire.name?,
        verb: wire.operation_type.unwrap_or_default(),
        target,
        started: wire.insert_time.unwrap_or_default(),
        state,
    })
}

fn target(url: &str) -> Option<Id> {
    let (head, name) = url.rsplit_once('/')?;
    let collection = head.rsplit('/').next()?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.collection() == collection)?;
    let zone = kind.is_group().then(|| zonal(url)).flatten().map(|(zone, _)| zone);
    Some(Id { kind, zone, name: name.to_owned() })
}
