//! Sends requests to a Service's addresses, and reports the answers. The first answer may take as long as a controller needs; from then
//! on every single try has to be answered.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, ResourceExt as _, api::ListParams};

use super::{
    CLIENT, NAMESPACE,
    addresses::{Endpoints, From, Frontend, Frontends, Surroundings, frontends},
};
use crate::{
    account::Account,
    cluster::{
        Cluster,
        vantage::{Protocol, Vantage},
    },
};

/// How long the first answer from an address may take.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// How many tries follow it.
const TRIES: u32 = 12;

/// Asks every address of a Service, from everywhere, and reports the answers. Gives how many addresses answered.
pub(super) async fn ask_all(
    cluster: &Cluster,
    account: &Account,
    service: &Service,
    http: bool,
) -> anyhow::Result<usize> {
    let Frontends { ask: to_ask, skipped } = frontends_of(cluster, service).await?;
    for reason in skipped {
        account.detail(format!("skipped   {reason}"));
    }
    for frontend in &to_ask {
        let Frontend { kind, address, protocol, from } = frontend;
        let protocol = if http && *protocol == Protocol::Tcp { Protocol::Http } else { *protocol };
        for place in from {
            let vantage = vantage(cluster, place);
            let said = ask(cluster, &vantage, protocol, *address).await?;
            account.detail(format!(
                "{:<18}{:<13}{address:<22} {said}",
                format!("{vantage} →"),
                kind.to_string()
            ));
        }
    }
    Ok(to_ask.len())
}

/// Waits for the first answer, then asks a number of times.
async fn ask(
    cluster: &Cluster,
    vantage: &Vantage,
    protocol: Protocol,
    address: SocketAddr,
) -> anyhow::Result<String> {
    let what = format!("an answer from {address} ({protocol:?}), asked from {vantage}");
    let start = Instant::now();
    cluster
        .eventually(&what, FIRST_ANSWER, async || {
            let one = vantage.ask(protocol, address, 1).await?;
            ensure!(one.all_ok(), "{one}");
            Ok(())
        })
        .await?;
    let waited = start.elapsed();
    let answers = vantage.ask(protocol, address, TRIES).await?;
    ensure!(answers.all_ok(), "{address}, asked from {vantage}: {answers}");
    let after = if waited > Duration::from_millis(500) {
        format!("; the first after {:.1} s", waited.as_secs_f32())
    } else {
        String::new()
    };
    Ok(format!("{answers}{after}"))
}

/// Fails if an address still answers.
pub(super) async fn is_silent(
    cluster: &Cluster,
    account: &Account,
    place: &From,
    address: SocketAddr,
    what: &str,
) -> anyhow::Result<()> {
    let vantage = vantage(cluster, place);
    let silent = cluster
        .eventually(&format!("{what} {address} is closed"), FIRST_ANSWER, async || {
            let args = ["tcp", &address.to_string(), "--count", "1", "--timeout", "500", "--summary"];
            let answers = vantage.probe(&args).await?;
            if answers.ok > 0 {
                bail!("{address} still answers {vantage}");
            }
            Ok(answers.failed.into_keys().collect::<Vec<_>>().join(", "))
        })
        .await?;
    account.detail(format!("{:<18}{what:<13}{address:<22} {silent}, as it should", format!("{vantage} →")));
    Ok(())
}

fn vantage(cluster: &Cluster, place: &From) -> Vantage {
    match place {
        From::Pod => cluster.from_pod(NAMESPACE, CLIENT),
        From::Node(name) => cluster.from_node(name),
        From::Outside => cluster.from_outside(),
    }
}

/// The addresses of a Service, once its ready pods are endpoints.
async fn frontends_of(cluster: &Cluster, service: &Service) -> anyhow::Result<Frontends> {
    let pods = Api::<Pod>::namespaced(cluster.client(), NAMESPACE);
    let client = pods.get(CLIENT).await.context("reading the client pod")?;
    let client_node = client.spec.and_then(|spec| spec.node_name).context("the client pod has no node")?;
    let what = format!("endpoints of Service {}", service.name_any());
    let endpoints = cluster
        .eventually(&what, FIRST_ANSWER, async || {
            let (ready, endpoints) =
                (ready_pods(cluster, service).await?, endpoints(cluster, service).await?);
            ensure!(endpoints.count >= ready, "{} endpoints for {ready} ready pods", endpoints.count);
            Ok(endpoints)
        })
        .await?;
    let around = Surroundings { nodes: cluster.nodes(), client_node: &client_node };
    Ok(frontends(service, &endpoints, &around))
}

/// How many ready pods a Service selects. The endpoints follow them at a small distance.
async fn ready_pods(cluster: &Cluster, service: &Service) -> anyhow::Result<usize> {
    let selector = service.spec.iter().flat_map(|spec| spec.selector.iter().flatten());
    let selector: Vec<String> = selector.map(|(key, value)| format!("{key}={value}")).collect();
    if selector.is_empty() {
        return Ok(0);
    }
    let namespace = service.namespace().unwrap_or_default();
    let pods = Api::<Pod>::namespaced(cluster.client(), &namespace);
    let selected =
        pods.list(&ListParams::default().labels(&selector.join(","))).await.context("listing pods")?;
    Ok(selected.iter().filter(|pod| is_ready(pod)).count())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// A Service's ready endpoints.
async fn endpoints(cluster: &Cluster, service: &Service) -> anyhow::Result<Endpoints> {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let slices = Api::<EndpointSlice>::namespaced(cluster.client(), &namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let slices = slices.list(&of_service).await.context("listing endpoint slices")?;
    let ready = slices
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    let mut all = Endpoints::default();
    for endpoint in ready {
        all.count += 1;
        all.nodes.extend(endpoint.node_name);
    }
    Ok(all)
}
