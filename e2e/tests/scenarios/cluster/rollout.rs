//! Rolling updates: with readiness probes and a graceful end no client notices, and a Service that is refused still follows its
//! pods.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::{By, pods},
};
use serde_json::json;

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a rolling update fails no request", |s| Box::pin(rolling_update(s))),
        Scenario::new("a rolling update reaches the load balancer of a service that is refused", |s| {
            Box::pin(refused(s))
        }),
    ]
}

async fn rolling_update(fixture: &Fixture) -> anyhow::Result<()> {
    let workload =
        Workload::web("web").replicas(3).grace(20).container(json!({"args": ["--linger", "3000"]}));
    fixture.deploy(&workload).await?;
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let balancer = fixture.provisioned("web").await?;
    let service = fixture.service("web").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let paths = [
        (fixture.pod(), observe::cluster_ip(&service, 0)?),
        (fixture.node("node-2"), observe::cluster_ip(&service, 0)?),
        (fixture.outside(), (fixture.shared.cluster.nodes()[0].address, node_port).into()),
        (fixture.outside(), balancer),
    ];
    let mut traffic = Vec::new();
    for (client, to) in &paths {
        fixture.answered(std::slice::from_ref(client), By::Http, *to).await?;
        traffic.push(client.keep_asking(By::Http, *to)?);
    }
    let before = fixture.pods("app=web").await?;

    roll(fixture, &before).await?;

    for stream in traffic {
        let answers = stream.stop(100).await?;
        let answered = pods(&answers);
        ensure!(answered.iter().any(|&pod| before.contains_key(pod)), "no answer from the old pods");
        ensure!(answered.iter().any(|&pod| !before.contains_key(pod)), "no answer from the new pods");
    }
    Ok(())
}

async fn refused(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    let mut service = mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?;
    service.metadata.annotations = Some([("portico.dev/target-kind".to_owned(), "pod".to_owned())].into());
    fixture.create(&service).await?;
    let balancer = fixture.provisioned("web").await?;
    let outside = [fixture.outside()];
    fixture.answered(&outside, By::Http, balancer).await?;
    let before = fixture.pods("app=web").await?;

    let wrong = json!({"metadata": {"annotations": {"portico.dev/scheme": "sideways"}}});
    let _changed: Service = fixture.patch("web", &wrong).await?;
    fixture
        .eventually("the annotation is refused", async || {
            let said = observe::condition(&fixture.service("web").await?, "portico.dev/Accepted");
            ensure!(said.as_ref().is_some_and(|said| said.starts_with("False ")), "it says {said:?}");
            Ok(())
        })
        .await?;
    roll(fixture, &before).await?;
    fixture.answered(&outside, By::Http, balancer).await?;
    ensure!(observe::ingress(&fixture.service("web").await?) == [balancer.ip()], "the address is gone");
    Ok(())
}

/// Restarts the rollout of `web`, until none of its former pods is left.
async fn roll(fixture: &Fixture, before: &BTreeMap<String, Pod>) -> anyhow::Result<()> {
    let changed = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    let _changed: Deployment = fixture.patch("web", &changed).await?;
    fixture.rolled_out("web").await?;
    fixture
        .eventually("the old pods are gone", async || {
            let now = fixture.pods("app=web").await?;
            ensure!(!now.keys().any(|name| before.contains_key(name)), "there are {:?}", now.keys());
            Ok(())
        })
        .await
}
