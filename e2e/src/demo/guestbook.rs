//! The guestbook's `frontend` through every type: ClusterIP → NodePort → LoadBalancer → ClusterIP, with what stands in
//! spec and status, and what clients get, at each stage. Then redis, written and read through its master's address.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    CLIENT, NAMESPACE,
    addresses::{From, ingress},
    probing,
};
use crate::{account::Account, cluster::Cluster};

const GUESTBOOK: &str = include_str!("../../manifests/guestbook.yaml");

/// How long a stage may take to be reached or left.
const STAGE_DEADLINE: Duration = Duration::from_mins(1);

/// Runs the guestbook demo.
pub(super) async fn play(cluster: &Cluster, account: &Account) -> anyhow::Result<()> {
    account.step("applying the guestbook: frontend, redis-master, redis-replica");
    cluster.apply(GUESTBOOK).await?;
    for deployment in ["redis-master", "redis-replica", "frontend"] {
        let workload = format!("deployment/{deployment}");
        let args = ["-n", NAMESPACE, "rollout", "status", &workload, "--timeout=120s"];
        cluster.kubectl(&args).await.with_context(|| format!("waiting for {workload}"))?;
    }
    account.step("its pods are ready");

    let first = stage(cluster, account, 1, "ClusterIP").await?;
    ensure!(node_ports(&first).is_empty(), "frontend is a ClusterIP Service and has node ports");
    let second = stage(cluster, account, 2, "NodePort").await?;
    let third = stage(cluster, account, 3, "LoadBalancer").await?;
    let last = stage(cluster, account, 4, "ClusterIP").await?;
    ensure!(cluster_ip(&first) == cluster_ip(&last), "the ClusterIP of frontend changed on the way");
    closed(cluster, account, &second, &third).await?;
    redis(cluster, account).await
}

/// Sets the type, waits until the stage is reached, shows it, and asks every address.
async fn stage(cluster: &Cluster, account: &Account, number: u8, type_: &str) -> anyhow::Result<Service> {
    let services = Api::<Service>::namespaced(cluster.client(), NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"type": type_}}));
    services
        .patch("frontend", &PatchParams::default(), &patch)
        .await
        .with_context(|| format!("setting the type of frontend to {type_}"))?;
    let service = cluster
        .eventually(&format!("frontend as {type_}"), STAGE_DEADLINE, async || {
            let service = services.get("frontend").await?;
            reached(&service, type_)?;
            Ok(service)
        })
        .await?;
    account.line("");
    account.step(format!("stage {number}: frontend is a {type_} Service"));
    show(account, &service);
    probing::ask_all(cluster, account, &service, true).await?;
    Ok(service)
}

/// Whether spec and status are those of the stage: what it adds is there, what it left is gone.
fn reached(service: &Service, type_: &str) -> anyhow::Result<()> {
    let ports = node_ports(service);
    ensure!(type_ != "ClusterIP" || ports.is_empty(), "node ports {ports:?} are still there");
    ensure!(type_ == "ClusterIP" || !ports.is_empty(), "no node port yet");
    let (addresses, finalizers) = (ingress(service), service.metadata.finalizers.clone().unwrap_or_default());
    if type_ == "LoadBalancer" {
        ensure!(!addresses.is_empty(), "no address in status.loadBalancer yet");
    } else {
        ensure!(addresses.is_empty(), "addresses {addresses:?} are still in status.loadBalancer");
        ensure!(finalizers.is_empty(), "finalizers {finalizers:?} are still there");
    }
    Ok(())
}

/// Spec and status as far as the stages touch them.
fn show(account: &Account, service: &Service) {
    let ports: Vec<String> = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .map(|port| {
            let node_port = port.node_port.map_or_else(String::new, |number| format!(":{number}"));
            format!("{}{node_port}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP"))
        })
        .collect();
    account.detail(format!("spec    clusterIP {}  ports {}", cluster_ip(service), ports.join(", ")));
    let addresses: Vec<String> = ingress(service).iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") };
    account.detail(format!("status  load balancer {addresses}"));
    let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    for condition in conditions {
        let (kind, status, reason) = (&condition.type_, &condition.status, &condition.reason);
        account.detail(format!("        {kind}={status} {reason}: {}", condition.message));
    }
}

/// Checks that addresses of the stage before are closed: the node port on a node, the load balancer's address.
async fn closed(
    cluster: &Cluster,
    account: &Account,
    second: &Service,
    third: &Service,
) -> anyhow::Result<()> {
    account.line("");
    account.step("what the former stages opened is closed");
    let node = cluster.nodes().first().context("there is no node")?;
    for port in node_ports(second) {
        let address = SocketAddr::from((node.address, port));
        probing::is_silent(cluster, account, &From::Outside, address, "NodePort").await?;
    }
    for ip in ingress(third) {
        probing::is_silent(cluster, account, &From::Outside, SocketAddr::new(ip, 80), "LoadBalancer").await?;
    }
    Ok(())
}

/// Writes and reads through the address of `redis-master`, from a pod; then reads a replica that replicated it, whose own
/// way to the master is the same address.
async fn redis(cluster: &Cluster, account: &Account) -> anyhow::Result<()> {
    account.line("");
    account.step("redis, by kubectl exec in a pod, through the addresses of its Services");
    let services = Api::<Service>::namespaced(cluster.client(), NAMESPACE);
    let master = cluster_ip(&services.get("redis-master").await.context("reading Service redis-master")?);
    let replica = cluster_ip(&services.get("redis-replica").await.context("reading Service redis-replica")?);
    let said = redis_cli(cluster, &master, &["set", "visitor", "portico"]).await?;
    ensure!(said == "OK", "redis-master at {master} answered {said:?} to a write");
    account.detail(format!("redis-master  {master}:6379   set visitor portico → {said}"));
    for (name, address) in [("redis-master", &master), ("redis-replica", &replica)] {
        let what = format!("{name} at {address} knows the visitor");
        let said = cluster
            .eventually(&what, STAGE_DEADLINE, async || {
                let said = redis_cli(cluster, address, &["get", "visitor"]).await?;
                ensure!(said == "portico", "it answered {said:?}");
                Ok(said)
            })
            .await?;
        account.detail(format!("{name:<13} {address}:6379   get visitor → {said}"));
    }
    Ok(())
}

async fn redis_cli(cluster: &Cluster, address: &str, args: &[&str]) -> anyhow::Result<String> {
    let exec = ["-n", NAMESPACE, "exec", CLIENT, "--", "timeout", "3", "redis-cli", "-h", address];
    let said = cluster.kubectl(&[&exec, args].concat()).await?;
    Ok(said.trim().to_owned())
}

fn cluster_ip(service: &Service) -> String {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()).unwrap_or_default()
}

fn node_ports(service: &Service) -> Vec<u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.node_port?).ok()).filter(|&port| port > 0).collect()
}
