//! API objects to the model's plain words, at the edge and at once: nothing of an object is kept that we never look at.
//!
//! Owns the reading of each field and the complaint about one that cannot be read. A bad field costs itself, not the object;
//! an object costs itself, not the others. The API server validates most of this, but not for objects from before a rule.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Service as ApiService},
    discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice as ApiSlice},
    networking::v1::ServiceCIDR,
};
use kube::ResourceExt;
use portico_proxy_core::{
    input::{Endpoint, EndpointSlice, Name, Service, ServiceName, ServicePort, SlicePort, TrafficPolicy},
    table::Protocol,
};

use crate::node::{NodeState, TO_BE_DELETED};

#[cfg(test)]
mod tests;

/// Label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// When the pod or Service changed that made the slice change.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// `ClientIP` affinity lasts this long unless the Service says otherwise (the API server's default, 3 h).
const AFFINITY_SECONDS: i32 = 10_800;

/// A field that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BadField {
    /// Kind, namespace and name of the object.
    pub object: String,
    /// Path of the field.
    pub field: &'static str,
    /// What it says.
    pub value: String,
    /// What it should be.
    pub wanted: &'static str,
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, field, value, wanted } = self;
        write!(f, "{object}: {field} \"{value}\" is not {wanted}; it is left out")
    }
}

/// Collects complaints while an object is read.
struct Reader {
    object: String,
    bad: Vec<BadField>,
}

impl Reader {
    fn new(kind: &str, object: &impl ResourceExt) -> Self {
        let namespace = object.namespace().map(|namespace| namespace + "/").unwrap_or_default();
        Self { object: format!("{kind} {namespace}{}", object.name_any()), bad: Vec::new() }
    }

    fn complain(&mut self, field: &'static str, value: impl fmt::Display, wanted: &'static str) {
        self.bad.push(BadField { object: self.object.clone(), field, value: value.to_string(), wanted });
    }

    fn parse<T: FromStr>(&mut self, field: &'static str, text: &str, wanted: &'static str) -> Option<T> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.complain(field, text, wanted);
        }
        parsed
    }

    fn addresses<'a>(&mut self, field: &'static str, texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
        texts.filter_map(|text| self.parse(field, text, "an IP address")).collect()
    }

    fn cidrs<'a>(&mut self, field: &'static str, texts: impl Iterator<Item = &'a String>) -> Vec<IpNet> {
        let texts = texts.filter(|text| !text.trim().is_empty());
        let cidrs = texts.filter_map(|text| self.parse::<IpNet>(field, text, "a CIDR"));
        cidrs.map(|net| net.trunc()).collect()
    }

    fn port(&mut self, field: &'static str, number: i32) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        if port.is_none() {
            self.complain(field, number, "a port");
        }
        port
    }

    fn protocol(&mut self, field: &'static str, text: Option<&str>) -> Option<Protocol> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            other => {
                self.complain(field, other, "TCP, UDP or SCTP");
                None
            }
        }
    }
}

/// Name of an object as a Service's.
pub fn service_name(object: &impl ResourceExt) -> ServiceName {
    ServiceName { namespace: object.namespace().unwrap_or_default().into(), name: object.name_any().into() }
}

/// The Service that a slice belongs to; `None` if it names none.
pub fn slice_owner(slice: &ApiSlice) -> Option<ServiceName> {
    let name = slice.labels().get(SERVICE_NAME)?.as_str();
    Some(ServiceName { namespace: slice.namespace().unwrap_or_default().into(), name: name.into() })
}

/// When what made the slice change happened.
pub fn trigger_time(slice: &ApiSlice) -> Option<Timestamp> {
    slice.annotations().get(TRIGGER_TIME)?.parse().ok()
}

/// Reads a Service. Headless and `ExternalName` ones come out without `cluster_ips`.
pub fn service(object: &ApiService) -> (Service, Vec<BadField>) {
    let mut reader = Reader::new("Service", object);
    let spec = object.spec.clone().unwrap_or_default();
    let is_external_name = spec.type_.as_deref() == Some("ExternalName");
    let cluster_ips = spec.cluster_ips.or_else(|| spec.cluster_ip.map(|ip| vec![ip])).unwrap_or_default();
    let cluster_ips = cluster_ips.iter().filter(|ip| !is_external_name && !ip.is_empty() && *ip != "None");
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.and_then(|config| config.client_ip);
        config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(AFFINITY_SECONDS)
    });
    let external_ips = spec.external_ips.unwrap_or_default();
    let source_ranges = spec.load_balancer_source_ranges.unwrap_or_default();
    let service = Service {
        name: service_name(object),
        created: object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
        cluster_ips: reader.addresses("spec.clusterIPs", cluster_ips),
        external_ips: reader.addresses("spec.externalIPs", external_ips.iter()),
        load_balancer_vips: vips(object, &mut reader),
        ports: spec.ports.iter().flatten().filter_map(|port| service_port(port, &mut reader)).collect(),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        affinity: affinity.and_then(|seconds| u32::try_from(seconds).ok()).filter(|seconds| *seconds > 0),
        source_ranges: reader.cidrs("spec.loadBalancerSourceRanges", source_ranges.iter()),
        health_check_node_port: spec
            .health_check_node_port
            .filter(|port| *port != 0)
            .and_then(|port| reader.port("spec.healthCheckNodePort", port)),
    };
    (service, reader.bad)
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

