//! The scenarios, by subject; the last of all uninstalls everything and looks at what is left.

mod groups;
mod lifecycle;
mod nodes;
mod outages;
mod pods;
mod remains;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::{harness::Scenario, objects::mk_service, site::Cloud};

/// All scenarios, in the order in which they should run.
pub(crate) fn all() -> Vec<Scenario> {
    [
        lifecycle::scenarios(),
        groups::scenarios(),
        pods::scenarios(),
        nodes::scenarios(),
        outages::scenarios(),
        remains::scenarios(),
    ]
    .concat()
}

/// The spec of a Service of type LoadBalancer with a cloud's class.
fn balanced(cloud: Cloud) -> Value {
    // Google's needs no node ports, so it gets none.
    let node_ports = cloud == Cloud::Aws;
    json!({
        "type": "LoadBalancer", "loadBalancerClass": cloud.class(), "allocateLoadBalancerNodePorts": node_ports,
        "ports": [{"name": "http", "port": 80}],
    })
}

/// Such a Service, with selector `app: web`.
fn mk_balanced(name: &str, cloud: Cloud) -> anyhow::Result<Service> {
    let mut spec = balanced(cloud);
    spec["selector"] = json!({"app": "web"});
    mk_service(name, spec)
}
