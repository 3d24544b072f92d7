//! The second stage: a port on every node for each port of the Service.
//!
//! Owns: verifying them. Leaves to others: allocating them (the API server), serving them (the node proxy).
//! Invariant: it never changes anything. Under `allocateLoadBalancerNodePorts: false` the user has said that there
//! shall be none, so allocating them here would overrule the user; where targets need them, that is a problem.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use portico_provider::{Capabilities, TargetKind};

use super::Standing;
use crate::cache::service::declined_node_ports;
use crate::desired::problem::{Problem, ProblemKind};

pub(super) const NAME: &str = "node_port";

/// `pods`: the load balancer sends to pods and needs no node port.
pub(super) fn verify(service: &Service, capabilities: &Capabilities, pods: bool) -> Standing {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let missing: Vec<&ServicePort> =
        ports.iter().filter(|port| port.node_port.unwrap_or_default() == 0).collect();
    if missing.is_empty() {
        let list = ports.iter().filter_map(|port| port.node_port).map(|port| port.to_string());
        return Standing::Stands(list.collect::<Vec<_>>().join(", "));
    }
    if spec.is_none_or(|spec| declined_node_ports(spec).next().is_none()) {
        return Standing::Waiting("the API server to allocate spec.ports[].nodePort");
    }
    if pods || !capabilities.needs_node_ports {
        return Standing::Nothing("this load balancer's targets need no node ports");
    }
    Standing::Blocked(vec![required(&missing, capabilities)])
}

fn required(missing: &[&ServicePort], capabilities: &Capabilities) -> Problem {
    let ports: Vec<String> = missing.iter().map(|port| port.port.to_string()).collect();
    let pods = capabilities.target_kinds.contains(&TargetKind::Pod);
    let other = if pods {
        ", or annotate portico.dev/target-kind: pod (targetKind in the parameters of its class)"
    } else {
        ""
    };
    let message = format!(
        "is false, but this provider reaches nodes through their node ports, and port {} has none; \
         set it to true, or set nodePort{other}",
        ports.join(", ")
    );
    Problem::new(ProblemKind::NodePortsRequired, "spec.allocateLoadBalancerNodePorts", message)
}
