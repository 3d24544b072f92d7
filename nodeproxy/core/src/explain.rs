//! All that the proxy programs for one Service, and why.
//!
//! Owns [`Explanation`]: frontends, endpoints under either policy, health check node port, elements and chains,
//! and problems. Leaves the comparison with the kernel to [`crate::check`].
//!
//! Invariant: every element that the Service wants is listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    check::{Check, Wanted},
    claims::ClaimKind,
    compile,
    input::{Service, ServiceName, ServicePort, TrafficPolicy},
    model::{self, Model, Problem},
    select::{self, Standing},
    table::{Backend, Family, Frontend, Key, Protocol},
};

mod text;

#[cfg(test)]
mod tests;

/// The answer about a Service that this proxy serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Name of the node whose proxy answers.
    pub node: String,
    /// Namespace and name.
    pub service: ServiceName,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// Seconds for which a client keeps its endpoint, with session affinity.
    pub affinity_seconds: Option<u32>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// The health check node port.
    pub health_check: Option<HealthCheck>,
    /// Each port, in each family that the Service has.
    pub ports: Vec<Port>,
    /// Elements of the kernel's maps and sets.
    pub elements: Vec<Element>,
    /// Balancing chains that the elements name; others may use them as well.
    pub chains: Vec<String>,
    /// Problems that its owner may not expect.
    pub problems: Vec<String>,
    /// The comparison with the kernel, if it was requested.
    pub kernel: Option<Check>,
}

/// A health check node port and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node, for each family of the Service: none means 503, so load balancers stay away.
    pub local_endpoints: BTreeMap<Family, usize>,
}

/// One of the Service's ports in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name; empty for a single unnamed one.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// `spec.ports[].port`.
    pub port: u16,
    /// `spec.ports[].nodePort`.
    pub node_port: Option<u16>,
    /// Family of the addresses below.
    pub family: Family,
    /// Addresses and ports that clients may dial.
    pub frontends: Vec<Entrance>,
    /// Its endpoints, used or not.
    pub endpoints: Vec<Endpoint>,
    /// Why traffic stays on this node or is dropped here, in sentences.
    pub notes: Vec<String>,
}

/// An address and port of the Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entrance {
    /// Address, protocol and port.
    pub frontend: Frontend,
    /// How the Service has the address.
    pub by: ClaimKind,
    /// Another Service that has it, so that clients do not reach this one there.
    pub held_by: Option<ServiceName>,
}

/// An endpoint of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Address and port.
    pub backend: Backend,
    /// Name of its node.
    pub node: Option<String>,
    /// Whether it is on this node.
    pub here: bool,
    /// For clients under policy `Cluster`; `None` when no client of the port is.
    pub cluster: Option<Standing>,
    /// For clients under policy `Local`; `None` when no client of the port is.
    pub local: Option<Standing>,
}

/// An element of the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Element {
    /// Table family and map or set.
    pub map: String,
    /// The key, as text.
    pub key: String,
    /// The value, as text.
    pub value: String,
}

/// Explains a Service; `None` when this proxy serves no such Service (it does not exist, is headless, of type
/// `ExternalName`, or of another proxy).
pub fn explain(model: &Model, name: &ServiceName) -> Option<Explanation> {
    let service = model.service_named(name)?;
    let frontends = compile::frontends(service, model.node_info(), model.config());
    let health = model.health_checks().get(name);
    let problems = model.problems().into_iter().filter(|problem| concerns(problem, name));
    Some(Explanation {
        node: model.node_info().name.to_string(),
        service: name.clone(),
        cluster_ips: service.cluster_ips.clone(),
        internal_policy: service.internal_policy,
        external_policy: service.external_policy,
        affinity_seconds: service.affinity,
        source_ranges: service.source_ranges.clone(),
        health_check: health.map(health_check),
        ports: ports(model, service, &frontends),
        elements: elements(model, name),
        chains: wanted(model, name).chains().iter().map(ToString::to_string).collect(),
        problems: problems.map(|problem| problem.to_string()).collect(),
        kernel: None,
    })
}

