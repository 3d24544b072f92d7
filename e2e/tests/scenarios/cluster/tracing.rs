//! `portico-nodeproxy trace` and `explain`, asked inside of the node proxies' pods: what they say is what real packets get.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use portico_e2e::{
    fabric::OUTSIDE,
    portico::NAMESPACE,
    scenario::{
        objects::{Workload, mk_service},
        observe,
        traffic::{By, Client, Reply, Silence},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{super::images, Fixture, Scenario, release};

/// Requests by which an answer is tested. With two endpoints, one that is never picked is missed once in 2^19 runs.
const TRIES: u32 = 20;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("trace says what real packets get, and the kernel agrees", |s| Box::pin(traced(s))),
        Scenario::new("a pod reaches another node's port wherever the endpoints are", |s| {
            Box::pin(far_pod(s))
        }),
        Scenario::new("explain lists a service, and a dump answers as the proxy did", |s| {
            Box::pin(explained(s))
        }),
    ]
}

/// A client, its address, and the node on which its packet meets Portico first.
struct Asker {
    client: Client,
    from: IpAddr,
    node: String,
}

/// The fields of `portico-nodeproxy trace -o json` that this test reads.
#[derive(Debug, Deserialize)]
struct Trace {
    result: String,
    reason: String,
    endpoints: Vec<Target>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    backend: Backend,
    probability: f64,
    source_addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Deserialize)]
struct Backend {
    address: IpAddr,
    port: u16,
}

/// Runs a subcommand of the proxy in its own pod on a node.
async fn ask_proxy(fixture: &Fixture, node: &str, args: &[&str]) -> anyhow::Result<String> {
    let cluster = &fixture.shared.cluster;
    let of_proxy = ListParams::default()
        .labels("app.kubernetes.io/component=nodeproxy")
        .fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::namespaced(cluster.client(), NAMESPACE).list(&of_proxy).await?;
    let staying = pods.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
    let pod =
        staying.and_then(|pod| pod.metadata.name).with_context(|| format!("no node proxy on {node}"))?;
    // An image has it in its PATH, as the docs say.
    let program = match images() {
        Some(_) => release::NODE_PROXY.to_owned(),
        None => cluster.tools().nodeproxy().display().to_string(),
    };
    let command = [&["-n", NAMESPACE, "exec", &pod, "--", &program], args].concat();
    cluster.kubectl(&command).await.with_context(|| format!("asking the proxy of {node}: {args:?}"))
}

async fn trace(fixture: &Fixture, asker: &Asker, to: SocketAddr) -> anyhow::Result<Trace> {
    let (from, to) = (asker.from.to_string(), format!("{to}/tcp"));
    let args = ["trace", "--from", &from, "--to", &to, "--node", &asker.node, "--kernel", "-o", "json"];
    let json = ask_proxy(fixture, &asker.node, &args).await?;
    serde_json::from_str(&json).with_context(|| format!("reading {json}"))
}

async fn pod_asker(fixture: &Fixture, node: &str, meets: &str) -> anyhow::Result<Asker> {
    let pods = Api::<Pod>::all(fixture.shared.cluster.client());
    let name = format!("on-{node}");
    let found = pods.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await?;
    let status = found.into_iter().next().and_then(|pod| pod.status).context("no client pod")?;
    let from = status.pod_ip.context("no address yet")?.parse()?;
    Ok(Asker { client: fixture.shared.pod_on(node), from, node: meets.to_owned() })
}

fn node_asker(fixture: &Fixture, number: usize) -> Asker {
    let host = &fixture.shared.cluster.nodes()[number];
    Asker { client: fixture.node(&host.name), from: host.address.into(), node: host.name.clone() }
}

fn outsider(fixture: &Fixture, meets: &str) -> Asker {
    Asker { client: fixture.outside(), from: IpAddr::V4(OUTSIDE), node: meets.to_owned() }
}

/// Holds what was said against what came.
fn compare(trace: &Trace, replies: &[Reply]) -> anyhow::Result<()> {
    let silence = match trace.result.as_str() {
        "forwarded" => None,
        "refused" => Some(Silence::Refused),
        "dropped" => Some(Silence::Timeout),
        other => bail!("no such packet was sent: {other}"),
    };
    if let Some(silence) = silence {
        let other = replies.iter().find(|reply| reply.as_ref().err() != Some(&silence));
        ensure!(other.is_none(), "{silence} was said, and this came: {other:?}");
        return Ok(());
    }
    let used: Vec<_> = trace.endpoints.iter().filter(|target| target.probability > 0.0).collect();
    let mut reached = BTreeSet::new();
    for reply in replies {
        let answer = reply.as_ref().map_err(|silence| anyhow::anyhow!("{silence} instead of an answer"))?;
        let is_it =
            |t: &&&Target| (t.backend.address, t.backend.port) == (answer.server.ip(), answer.server.port());
        let target = used.iter().find(is_it).with_context(|| format!("not said: {answer:?}"))?;
        ensure!(
            target.source_addresses.contains(&answer.client.ip()),
            "the endpoint should see one of {:?}: {answer:?}",
            target.source_addresses
        );
        reached.insert(answer.server);
    }
    ensure!(
        reached.len() == used.len(),
        "{} endpoints have a chance, {} answered",
        used.len(),
        reached.len()
    );
    Ok(())
}

