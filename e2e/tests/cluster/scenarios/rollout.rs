//! Rolling updates: with readiness probes and a graceful end no client notices, and a Service that is refused still follows its
//! pods.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use serde_json::json;

use crate::cluster::{
    harness::Scenario,
    objects::{Workload, mk_service},
    observe,
    scene::Scene,
    traffic::{By, pods},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a rolling update fails no request", |s| Box::pin(rolling_update(s))),
        Scenario::new("a rolling update reaches the load balancer of a service that is refused", |s| {
            Box::pin(refused(s))
        }),
    ]
}

async fn rolling_update(scene: &Scene) -> anyhow::Result<()> {
    let workload =
        Workload::web("web").replicas(3).grace(20).container(json!({"args": ["--linger", "3000"]}));
    scene.deploy(&workload).await?;
    scene.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let balancer = scene
        .eventually("a load balancer", async || observe::provisioned(&scene.service("web").await?))
        .await?;
    let service = scene.service("web").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let paths = [
        (scene.pod(), observe::cluster_ip(&service, 0)?),
        (scene.node("node-2"), observe::cluster_ip(&service, 0)?),
        (scene.outside(), (scene.stage.cluster.nodes()[0].address, node_port).into()),
        (scene.outside(), balancer),
    ];
    let mut traffic = Vec::new();
    for (client, to) in &paths {
        scene.answered(std::slice::from_ref(client), By::Http, *to).await?;
        traffic.push(client.keep_asking(By::Http, *to)?);
    }
    let before = scene.pods("app=web").await?;

    roll(scene, &before).await?;

    for stream in traffic {
        let answers = stream.stop(100).await?;
        let answered = pods(&answers);
        ensure!(answered.iter().any(|&pod| before.contains_key(pod)), "no answer from the old pods");
        ensure!(answered.iter().any(|&pod| !before.contains_key(pod)), "no answer from the new pods");
    }
    Ok(())
}

async fn refused(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web").replicas(2)).await?;
    let mut service = mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?;
    service.metadata.annotations = Some([("portico.dev/target-kind".to_owned(), "pod".to_owned())].into());
    scene.create(&service).await?;
    let balancer = scene
        .eventually("a load balancer", async || observe::provisioned(&scene.service("web").await?))
        .await?;
    let outside = [scene.outside()];
    scene.answered(&outside, By::Http, balancer).await?;
    let before = scene.pods("app=web").await?;

    let wrong = json!({"metadata": {"annotations": {"portico.dev/scheme": "sideways"}}});
    let _changed: Service = scene.patch("web", &wrong).await?;
    scene
        .eventually("the annotation is refused", async || {
            let said = observe::condition(&scene.service("web").await?, "portico.dev/Accepted");
            ensure!(said.as_ref().is_some_and(|said| said.starts_with("False ")), "it says {said:?}");
            Ok(())
        })
        .await?;
    roll(scene, &before).await?;
    scene.answered(&outside, By::Http, balancer).await?;
    ensure!(observe::ingress(&scene.service("web").await?) == [balancer.ip()], "the address is gone");
    Ok(())
}

/// Rolls `web` out anew, until none of its former pods is left.
async fn roll(scene: &Scene, before: &BTreeMap<String, Pod>) -> anyhow::Result<()> {
    let changed = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    let _changed: Deployment = scene.patch("web", &changed).await?;
    scene.rolled_out("web").await?;
    scene
        .eventually("the old pods are gone", async || {
            let now = scene.pods("app=web").await?;
            ensure!(!now.keys().any(|name| before.contains_key(name)), "there are {:?}", now.keys());
            Ok(())
        })
        .await
}
