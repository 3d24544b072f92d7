//! Decodes API objects to the model's types, at the edge and at once. Unused fields are never stored.
//!
//! Owns the decoding of each field, and the report of an unreadable one. A bad field costs itself, not the
//! object. An object costs itself, not the others. An unreadable restriction closes. The API server validates
//! most of this, but not for objects that are older than a rule.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Node, Service as ApiService},
        discovery::v1::EndpointSlice as ApiSlice,
        networking::v1::ServiceCIDR,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use portico_proxy_core::{
    input::{
        Endpoint, EndpointSlice, Name, Service, ServiceName, ServicePort, SlicePort, TrafficPolicy, nobody,
    },
    table::{Family, Protocol},
};

use crate::{
    node::{NOT_READY, NodeState, TO_BE_DELETED},
    sloppy,
};

mod decoded;
mod objects;
#[cfg(test)]
mod tests;

pub use decoded::{Decode, Decoded};
use objects::Text;

use serde::{Deserialize, Deserializer};

/// Label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Time of the change of a pod or Service that changed the slice.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Label with the node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The field of a Service with its admitted clients.
pub const SOURCE_RANGES: &str = "spec.loadBalancerSourceRanges";
/// Timeout of `ClientIP` affinity if the Service has none (the API server's default, 3 h).
const AFFINITY_SECONDS: i32 = 10_800;

/// A field that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BadField {
    /// Kind, namespace and name of the object.
    pub object: String,
    /// Path of the field.
    pub field: &'static str,
    /// The value as the object has it.
    pub value: String,
    /// Expected form of the text.
    pub wanted: &'static str,
    /// Effect on the object.
    pub then: &'static str,
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, field, value, wanted, then } = self;
        write!(f, "{object}: {field} \"{value}\" is not {wanted}; {then}")
    }
}

/// Collects unreadable fields while an object is decoded.
struct Reader {
    object: String,
    bad: Vec<BadField>,
}

impl Reader {
    fn new(kind: &str, metadata: &ObjectMeta) -> Self {
        let namespace =
            metadata.namespace.as_deref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        Self {
            object: format!("{kind} {namespace}{}", metadata.name.as_deref().unwrap_or_default()),
            bad: Vec::new(),
        }
    }

    fn report(&mut self, field: &'static str, value: impl fmt::Display, wanted: &'static str) {
        let (object, value, then) = (self.object.clone(), value.to_string(), "it is left out");
        self.bad.push(BadField { object, field, value, wanted, then });
    }

    fn address(&mut self, field: &'static str, text: &str) -> Option<IpAddr> {
        let address = sloppy::ip(text.trim());
        if address.is_none() {
            self.report(field, text, "an IP address");
        }
        address
    }

    fn addresses<T: AsRef<str>>(
        &mut self,
        field: &'static str,
        texts: impl Iterator<Item = T>,
    ) -> Vec<IpAddr> {
        texts.filter_map(|text| self.address(field, text.as_ref())).collect()
    }

    fn cidrs<T: AsRef<str>>(&mut self, field: &'static str, texts: impl Iterator<Item = T>) -> Vec<IpNet> {
        let mut cidrs = Vec::new();
        for text in texts.filter(|text| !text.as_ref().trim().is_empty()) {
            match sloppy::cidr(text.as_ref().trim()) {
                Some(net) => cidrs.push(net),
                None => self.report(field, text.as_ref(), "a CIDR like 192.0.2.0/24"),
            }
        }
        cidrs
    }

    /// Admitted clients. An unreadable range admits nobody, and still restricts.
    fn source_ranges<T: AsRef<str>>(&mut self, texts: impl Iterator<Item = T>) -> Vec<IpNet> {
        let bad_before = self.bad.len();
        let mut ranges = self.cidrs(SOURCE_RANGES, texts);
        for bad in &mut self.bad[bad_before..] {
            bad.then = "it admits nobody";
        }
        if self.bad.len() > bad_before {
            ranges.extend(nobody());
        }
        ranges
    }

    fn port(&mut self, field: &'static str, number: i32) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        if port.is_none() {
            self.report(field, number, "a port");
        }
        port
    }

    fn protocol(&mut self, field: &'static str, text: Option<&str>) -> Option<Protocol> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            other => {
                self.report(field, other, "TCP, UDP or SCTP");
                None
            }
        }
    }
}

/// A slice, and the time of its trigger.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedSlice {
    /// The slice, if it belongs to a Service.
    pub slice: Option<EndpointSlice>,
    /// Time of the change that made the slice change.
    pub trigger: Option<Timestamp>,
}

/// The ranges of one `ServiceCIDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedRanges(pub Vec<IpNet>);

impl Decode for Service {
    type Kind = ApiService;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Decoded<Self>, D::Error> {
        objects::Service::deserialize(from).map(service)
    }
}

