//! The API objects of a bench: nodes, filler Services with their EndpointSlices, and the Services that are measured. All but most fillers
//! ([`fill`]) are written straight to the API server, with an administrator's rights.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    fill::{self, Filler, Pattern},
    layout::{self, ENDPOINTS},
    responder,
};
use crate::account::Account;

/// Namespace of all Services of a bench, but for most fillers.
const NAMESPACE: &str = "bench";

/// Fillers in a namespace. For each new Service `endpointslicemirroring` lists all slices of its namespace.
const IN_NAMESPACE: u32 = 1000;

/// The Service whose endpoints are all replaced.
pub const ROLLOUT: &str = "rollout";
/// Its slices, and the endpoints in each.
pub const ROLLOUT_SLICES: u32 = 20;
const ROLLOUT_ENDPOINTS: u32 = 50;

/// The port of every Service.
const SERVICE_PORT: u16 = 80;

/// Fillers between two lines of progress.
const PROGRESS: usize = 10_000;

/// A Service and what is behind it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its ClusterIP and port.
    pub frontend: SocketAddr,
    /// Endpoints in the EndpointSlice.
    pub endpoints: Vec<SocketAddr>,
}

/// The objects of a bench in the API server.
pub struct Objects {
    client: Client,
    etcd: Client,
    nodes: [layout::Node; 2],
    fillers: Vec<Target>,
    /// How many slices of the rollout have been replaced.
    rolls: AtomicU32,
}

impl Objects {
    /// Makes the nodes and the namespace.
    pub async fn create(client: Client, etcd: Client, nodes: [layout::Node; 2]) -> anyhow::Result<Self> {
        let api = Api::<Node>::all(client.clone());
        for node in &nodes {
            let name = &node.host.name;
            api.create(&PostParams::default(), &mk_node(node)?)
                .await
                .with_context(|| format!("creating node {name}"))?;
        }
        create_namespace(&client, NAMESPACE).await?;
        Ok(Self { client, etcd, nodes, fillers: Vec::new(), rolls: AtomicU32::new(0) })
    }

    /// Makes filler Services until there are `count`; those that are there stay as they are.
    pub async fn grow_to(&mut self, count: u32, account: &Account) -> anyhow::Result<()> {
        if count > 0 && self.fillers.is_empty() {
            self.fillers.push(self.service(&filler_name(0), &layout::endpoints(&self.nodes, 0)).await?);
        }
        let next = u32::try_from(self.fillers.len())?;
        if next >= count {
            return Ok(());
        }
        for first in (0..count).step_by(IN_NAMESPACE as usize).skip(1).filter(|first| *first >= next) {
            create_namespace(&self.client, &filler_namespace(first)).await?;
        }
        let pattern = Pattern::of(&self.client, NAMESPACE, &filler_name(0)).await?;
        let addresses = fill::free_addresses(&self.client).await?;
        let new: Vec<(u32, Ipv4Addr)> = (next..count).zip(addresses).collect();
        for some in new.chunks(PROGRESS) {
            let fillers = some.iter().map(|(index, address)| self.filler(*index, *address));
            let (fillers, targets): (Vec<_>, Vec<_>) = fillers.unzip();
            pattern.write(&self.etcd, &fillers).await?;
            self.fillers.extend(targets);
            account.detail(format_args!("{} of {count} Services created", self.fillers.len()));
        }
        Ok(())
    }

