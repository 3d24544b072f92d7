//! The plan: never a step, but an obstacle for what node ports cannot do.
//!
//! Owns: the obstacles. Leaves to others: what is reported.
//! Invariant: nothing desired is dropped in silence.

use portico_provider::{Desired, Field, LoadBalancer, Obstacle, Plan, ProxyProtocol, Scheme, Targets};

use crate::step::NoStep;

pub(crate) fn plan(desired: Desired<'_>) -> Plan<NoStep> {
    match desired {
        Desired::Absent(_) => Plan::nothing("a Service without a load balancer leaves none behind"),
        Desired::Present(load_balancer) => present(load_balancer),
    }
}

fn present(desired: &LoadBalancer) -> Plan<NoStep> {
    let mut plan = Plan::nothing("bare metal has no load balancer: clients use the node ports");
    let mut block = |field, message: String| {
        plan = plan.clone().block(field, Obstacle::Unsupported, message);
    };
    for listener in desired.listeners.iter().filter(|listener| listener.node_port.is_none()) {
        let key = listener.key();
        block(
            Field::Listeners,
            format!(
                "{key} has no node port, the only way in here: set allocateLoadBalancerNodePorts to true"
            ),
        );
    }
    if let Targets::Pods(_) = desired.targets {
        block(
            Field::TargetKind,
            "pods cannot be reached from outside without a load balancer: use nodes".into(),
        );
    }
    if desired.proxy_protocol == ProxyProtocol::V2 {
        block(Field::ProxyProtocol, "nobody here could write PROXY headers: turn it off".into());
    }
    if desired.scheme == Scheme::Internal {
        block(Field::Scheme, "node ports cannot be internal: remove the internal scheme".into());
    }
    if let Some(group) = &desired.group {
        let message = format!(
            "there is no load balancer that {group} could share: remove annotation portico.dev/group"
        );
        block(Field::Group, message);
    }
    for address in &desired.requested_addresses {
        block(
            Field::RequestedAddresses,
            format!("{address} cannot be given without a load balancer: remove the request"),
        );
    }
    plan
}
