//! Suite `clouds`: one cluster with two operators, one for AWS and one for Google Cloud, and a class each.
//!
//! ```text
//! one cluster, nodes of both clouds ─▶ two releases of the chart ─▶ fault proxies ─▶ emulators
//! ```
//! Each file lists the scenarios of one subject; the last of all uninstalls everything and checks what is left. Accounts
//! are read past the operators and the proxies.

mod groups;
mod lifecycle;
mod nodes;
mod outages;
mod pods;
mod published;
mod remains;
mod setup;
mod sites;
mod upgrade;

use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    cloud::Cloud,
    scenario::{self, objects::mk_service},
};
use serde_json::{Value, json};

type Fixture = scenario::Fixture<setup::CloudsSetup>;
type Scenario = scenario::Scenario<setup::CloudsSetup>;

/// All scenarios, in the order in which they should run.
pub(super) fn scenarios() -> Vec<Scenario> {
    let subjects = [
        lifecycle::scenarios(),
        groups::scenarios(),
        pods::scenarios(),
        nodes::scenarios(),
        outages::scenarios(),
        upgrade::scenarios(),
        remains::scenarios(),
    ];
    subjects.into_iter().flatten().map(|scenario| scenario.needs(&Cloud::BOTH)).collect()
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