fn health_check(check: &model::HealthCheck) -> HealthCheck {
    let families = [Family::V4, Family::V6].into_iter();
    let counts = families.filter_map(|family| Some((family, check.local_endpoints(family)?)));
    HealthCheck { port: check.port, local_endpoints: counts.collect() }
}

/// The elements that concern a Service, to be compared with the kernel's.
pub fn wanted(model: &Model, name: &ServiceName) -> Wanted {
    let Some(service) = model.service_named(name) else { return Wanted::default() };
    let all = compile::frontends(service, model.node_info(), model.config()).into_keys();
    // What another Service holds is that one's business.
    let held = all.filter(|f| model.holder(f).is_some_and(|(claim, _)| claim.service == *name));
    Wanted::by_keys(model, model.keys(name), held.collect())
}

fn concerns(problem: &Problem, name: &ServiceName) -> bool {
    match problem {
        Problem::Conflict(conflict) => conflict.holder == *name || conflict.waiting == *name,
        Problem::Refusal(refusal) => refusal.service() == name,
    }
}

fn elements(model: &Model, name: &ServiceName) -> Vec<Element> {
    let desired = &model.shadow().desired().elements;
    let keys: BTreeSet<Key> = model.keys(name).iter().copied().collect();
    let element = |key: Key| {
        let map = format!("{} {}", key.family(), key.map());
        Some(Element { map, key: key.to_string(), value: desired.get(&key)?.to_string() })
    };
    keys.into_iter().filter_map(element).collect()
}

fn ports(model: &Model, service: &Service, frontends: &BTreeMap<Frontend, (ClaimKind, usize)>) -> Vec<Port> {
    let families: BTreeSet<_> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
    let all = service.ports.iter().enumerate();
    all.flat_map(|(index, port)| families.iter().map(move |family| (index, port, *family)))
        .map(|(index, port, family)| {
            let own = frontends.iter().filter(|(f, (_, i))| *i == index && Family::of(f.address) == family);
            let entrances = own.map(|(frontend, (kind, _))| entrance(model, service, *frontend, *kind));
            Port {
                name: port.name.to_string(),
                protocol: port.protocol,
                port: port.port,
                node_port: port.node_port,
                family,
                frontends: entrances.collect(),
                endpoints: endpoints(model, service, port, family),
                notes: notes(model, service, port, family),
            }
        })
        .collect()
}

fn entrance(model: &Model, service: &Service, frontend: Frontend, by: ClaimKind) -> Entrance {
    let holder = model.holder(&frontend).map(|(claim, _)| claim.service.clone());
    Entrance { frontend, by, held_by: holder.filter(|holder| *holder != service.name) }
}

fn endpoints(model: &Model, service: &Service, port: &ServicePort, family: Family) -> Vec<Endpoint> {
    let external = select::is_external(service, port, family, model.config());
    let cluster = service.internal_policy == TrafficPolicy::Cluster || external;
    let local = service.internal_policy == TrafficPolicy::Local
        || (external && service.external_policy == TrafficPolicy::Local);
    let listed = select::listed(port, family, model.slices(&service.name), model.node_info());
    let all = listed.into_iter().map(|listed| Endpoint {
        backend: listed.backend,
        node: listed.endpoint.node.as_ref().map(ToString::to_string),
        here: listed.here,
        cluster: cluster.then_some(listed.cluster),
        local: local.then_some(listed.local),
    });
    all.collect()
}

fn notes(model: &Model, service: &Service, port: &ServicePort, family: Family) -> Vec<String> {
    let (node, config) = (model.node_info(), model.config());
    let lists = select::select(service, port, family, model.slices(&service.name), node, config);
    let external = select::is_external(service, port, family, config);
    text::notes(service, external, &lists)
}
