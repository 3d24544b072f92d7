//! Traffic policies: `externalTrafficPolicy: Local` keeps the client's address and never leaves the node,
//! `internalTrafficPolicy: Local` stays on the client's node.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use portico_e2e::{
    fabric::OUTSIDE,
    scenario::{
        objects::{Workload, mk_service},
        observe,
        traffic::{Answer, By, Silence},
    },
};
use serde_json::json;

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "externalTrafficPolicy Local preserves the client and drops without local endpoints",
            |s| Box::pin(external_local(s)),
        ),
        Scenario::new("externalTrafficPolicy Local steers the load balancer to nodes with endpoints", |s| {
            Box::pin(steered(s))
        }),
        Scenario::new("externalTrafficPolicy Cluster masquerades what comes from outside", |s| {
            Box::pin(external_cluster(s))
        }),
        Scenario::new("internalTrafficPolicy Local stays on the node", |s| Box::pin(internal_local(s))),
    ]
}

fn all_on(answers: &[Answer], node: &str) -> anyhow::Result<()> {
    let elsewhere = answers.iter().find(|answer| answer.node != node);
    ensure!(elsewhere.is_none(), "answered elsewhere than on {node}: {elsewhere:?}");
    Ok(())
}

fn node_address(fixture: &Fixture, number: usize, port: u16) -> SocketAddr {
    (fixture.shared.cluster.nodes()[number].address, port).into()
}

async fn external_local(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1")).await?;
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let service = fixture.create(&mk_service("web", spec)?).await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let (with, without) = (node_address(fixture, 0, node_port), node_address(fixture, 1, node_port));

    let answers = fixture.answered(&[fixture.outside()], By::Http, with).await?;
    let masked = answers.iter().find(|answer| answer.client.ip() != IpAddr::V4(OUTSIDE));
    ensure!(masked.is_none(), "the pod saw another client than {OUTSIDE}: {masked:?}");
    fixture
        .silent(&[fixture.outside()], By::Http, without, Silence::Timeout)
        .await
        .context("no endpoint there")?;

    // Pods and the node itself take the short cut to all endpoints, as with kube-proxy.
    let on_second = [fixture.shared.pod_on("node-2"), fixture.node("node-2")];
    let answers = fixture.answered(&on_second, By::Http, without).await.context("short cut")?;
    all_on(&answers, "node-1")?;
    let answers = fixture.answered(&fixture.insiders(), By::Http, observe::cluster_ip(&service, 0)?).await?;
    all_on(&answers, "node-1")
}

async fn steered(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1").grace(5)).await?;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    fixture.create(&mk_service("web", spec)?).await?;
    let balancer = fixture.provisioned("web").await?;
    let outside = fixture.outside();
    // Until the first health verdict the load balancer tries all nodes. Afterwards no request may go to the other node.
    fixture.eventually("steady answers", async || outside.answers(By::Http, balancer, 20).await).await?;
    all_on(&outside.answers(By::Http, balancer, 50).await?, "node-1")?;
    all_on(&fixture.answered(&fixture.insiders(), By::Http, balancer).await.context("short cut")?, "node-1")?;

    let moved =
        json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-2"}}}}});
    let _changed: Deployment = fixture.patch("web", &moved).await?;
    fixture.rolled_out("web").await?;
    fixture
        .eventually("the load balancer follows the pods", async || {
            all_on(&outside.answers(By::Http, balancer, 20).await?, "node-2")
        })
        .await
}

async fn external_cluster(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1")).await?;
    let service =
        fixture.create(&mk_service("web", json!({"type": "NodePort", "ports": [{"port": 80}]}))?).await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let by_the_other = node_address(fixture, 1, node_port);
    let answers = fixture.answered(&[fixture.outside()], By::Http, by_the_other).await?;
    let seen = answers.iter().find(|answer| answer.client.ip() == IpAddr::V4(OUTSIDE));
    ensure!(
        seen.is_none(),
        "the pod saw the outside host through another node: its answer could not come back"
    );
    Ok(())
}

async fn internal_local(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1")).await?;
    let spec = json!({"internalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let service: Service = fixture.create(&mk_service("web", spec)?).await?;
    let to = observe::cluster_ip(&service, 0)?;
    let here = [fixture.shared.pod_on("node-1"), fixture.node("node-1")];
    let there = [fixture.shared.pod_on("node-2"), fixture.node("node-2")];
    all_on(&fixture.answered(&here, By::Http, to).await?, "node-1")?;
    fixture.silent(&there, By::Http, to, Silence::Timeout).await.context("no endpoint on that node")?;
    fixture.deploy(&Workload::web("second").app("web").on("node-2")).await?;
    all_on(&fixture.answered(&there, By::Http, to).await?, "node-2")?;
    all_on(&fixture.answered(&here, By::Http, to).await?, "node-1")
}
