//! `sessionAffinity: ClientIP`: a client stays with its endpoint until it was quiet for the timeout, or the endpoint goes.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::{By, Client, pods},
};
use serde_json::json;
use tokio::time::sleep;

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("session affinity sticks, and spreads again after its timeout", |s| {
            Box::pin(sticks_and_spreads(s))
        }),
        Scenario::new("session affinity picks another endpoint when its own is deleted", |s| {
            Box::pin(picks_another(s))
        }),
        Scenario::new("session affinity holds for node ports and the load balancer", |s| {
            Box::pin(from_outside(s))
        }),
    ]
}

/// Four pods behind a Service of a type, with an affinity timeout in seconds.
async fn sticky(fixture: &Fixture, kind: &str, timeout: u32) -> anyhow::Result<Service> {
    fixture.deploy(&Workload::web("web").replicas(4)).await?;
    let spec = json!({
        "type": kind,
        "ports": [{"port": 80}],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout}},
    });
    fixture.create(&mk_service("web", spec)?).await
}

/// The one pod that answers a client; an error if there are several.
async fn one_pod(client: &Client, to: SocketAddr, count: u32) -> anyhow::Result<String> {
    let answers = client.answers(By::Http, to, count).await?;
    let seen = pods(&answers);
    ensure!(seen.len() == 1, "{count} requests from {client} were answered by {seen:?}");
    seen.first().map(|&pod| pod.to_owned()).context("no answer")
}

async fn sticks_and_spreads(fixture: &Fixture) -> anyhow::Result<()> {
    let timeout = Duration::from_secs(2);
    let service = sticky(fixture, "ClusterIP", 2).await?;
    let to = observe::cluster_ip(&service, 0)?;
    fixture.answered(&fixture.insiders(), By::Http, to).await?;
    let client = fixture.pod();
    let mut seen = BTreeSet::new();
    // Each round is a pick among four: ten rounds with the same outcome happen once in 262,144 runs.
    for _round in 0..10 {
        seen.insert(one_pod(&client, to, 20).await?);
        if seen.len() > 1 {
            return Ok(());
        }
        sleep(timeout + Duration::from_secs(1)).await; // the thing under test: a client that is quiet for so long
    }
    anyhow::bail!("after each timeout the same pod answered: {seen:?}")
}

async fn picks_another(fixture: &Fixture) -> anyhow::Result<()> {
    let service = sticky(fixture, "ClusterIP", 600).await?;
    let to = observe::cluster_ip(&service, 0)?;
    fixture.answered(&fixture.insiders(), By::Http, to).await?;
    let client = fixture.pod();
    let first = one_pod(&client, to, 20).await?;
    fixture.delete::<Pod>(&first).await?;
    let second = fixture
        .eventually("another pod answers", async || {
            let pod = one_pod(&client, to, 1).await?;
            ensure!(pod != first, "still {first}");
            Ok(pod)
        })
        .await?;
    let stayed = one_pod(&client, to, 20).await?;
    ensure!(stayed == second, "moved from {second} to {stayed}, though {second} is there");
    Ok(())
}

async fn from_outside(fixture: &Fixture) -> anyhow::Result<()> {
    let service = sticky(fixture, "LoadBalancer", 600).await?;
    let balancer = fixture.provisioned("web").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let on_node = (fixture.shared.cluster.nodes()[0].address, node_port).into();
    for to in [on_node, balancer] {
        for client in fixture.everybody() {
            // A node knows the load balancer's address a moment later than the Service's status: until then its clients
            // go there over the wire, and then to whom its own affinity picks. After that nothing may change.
            let first = fixture.eventually("one pod", async || one_pod(&client, to, 10).await).await?;
            let then = one_pod(&client, to, 30).await.with_context(|| format!("at {to}"))?;
            ensure!(first == then, "at {to} a client moved from {first} to {then}");
        }
    }
    Ok(())
}