impl Decode for DecodedSlice {
    type Kind = ApiSlice;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Decoded<Self>, D::Error> {
        objects::Slice::deserialize(from).map(slice)
    }
}

impl Decode for NodeState {
    type Kind = Node;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Decoded<Self>, D::Error> {
        Node::deserialize(from).map(|object| node(&object))
    }
}

impl Decode for DecodedRanges {
    type Kind = ServiceCIDR;

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Decoded<Self>, D::Error> {
        ServiceCIDR::deserialize(from).map(service_cidr)
    }
}

/// The part of an object's metadata that a watch needs.
fn metadata(name: Option<String>, namespace: Option<String>, version: Option<String>) -> ObjectMeta {
    ObjectMeta { name, namespace, resource_version: version, ..ObjectMeta::default() }
}

/// Decodes a Service. Headless and `ExternalName` ones have no `cluster_ips` afterwards.
fn service(object: objects::Service<'_>) -> Decoded<Service> {
    let objects::Service { metadata: head, spec, status } = object;
    let created = head.creation_timestamp.as_ref().and_then(|time| time.0.parse::<Timestamp>().ok());
    let metadata = metadata(head.name, head.namespace, head.resource_version);
    let mut reader = Reader::new("Service", &metadata);
    let is = |text: &Option<Text<'_>>, wanted: &str| text.as_ref().is_some_and(|text| text.0 == wanted);
    let is_external_name = is(&spec.kind, "ExternalName");
    let affinity = is(&spec.session_affinity, "ClientIP").then(|| {
        let config = spec.session_affinity_config.and_then(|config| config.client_ip);
        config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(AFFINITY_SECONDS)
    });
    let policy = |text| if is(text, "Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let (internal_policy, external_policy) =
        (policy(&spec.internal_traffic_policy), policy(&spec.external_traffic_policy));
    let cluster_ips = spec.cluster_ips.or_else(|| spec.cluster_ip.map(|ip| vec![ip])).unwrap_or_default();
    let cluster_ips = cluster_ips.iter().filter(|ip| !is_external_name && !ip.0.is_empty() && ip.0 != "None");
    let value = Service {
        name: name_of(&metadata),
        created: created.map_or(i64::MAX, Timestamp::as_second),
        cluster_ips: reader.addresses("spec.clusterIPs", cluster_ips),
        external_ips: reader.addresses("spec.externalIPs", spec.external_ips.iter().flatten()),
        load_balancer_vips: vips(status, &mut reader),
        ports: spec.ports.iter().flatten().filter_map(|port| service_port(port, &mut reader)).collect(),
        internal_policy,
        external_policy,
        affinity: affinity.and_then(|seconds| u32::try_from(seconds).ok()).filter(|seconds| *seconds > 0),
        source_ranges: reader.source_ranges(spec.load_balancer_source_ranges.iter().flatten()),
        health_check_node_port: spec
            .health_check_node_port
            .filter(|port| *port != 0)
            .and_then(|port| reader.port("spec.healthCheckNodePort", port)),
    };
    Decoded { metadata, value, bad: reader.bad }
}

/// Name of an object as a Service's.
fn name_of(metadata: &ObjectMeta) -> ServiceName {
    let text = |text: &Option<String>| Name::from(text.as_deref().unwrap_or_default());
    ServiceName { namespace: text(&metadata.namespace), name: text(&metadata.name) }
}

/// Only VIPs: with `ipMode: Proxy` the load balancer must see the packet.
fn vips(status: objects::ServiceStatus<'_>, reader: &mut Reader) -> Vec<IpAddr> {
    let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    let is_vip = |mode: &Option<Text<'_>>| mode.as_ref().is_none_or(|mode| mode.0 == "VIP");
    let vips = ingress.iter().filter(|ingress| is_vip(&ingress.ip_mode));
    let texts = vips.filter_map(|ingress| ingress.ip.as_ref()).filter(|ip| !ip.0.is_empty());
    reader.addresses("status.loadBalancer.ingress[].ip", texts)
}

fn service_port(port: &objects::Port<'_>, reader: &mut Reader) -> Option<ServicePort> {
    let node_port = port.on_node.filter(|port| *port != 0);
    Some(ServicePort {
        name: text(port.name.as_ref()).into(),
        protocol: reader.protocol("spec.ports[].protocol", port.protocol.as_ref().map(AsRef::as_ref))?,
        port: reader.port("spec.ports[].port", port.number.unwrap_or_default())?,
        node_port: node_port.and_then(|port| reader.port("spec.ports[].nodePort", port)),
    })
}

fn text<'a>(text: Option<&'a Text<'_>>) -> &'a str {
    text.map_or("", AsRef::as_ref)
}

/// Decodes a slice. Slices of FQDNs have no endpoints for the proxy.
fn slice(object: objects::Slice<'_>) -> Decoded<DecodedSlice> {
    let objects::Slice { metadata: head, address_type, ports, endpoints } = object;
    let trigger = head.annotation(TRIGGER_TIME).and_then(|time| time.parse().ok());
    let owner = head.label(SERVICE_NAME).map(Name::from);
    let metadata = metadata(head.name, head.namespace, head.resource_version);
    let mut reader = Reader::new("EndpointSlice", &metadata);
    let ports = ports.iter().flatten().filter_map(|port| {
        Some(SlicePort {
            name: text(port.name.as_ref()).into(),
            protocol: reader.protocol("ports[].protocol", port.protocol.as_ref().map(AsRef::as_ref))?,
            port: reader.port("ports[].port", port.number?)?,
        })
    });
    let ports = ports.collect();
    let endpoints = endpoints.iter().flatten().filter(|_| text(address_type.as_ref()) != "FQDN");
    let endpoints = endpoints.filter_map(|e| endpoint(e, &mut reader)).collect();
    let ServiceName { namespace, name } = name_of(&metadata);
    let slice = owner.map(|owner| {
        let service = ServiceName { namespace, name: owner };
        EndpointSlice { service, name, ports, endpoints }
    });
    Decoded { metadata, value: DecodedSlice { slice, trigger }, bad: reader.bad }
}

fn endpoint(endpoint: &objects::Endpoint<'_>, reader: &mut Reader) -> Option<Endpoint> {
    let Some(address) = endpoint.addresses.as_ref().and_then(|addresses| addresses.first()) else {
        reader.report("endpoints[].addresses", "", "an IP address");
        return None;
    };
    let conditions = endpoint.conditions.unwrap_or_default();
    let names = |hints: Option<&Vec<objects::Hint<'_>>>| {
        hints.into_iter().flatten().map(|hint| Name::from(hint.name.as_ref())).collect()
    };
    let hints = endpoint.hints.as_ref();
    Some(Endpoint {
        address: reader.address("endpoints[].addresses", address.as_ref())?,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.as_ref().map(|node| Name::from(node.as_ref())),
        zone_hints: names(hints.and_then(|hints| hints.for_zones.as_ref())),
        node_hints: names(hints.and_then(|hints| hints.for_nodes.as_ref())),
    })
}