    /// A Service that is measured, with these endpoints (each with its node).
    pub async fn service(
        &self,
        name: &str,
        endpoints: &[(Ipv4Addr, &layout::Node)],
    ) -> anyhow::Result<Target> {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"ports": [{"name": "main", "port": SERVICE_PORT, "targetPort": responder::PORT}]},
        }))?;
        let services = Api::<Service>::namespaced(self.client.clone(), NAMESPACE);
        let made = services.create(&PostParams::default(), &service).await;
        let made = made.with_context(|| format!("creating Service {name}"))?;
        let address = made.spec.and_then(|spec| spec.cluster_ip).context("a new Service has no ClusterIP")?;
        let address: IpAddr =
            address.parse().with_context(|| format!("Service {name}: ClusterIP {address}"))?;
        self.slice(name, name, endpoints).await?;
        Ok(target(address, endpoints))
    }

    async fn slice(
        &self,
        name: &str,
        service: &str,
        endpoints: &[(Ipv4Addr, &layout::Node)],
    ) -> anyhow::Result<()> {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "bench.portico.dev",
            }},
            "addressType": "IPv4",
            "ports": [{"name": "main", "protocol": "TCP", "port": responder::PORT}],
            "endpoints": mk_endpoints(endpoints),
        }))?;
        let made = self.slices(NAMESPACE).create(&PostParams::default(), &slice).await;
        made.map(drop).with_context(|| format!("creating EndpointSlice {name}"))
    }

    /// The Service whose endpoints are replaced by [`Objects::roll`], with 1,000 of them.
    pub async fn rollout(&self) -> anyhow::Result<Target> {
        let target = self.service(ROLLOUT, &self.rolled(0, 0)).await?;
        for slice in 1..ROLLOUT_SLICES {
            self.slice(&format!("{ROLLOUT}-{slice}"), ROLLOUT, &self.rolled(slice, 0)).await?;
        }
        Ok(target)
    }

    /// Replaces the endpoints of one of the rollout's slices by others.
    pub async fn roll(&self, slice: u32) -> anyhow::Result<()> {
        let generation = self.rolls.fetch_add(1, Ordering::Relaxed) / ROLLOUT_SLICES + 1;
        let name = if slice == 0 { ROLLOUT.to_owned() } else { format!("{ROLLOUT}-{slice}") };
        self.set_endpoints(NAMESPACE, &name, &self.rolled(slice, generation % 3)).await
    }

    fn rolled(&self, slice: u32, generation: u32) -> Vec<(Ipv4Addr, &layout::Node)> {
        let first = (generation * ROLLOUT_SLICES + slice) * ROLLOUT_ENDPOINTS;
        (first..first + ROLLOUT_ENDPOINTS).map(|serial| layout::spare(&self.nodes, serial)).collect()
    }

    /// Gives a filler another third endpoint; which filler and which endpoint follow from the number of the change.
    pub async fn change_filler(&self, change: usize) -> anyhow::Result<()> {
        let change = u32::try_from(change)?;
        let fillers = u32::try_from(self.fillers.len())?;
        // A prime, so that changes that follow each other are far apart.
        let filler =
            change.wrapping_mul(7919).checked_rem(fillers).context("there are no fillers to change")?;
        let mut endpoints = layout::endpoints(&self.nodes, filler);
        endpoints.pop();
        endpoints.push(layout::spare(&self.nodes, 3000 + change % 4000));
        self.set_endpoints(&filler_namespace(filler), &filler_name(filler), &endpoints).await
    }

    /// Makes `endpoint` the only one of the Service `name`. Returns when the API server has accepted it.
    pub async fn point(&self, name: &str, endpoint: (Ipv4Addr, &layout::Node)) -> anyhow::Result<()> {
        self.set_endpoints(NAMESPACE, name, &[endpoint]).await
    }

    async fn set_endpoints(
        &self,
        namespace: &str,
        name: &str,
        endpoints: &[(Ipv4Addr, &layout::Node)],
    ) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"endpoints": mk_endpoints(endpoints)}));
        let done = self.slices(namespace).patch(name, &PatchParams::default(), &patch).await;
        done.with_context(|| format!("updating EndpointSlice {name}"))?;
        Ok(())
    }

    /// At most `count` fillers, evenly spread from the first to the last made; the last one is always among them.
    pub fn sample(&self, count: usize) -> Vec<Target> {
        spread(self.fillers.len(), count)
            .into_iter()
            .filter_map(|index| self.fillers.get(index).cloned())
            .collect()
    }

    fn filler(&self, index: u32, address: Ipv4Addr) -> (Filler, Target) {
        let endpoints = layout::endpoints(&self.nodes, index);
        let target = target(address.into(), &endpoints);
        let (namespace, name, endpoints) =
            (filler_namespace(index), filler_name(index), mk_endpoints(&endpoints));
        (Filler { namespace, name, address, endpoints }, target)
    }

    fn slices(&self, namespace: &str) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

async fn create_namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    let made = Api::all(client.clone()).create(&PostParams::default(), &namespace).await;
    made.map(drop).with_context(|| format!("creating namespace {name}"))
}

fn filler_namespace(index: u32) -> String {
    let number = index / IN_NAMESPACE;
    if number == 0 { NAMESPACE.to_owned() } else { format!("{NAMESPACE}-{number}") }
}

fn filler_name(index: u32) -> String {
    format!("filler-{index}")
}

fn target(address: IpAddr, endpoints: &[(Ipv4Addr, &layout::Node)]) -> Target {
    let endpoints = endpoints.iter().map(|(address, _)| SocketAddr::from((*address, responder::PORT)));
    Target { frontend: SocketAddr::from((address, SERVICE_PORT)), endpoints: endpoints.collect() }
}

/// Fails, with the remedy, where the address ranges do not hold so many fillers.
pub fn check_size(services: u32) -> anyhow::Result<()> {
    if services > layout::MAX_SERVICES {
        let (most, each) = (layout::MAX_SERVICES, ENDPOINTS);
        bail!(
            "--services {services}: there are addresses for {most} Services of {each} endpoints; give at most that"
        );
    }
    Ok(())
}

/// `count` indexes of `0..len`, evenly spread, the last one included.
fn spread(len: usize, count: usize) -> Vec<usize> {
    let count = count.min(len);
    (1..=count).map(|nth| nth * len / count - 1).collect()
}

fn mk_endpoints(endpoints: &[(Ipv4Addr, &layout::Node)]) -> Value {
    let one = |(address, node): &(Ipv4Addr, &layout::Node)| json!({"addresses": [address], "conditions": {"ready": true, "serving": true}, "nodeName": node.host.name});
    endpoints.iter().map(one).collect()
}

/// A node as its kubelet would register it; it has no heartbeats, and no pod is bound to it.
fn mk_node(node: &layout::Node) -> anyhow::Result<Node> {
    let name = &node.host.name;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": node.pod_cidr(), "podCIDRs": [node.pod_cidr()]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.host.address},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": "a network namespace"}],
        },
    }))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_and_has_the_last_one() {
        assert_eq!(spread(5000, 4), [1249, 2499, 3749, 4999]);
        assert_eq!(spread(2, 20), [0, 1]);
        assert!(spread(0, 20).is_empty());
    }

    #[test]
    fn too_many_services_are_refused_with_the_limit() {
        assert!(check_size(40_000).is_ok());
        let error = check_size(40_001).unwrap_err().to_string();
        assert!(error.contains("--services 40001") && error.contains("40000"), "{error}");
    }
}
