//! Traffic policies: `externalTrafficPolicy: Local` keeps the client's address and never leaves the node,
//! `internalTrafficPolicy: Local` stays on the client's node.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use portico_e2e::fabric::OUTSIDE;
use serde_json::json;

use crate::cluster::{
    harness::Scenario,
    objects::{Workload, mk_service},
    observe,
    scene::Scene,
    traffic::{Answer, By, Silence},
};

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

fn node_address(scene: &Scene, number: usize, port: u16) -> SocketAddr {
    (scene.stage.cluster.nodes()[number].address, port).into()
}

async fn external_local(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web").on("node-1")).await?;
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let service = scene.create(&mk_service("web", spec)?).await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let (with, without) = (node_address(scene, 0, node_port), node_address(scene, 1, node_port));

    let answers = scene.answered(&[scene.outside()], By::Http, with).await?;
    let masked = answers.iter().find(|answer| answer.client.ip() != IpAddr::V4(OUTSIDE));
    ensure!(masked.is_none(), "the pod saw another client than {OUTSIDE}: {masked:?}");
    scene
        .silent(&[scene.outside()], By::Http, without, Silence::Timeout)
        .await
        .context("no endpoint there")?;

    // Pods and the node itself take the short cut to all endpoints, as with kube-proxy.
    let on_second = [scene.stage.pod_on("node-2"), scene.node("node-2")];
    let answers = scene.answered(&on_second, By::Http, without).await.context("short cut")?;
    all_on(&answers, "node-1")?;
    let answers = scene.answered(&scene.insiders(), By::Http, observe::cluster_ip(&service, 0)?).await?;
    all_on(&answers, "node-1")
}

async fn steered(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web").on("node-1").grace(5)).await?;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    scene.create(&mk_service("web", spec)?).await?;
    let balancer = scene
        .eventually("a load balancer", async || observe::provisioned(&scene.service("web").await?))
        .await?;
    let outside = scene.outside();
    all_on(&scene.answered(std::slice::from_ref(&outside), By::Http, balancer).await?, "node-1")?;
    // Once it knows which node has endpoints, not a single request may go to the other.
    scene.eventually("steady answers", async || outside.answers(By::Http, balancer, 20).await).await?;
    all_on(&outside.answers(By::Http, balancer, 50).await?, "node-1")?;
    all_on(&scene.answered(&scene.insiders(), By::Http, balancer).await.context("short cut")?, "node-1")?;

    let moved =
        json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-2"}}}}});
    let _changed: Deployment = scene.patch("web", &moved).await?;
    scene.rolled_out("web").await?;
    scene
        .eventually("the load balancer follows the pods", async || {
            all_on(&outside.answers(By::Http, balancer, 20).await?, "node-2")
        })
        .await
}

async fn external_cluster(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web").on("node-1")).await?;
    let service =
        scene.create(&mk_service("web", json!({"type": "NodePort", "ports": [{"port": 80}]}))?).await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let by_the_other = node_address(scene, 1, node_port);
    let answers = scene.answered(&[scene.outside()], By::Http, by_the_other).await?;
    let seen = answers.iter().find(|answer| answer.client.ip() == IpAddr::V4(OUTSIDE));
    ensure!(
        seen.is_none(),
        "the pod saw the outside host through another node: its answer could not come back"
    );
    Ok(())
}

async fn internal_local(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web").on("node-1")).await?;
    let spec = json!({"internalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let service: Service = scene.create(&mk_service("web", spec)?).await?;
    let to = observe::cluster_ip(&service, 0)?;
    let here = [scene.stage.pod_on("node-1"), scene.node("node-1")];
    let there = [scene.stage.pod_on("node-2"), scene.node("node-2")];
    all_on(&scene.answered(&here, By::Http, to).await?, "node-1")?;
    scene.silent(&there, By::Http, to, Silence::Timeout).await.context("no endpoint on that node")?;
    scene.deploy(&Workload::web("second").app("web").on("node-2")).await?;
    all_on(&scene.answered(&there, By::Http, to).await?, "node-2")?;
    all_on(&scene.answered(&here, By::Http, to).await?, "node-1")
}