/// Decodes the Node object.
fn node(object: &Node) -> Decoded<NodeState> {
    let head = object.metadata.clone();
    let metadata = metadata(head.name, head.namespace, head.resource_version);
    let mut reader = Reader::new("Node", &metadata);
    let spec = object.spec.clone().unwrap_or_default();
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let texts = |kind: &'static str| addresses.clone().filter(move |a| a.type_ == kind).map(|a| &a.address);
    let all = reader.addresses(
        "status.addresses[].address",
        texts("InternalIP").chain(texts("ExternalIP")).map(String::as_str),
    );
    let pod_cidrs = spec.pod_cidrs.or_else(|| spec.pod_cidr.map(|cidr| vec![cidr])).unwrap_or_default();
    let has_taint = |key: &str| spec.taints.iter().flatten().any(|taint| taint.key == key);
    let (leaving, held_back) = (has_taint(TO_BE_DELETED), has_taint(NOT_READY));
    let state = NodeState {
        zone: object.labels().get(ZONE).map(|zone| zone.as_str().into()),
        addresses: first_of_each_family(&all),
        pod_cidrs: reader.cidrs("spec.podCIDRs", pod_cidrs.iter()),
        leaving: leaving || object.metadata.deletion_timestamp.is_some(),
        held_back,
    };
    Decoded { metadata, value: state, bad: reader.bad }
}

/// The node's addresses by kube-proxy's rule (`GetNodeHostIPs`): the first of each family.
fn first_of_each_family(all: &[IpAddr]) -> Vec<IpAddr> {
    let first = |family| all.iter().find(|address| Family::of(**address) == family).copied();
    let mut chosen: Vec<_> = [Family::V4, Family::V6].into_iter().filter_map(first).collect();
    chosen.sort_by_key(|address| all.iter().position(|other| other == address));
    chosen
}

/// Decodes the ranges of a `ServiceCIDR`.
fn service_cidr(object: ServiceCIDR) -> Decoded<DecodedRanges> {
    let head = object.metadata;
    let metadata = metadata(head.name, head.namespace, head.resource_version);
    let mut reader = Reader::new("ServiceCIDR", &metadata);
    let cidrs = object.spec.map(|spec| spec.cidrs).into_iter().flatten().flatten();
    let value = DecodedRanges(reader.cidrs("spec.cidrs", cidrs));
    Decoded { metadata, value, bad: reader.bad }
}
