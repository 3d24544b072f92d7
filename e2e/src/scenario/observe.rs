//! Reading the cluster's objects: addresses and conditions of Services, Events, whether something is there.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Condition};
use serde_json::Value;

use crate::cluster::Cluster;

/// The finalizer that the operator puts on Services it provisions for.
pub const FINALIZER: &str = "portico.dev/load-balancer";

/// The condition that says whether the load balancer is there.
pub const PROVISIONED: &str = "portico.dev/LoadBalancerProvisioned";

/// A Service's ClusterIP and port `number` (0 is the first).
pub fn cluster_ip(service: &Service, number: usize) -> anyhow::Result<SocketAddr> {
    let spec = service.spec.as_ref().context("a Service without a spec")?;
    let ip: IpAddr = spec.cluster_ip.as_deref().context("no ClusterIP")?.parse().context("the ClusterIP")?;
    Ok(SocketAddr::new(ip, port(service, number)?))
}

/// Port `number` of a Service.
fn port(service: &Service, number: usize) -> anyhow::Result<u16> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let port = ports.and_then(|ports| ports.get(number)).context("no such port")?;
    u16::try_from(port.port).context("a port number")
}

/// The node port of port `number`, if it has one.
pub fn node_port(service: &Service, number: usize) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    ports.get(number)?.node_port.filter(|&port| port != 0).and_then(|port| u16::try_from(port).ok())
}

/// The addresses in `status.loadBalancer.ingress`.
pub fn ingress(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect()
}

/// `ipMode` of the first address in `status.loadBalancer.ingress`.
pub fn ip_mode(service: &Service) -> Option<&str> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    ingress.first()?.ip_mode.as_deref()
}

/// A Service's finalizers.
pub fn finalizers(service: &Service) -> &[String] {
    service.metadata.finalizers.as_deref().unwrap_or_default()
}

/// A Service's conditions of ours.
pub fn conditions(service: &Service) -> Vec<&Condition> {
    let all = service.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    all.iter().filter(|condition| condition.type_.starts_with("portico.dev/")).collect()
}

/// A condition as `status reason: message`.
pub fn condition(service: &Service, kind: &str) -> Option<String> {
    let all = conditions(service);
    let found = all.iter().find(|condition| condition.type_ == kind)?;
    Some(format!("{} {}: {}", found.status, found.reason, found.message))
}

/// Checks that a Service shows its load balancer: address, finalizer, condition. Gives the address and port.
pub fn provisioned(service: &Service) -> anyhow::Result<SocketAddr> {
    let seen = ingress(service);
    let &[ip] = seen.as_slice() else { bail!("ingress addresses {seen:?}, expected one") };
    ensure!(ip_mode(service).is_some(), "the address has no ipMode");
    ensure!(finalizers(service).iter().any(|name| name == FINALIZER), "no finalizer {FINALIZER}");
    let condition = condition(service, PROVISIONED).context("no condition that it is provisioned")?;
    ensure!(condition.starts_with("True "), "{PROVISIONED}: {condition}");
    Ok(SocketAddr::new(ip, port(service, 0)?))
}

/// An error while a Service shows a trace of a load balancer.
pub fn without_load_balancer(service: &Service) -> anyhow::Result<()> {
    ensure!(ingress(service).is_empty(), "ingress is {:?}", ingress(service));
    ensure!(finalizers(service).is_empty(), "finalizers are {:?}", finalizers(service));
    let provisioned = condition(service, PROVISIONED);
    ensure!(!provisioned.as_ref().is_some_and(|said| said.starts_with("True ")), "condition {provisioned:?}");
    Ok(())
}

/// Portico's Events on a Service, as `type reason: note`.
///
/// The API server has its own: its repair loop says `ClusterIPNotAllocated` of a Service whose `IPAddress` its cache does
/// not have yet.
pub(super) async fn events(cluster: &Cluster, namespace: &str, service: &str) -> anyhow::Result<Vec<String>> {
    let selector = format!("involvedObject.kind=Service,involvedObject.name={service}");
    let args = ["-n", namespace, "get", "events", "-o", "json", "--field-selector", &selector];
    let list: Value = serde_json::from_str(&cluster.kubectl(&args).await?).context("a list of events")?;
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .filter(|event| text(event, "reportingComponent").starts_with("portico.dev/"))
        .map(|event| format!("{} {}: {}", text(event, "type"), text(event, "reason"), text(event, "message")))
        .collect())
}
