//! The objects of the bench: Nodes that stand for instances, and Services as small as they can be. Pure.

use std::net::Ipv4Addr;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};

use crate::cloud::aws::Instance;

/// The targets of a Service of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nodes behind a load balancer, by node ports; a selector that selects nothing.
    Nodes,
    /// Pods behind a load balancer, by their addresses.
    Pods,
    /// Nodes behind it, and endpoints of its own instead of a selector: only the controller has work with it.
    Selectorless,
}

pub(super) fn mk_node(instance: &Instance) -> anyhow::Result<Node> {
    let Instance { id: _, zone, address, name } = instance;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone,
        }},
        "spec": {"providerID": instance.provider_id()},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "InternalDNS", "address": name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": "an instance"}],
        },
    }))?)
}

/// As small as a Service can be that both controllers make a Network Load Balancer for.
pub(super) fn mk_service(name: &str, kind: Kind) -> anyhow::Result<Service> {
    let mut annotations = json!({"service.beta.kubernetes.io/aws-load-balancer-type": "nlb"});
    let mut spec = json!({
        "type": "LoadBalancer", "ports": [{"name": "web", "port": 80}],
        "allocateLoadBalancerNodePorts": kind != Kind::Pods,
    });
    match kind {
        Kind::Nodes => spec["selector"] = json!({"app": name}),
        Kind::Pods => annotations["portico.dev/target-kind"] = json!("pod"),
        Kind::Selectorless => {}
    }
    let metadata = json!({"name": name, "annotations": annotations});
    Ok(serde_json::from_value(json!({"metadata": metadata, "spec": spec}))?)
}

/// The only EndpointSlice of a Service without a selector.
pub(super) fn mk_slice(service: &str, addresses: &[Ipv4Addr]) -> anyhow::Result<EndpointSlice> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": service, "labels": {
            "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "bench.portico.dev",
        }},
        "addressType": "IPv4",
        "ports": [{"name": "web", "protocol": "TCP", "port": 8080}],
        "endpoints": mk_endpoints(addresses),
    }))?)
}

pub(super) fn mk_endpoints(addresses: &[Ipv4Addr]) -> Value {
    let one = |address: &Ipv4Addr| json!({"addresses": [address], "conditions": {"ready": true, "serving": true}, "zone": "us-east-1a"});
    addresses.iter().map(one).collect()
}