/// Only VIPs are ours: with `ipMode: Proxy` the load balancer must see the packet.
fn vips(object: &ApiService, reader: &mut Reader) -> Vec<IpAddr> {
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let vips = ingress.filter(|ingress| ingress.ip_mode.as_deref().unwrap_or("VIP") == "VIP");
    let texts: Vec<_> = vips.filter_map(|ingress| ingress.ip.clone()).filter(|ip| !ip.is_empty()).collect();
    reader.addresses("status.loadBalancer.ingress[].ip", texts.iter())
}

fn service_port(port: &k8s_openapi::api::core::v1::ServicePort, reader: &mut Reader) -> Option<ServicePort> {
    let node_port = port.node_port.filter(|port| *port != 0);
    Some(ServicePort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: reader.protocol("spec.ports[].protocol", port.protocol.as_deref())?,
        port: reader.port("spec.ports[].port", port.port)?,
        node_port: node_port.and_then(|port| reader.port("spec.ports[].nodePort", port)),
    })
}

/// Reads a slice that belongs to `owner`. Slices of FQDNs have no endpoints for us.
pub fn slice(object: &ApiSlice, owner: ServiceName) -> (EndpointSlice, Vec<BadField>) {
    let mut reader = Reader::new("EndpointSlice", object);
    let ports = object.ports.iter().flatten().filter_map(|port| {
        Some(SlicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: reader.protocol("ports[].protocol", port.protocol.as_deref())?,
            port: reader.port("ports[].port", port.port?)?,
        })
    });
    let ports = ports.collect();
    let endpoints = object.endpoints.iter().flatten().filter(|_| object.address_type != "FQDN");
    let endpoints = endpoints.filter_map(|e| endpoint(e, &mut reader)).collect();
    let slice = EndpointSlice { service: owner, name: object.name_any().into(), ports, endpoints };
    (slice, reader.bad)
}

fn endpoint(endpoint: &ApiEndpoint, reader: &mut Reader) -> Option<Endpoint> {
    let Some(address) = endpoint.addresses.first() else {
        reader.complain("endpoints[].addresses", "", "an IP address");
        return None;
    };
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    let names = |names: &mut dyn Iterator<Item = String>| names.map(Name::from).collect();
    Some(Endpoint {
        address: reader.parse("endpoints[].addresses", address, "an IP address")?,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.as_deref().map(Name::from),
        zone_hints: names(&mut hints.for_zones.into_iter().flatten().map(|zone| zone.name)),
        node_hints: names(&mut hints.for_nodes.into_iter().flatten().map(|node| node.name)),
    })
}

/// Reads the Node object.
pub fn node(object: &Node) -> (NodeState, Vec<BadField>) {
    let mut reader = Reader::new("Node", object);
    let spec = object.spec.clone().unwrap_or_default();
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of_type = |kind: &str| -> Vec<String> {
        addresses.clone().filter(|a| a.type_ == kind).map(|a| a.address.clone()).collect()
    };
    let internal = of_type("InternalIP");
    let chosen = if internal.is_empty() { of_type("ExternalIP") } else { internal };
    let pod_cidrs = spec.pod_cidrs.or_else(|| spec.pod_cidr.map(|cidr| vec![cidr])).unwrap_or_default();
    let tainted = spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED);
    let state = NodeState {
        zone: object.labels().get(ZONE).map(|zone| zone.as_str().into()),
        addresses: reader.addresses("status.addresses[].address", chosen.iter()),
        pod_cidrs: reader.cidrs("spec.podCIDRs", pod_cidrs.iter()),
        leaving: tainted || object.metadata.deletion_timestamp.is_some(),
    };
    (state, reader.bad)
}

/// Reads the ranges of a `ServiceCIDR`.
pub fn service_cidr(object: &ServiceCIDR) -> (Vec<IpNet>, Vec<BadField>) {
    let mut reader = Reader::new("ServiceCIDR", object);
    let cidrs = object.spec.as_ref().map(|spec| spec.cidrs.clone()).into_iter().flatten().flatten();
    let cidrs: Vec<String> = cidrs.collect();
    (reader.cidrs("spec.cidrs", cidrs.iter()), reader.bad)
}