/// Waits until the proxies know the objects, then holds one answer against real packets.
async fn agree(fixture: &Fixture, asker: &Asker, to: SocketAddr, reason: &str) -> anyhow::Result<()> {
    let what = format!("{reason} for {} to {to}, on {}", asker.client, asker.node);
    let trace = fixture
        .eventually(&what, async || {
            let trace = trace(fixture, asker, to).await?;
            ensure!(trace.reason == reason, "{trace:?}");
            Ok(trace)
        })
        .await?;
    let tries = if trace.result == "forwarded" { TRIES } else { 1 };
    let replies = asker.client.ask_times(By::Http, to, tries).await?;
    compare(&trace, &replies).with_context(|| format!("{what}: {trace:?}"))
}

/// A Service of these pods on a node port.
async fn node_port(
    fixture: &Fixture,
    name: &str,
    app: &str,
    more: Value,
) -> anyhow::Result<(SocketAddr, [SocketAddr; 2])> {
    let mut spec = json!({"type": "NodePort", "selector": {"app": app}, "ports": [{"port": 80}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let service = fixture.create(&mk_service(name, spec)?).await?;
    let port = observe::node_port(&service, 0).context("no node port")?;
    let nodes = fixture.shared.cluster.nodes();
    let at = |number: usize| SocketAddr::from((nodes[number].address, port));
    Ok((observe::cluster_ip(&service, 0)?, [at(0), at(1)]))
}

async fn traced(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1")).await?;
    fixture.deploy(&Workload::web("second").app("web").on("node-2")).await?;
    fixture.deploy(&Workload::web("first").on("node-1")).await?;
    let local = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    let (both, both_at) = node_port(fixture, "both", "web", json!({})).await?;
    let (first, first_at) = node_port(fixture, "first", "first", local).await?;
    let (none, none_at) = node_port(fixture, "none", "none", json!({})).await?;
    let pod = pod_asker(fixture, "node-1", "node-1").await?;
    let far = pod_asker(fixture, "node-1", "node-2").await?;
    let (node_1, node_2) = (node_asker(fixture, 0), node_asker(fixture, 1));
    let (by_1, by_2) = (outsider(fixture, "node-1"), outsider(fixture, "node-2"));
    let other_port = SocketAddr::new(both.ip(), 81);
    for (asker, to, reason) in [
        (&pod, both, "Served"),
        (&node_1, both, "Served"),
        (&pod, other_port, "NoSuchPort"),
        (&pod, none, "NoEndpoints"),
        (&by_2, none_at[1], "NoEndpoints"),
        (&by_2, both_at[1], "Served"),
        (&pod, first, "Served"),
        (&node_2, first, "NoLocalEndpoints"),
        (&by_1, first_at[0], "Served"),
        (&by_2, first_at[1], "NoLocalEndpoints"),
        (&node_2, first_at[1], "Served"),
        (&far, first_at[1], "Served"),
    ] {
        agree(fixture, asker, to, reason).await?;
    }
    Ok(())
}

async fn far_pod(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1")).await?;
    let (_, at) = node_port(fixture, "web", "web", json!({"externalTrafficPolicy": "Local"})).await?;
    // The only endpoint is on the asking pod's own node, which it could answer directly.
    let far = pod_asker(fixture, "node-1", "node-2").await?;
    fixture.answered(std::slice::from_ref(&far.client), By::Http, at[1]).await?;
    let answers =
        far.client.answers(By::Http, at[1], TRIES).await.context("every request must be answered")?;
    let seen = answers.iter().find(|answer| answer.client.ip() == far.from);
    ensure!(
        seen.is_none(),
        "an endpoint on a third node saw the pod, and could answer past node-2: {seen:?}"
    );

    fixture.deploy(&Workload::web("second").app("web").on("node-2")).await?;
    fixture
        .eventually("the endpoint of that node answers", async || {
            let answers = far.client.answers(By::Http, at[1], TRIES).await?;
            let other = answers.iter().find(|a| a.node != "node-2" || a.client.ip() != far.from);
            ensure!(other.is_none(), "should be answered on node-2, which sees the pod: {other:?}");
            Ok(())
        })
        .await
}

async fn explained(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1")).await?;
    let (_, at) = node_port(fixture, "web", "web", json!({"externalTrafficPolicy": "Local"})).await?;
    let name = format!("svc/{}/web", fixture.namespace);
    let text = fixture
        .eventually("explain knows the endpoint", async || {
            let text = ask_proxy(fixture, "node-2", &["explain", &name, "--kernel"]).await?;
            ensure!(
                text.contains("on node node-1: policy Cluster: ready; policy Local: not on this node"),
                "{text}"
            );
            Ok(text)
        })
        .await?;
    for part in [
        format!("at {}/tcp (NodePort)", at[1]),
        "hear nothing here".to_owned(),
        "kernel     agrees".to_owned(),
    ] {
        ensure!(text.contains(&part), "{part:?} is not in\n{text}");
    }
    let dump: Value = serde_json::from_str(&ask_proxy(fixture, "node-2", &["dump"]).await?)?;
    ensure!(dump["told"]["node"]["name"] == "node-2", "another node's dump");
    let services = dump["told"]["services"].as_array().context("no Services")?;
    let own = format!("{}/web", fixture.namespace);
    ensure!(services.iter().any(|service| service["name"] == own.as_str()), "the dump lacks {own}");
    let unknown = ask_proxy(fixture, "node-1", &["explain", "svc/no/such"]).await;
    let error = format!("{:#}", unknown.err().context("a Service that is not there was explained")?);
    ensure!(error.contains("serves no Service no/such"), "{error}");
    Ok(())
}
