//! A provider that takes its time: it holds up its own Service and no other.

use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use crate::cluster::{
    harness::Scenario,
    objects::{Workload, mk_service},
    observe,
    scene::Scene,
    traffic::By,
};

/// The annotation by which portico-lb takes so long to make a load balancer.
pub(super) const DELAY: &str = "portico.dev/local-provisioning-delay";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("ten services finish while the provider takes 30 seconds for another", |s| {
            Box::pin(slow(s))
        }),
        Scenario::new("a service deleted while its load balancer is being made leaves nothing", |s| {
            Box::pin(deleted_in_the_making(s))
        }),
    ]
}

/// A LoadBalancer Service whose provider takes `delay`.
pub(super) fn mk_slow(name: &str, delay: &str) -> anyhow::Result<Service> {
    let spec = json!({"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]});
    let mut service = mk_service(name, spec)?;
    service.metadata.annotations = Some([(DELAY.to_owned(), delay.to_owned())].into());
    Ok(service)
}

/// Waits until the provider is at work for a Service: it is marked as ours, and in the cloud.
pub(super) async fn in_the_making(scene: &Scene, name: &str) -> anyhow::Result<()> {
    scene
        .eventually("the provider is at work", async || {
            let service = scene.service(name).await?;
            ensure!(!observe::finalizers(&service).is_empty(), "no finalizer yet");
            ensure!(observe::ingress(&service).is_empty(), "it is there already");
            scene.stage.cloud.holds(scene, 1).await
        })
        .await
}

async fn slow(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web")).await?;
    scene.create(&mk_slow("slow", "30s")?).await?;
    in_the_making(scene, "slow").await?;
    let names: Vec<String> = (0..10).map(|number| format!("quick-{number}")).collect();
    for name in &names {
        let spec = json!({"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]});
        scene.create(&mk_service(name, spec)?).await?;
    }
    let quick = names.iter().map(|name| async move {
        scene.eventually("a quick one", async || observe::provisioned(&scene.service(name).await?)).await
    });
    let addresses = try_join_all(quick).await?;
    let waiting = scene.service("slow").await?;
    ensure!(
        observe::ingress(&waiting).is_empty(),
        "the slow one was there before the ten others: nothing was proven"
    );
    let said = observe::condition(&waiting, observe::PROVISIONED).unwrap_or_default();
    ensure!(said.starts_with("False Provisioning"), "while it is made, the condition says {said:?}");
    for address in addresses {
        scene.answered(&[scene.outside()], By::Http, address).await?;
    }
    let slow = scene
        .within(Duration::from_mins(1), "the slow one", async || {
            observe::provisioned(&scene.service("slow").await?)
        })
        .await?;
    scene.answered(&scene.everybody(), By::Http, slow).await?;
    scene.stage.cloud.holds(scene, 11).await
}

async fn deleted_in_the_making(scene: &Scene) -> anyhow::Result<()> {
    scene.create(&mk_slow("web", "60s")?).await?;
    in_the_making(scene, "web").await?;
    scene.delete::<Service>("web").await?;
    scene
        .eventually("the Service and its load balancer are gone", async || {
            ensure!(scene.api::<Service>().get_opt("web").await?.is_none(), "the Service is there");
            scene.stage.cloud.holds(scene, 0).await
        })
        .await
}
