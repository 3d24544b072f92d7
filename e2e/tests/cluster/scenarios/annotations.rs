//! Annotations that are wrong: told on the Service, by name and with the remedy, and no other Service's business.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use crate::cluster::{
    harness::Scenario,
    objects::{Workload, mk_service},
    observe,
    scene::Scene,
    traffic::By,
};

/// The condition that says whether what the Service asks for can be done.
const ACCEPTED: &str = "portico.dev/Accepted";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a wrong annotation value is told by name and stops no other service", |s| {
            Box::pin(value(s))
        }),
        Scenario::new("an unknown annotation under our domain is told by name", |s| Box::pin(unknown(s))),
    ]
}

/// A LoadBalancer Service with an annotation.
async fn annotated(scene: &Scene, name: &str, key: &str, value: &str) -> anyhow::Result<Service> {
    let mut service = mk_service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?;
    service.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
    scene.create(&service).await
}

/// Waits until condition [`ACCEPTED`] and an Event name the annotation.
async fn told(scene: &Scene, service: &str, status: &str, key: &str) -> anyhow::Result<()> {
    scene
        .eventually("a condition and an Event that name the annotation", async || {
            let said =
                observe::condition(&scene.service(service).await?, ACCEPTED).context("no condition")?;
            ensure!(said.starts_with(status) && said.contains(key), "the condition says {said:?}");
            let events = observe::events(scene, service).await?;
            let warned = events.iter().any(|event| event.starts_with("Warning") && event.contains(key));
            ensure!(warned, "no warning among {events:#?}");
            Ok(())
        })
        .await
}

async fn value(scene: &Scene) -> anyhow::Result<()> {
    let key = "portico.dev/proxy-protocol";
    scene.deploy(&Workload::web("good")).await?;
    annotated(scene, "bad", key, "maybe").await?;
    told(scene, "bad", "False ", key).await?;

    scene.create(&mk_service("good", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let good = scene
        .eventually("a load balancer", async || observe::provisioned(&scene.service("good").await?))
        .await?;
    scene.answered(&scene.everybody(), By::Http, good).await?;

    let bad = scene.service("bad").await?;
    ensure!(observe::ingress(&bad).is_empty(), "a Service that is not accepted has an address");
    scene.stage.cloud.holds(scene, 1).await?;
    let remedy = json!({"metadata": {"annotations": {key: null}}});
    let _changed: Service = scene.patch("bad", &remedy).await?;
    scene
        .eventually("accepted after the remedy", async || observe::provisioned(&scene.service("bad").await?))
        .await?;
    let said = observe::condition(&scene.service("bad").await?, ACCEPTED).unwrap_or_default();
    ensure!(said.starts_with("True "), "after the remedy: {said}");
    Ok(())
}

async fn unknown(scene: &Scene) -> anyhow::Result<()> {
    let key = "portico.dev/proxi-protocol";
    annotated(scene, "web", key, "v2").await?;
    told(scene, "web", "True ", key).await?;
    scene
        .eventually("a load balancer", async || observe::provisioned(&scene.service("web").await?))
        .await
        .map(drop)
}
