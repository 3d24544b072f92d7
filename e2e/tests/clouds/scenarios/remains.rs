//! What is left: in the accounts when all Services went, and in the cluster when the operators are uninstalled, first with
//! a Service that still has a load balancer, then with none.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::portico::NAMESPACE;

use super::mk_balanced;
use crate::clouds::{
    harness::Scenario,
    observe::{FINALIZER, finalizers},
    published,
    scene::Scene,
    site::Cloud,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::alone("a service that outlived its operator waits for it to be installed again", |s| {
            Box::pin(outlived(s))
        }),
        Scenario::alone("at the end both accounts are as they were and nothing is installed", |s| {
            Box::pin(nothing_left(s))
        }),
    ]
}

async fn outlived(scene: &Scene) -> anyhow::Result<()> {
    let cloud = Cloud::Aws;
    scene.create(&mk_balanced("web", cloud)?).await?;
    let (service, address) = published::served(scene, "web", cloud).await?;
    let release = scene.stage.sites.release(cloud);
    release.uninstall(&scene.stage.cluster).await?;
    let again = async {
        let left = scene.service("web").await?;
        ensure!(published::address(&left, cloud)? == address, "its status was taken away");
        ensure!(scene.stage.sites.balancers(cloud, &service).await? == 1, "its load balancer was taken away");
        scene.delete::<Service>("web").await?;
        let held = scene.service("web").await.context("gone, and its load balancer leaks")?;
        ensure!(finalizers(&held).iter().any(|name| name == FINALIZER), "nothing holds it");
        Ok(())
    };
    let again = again.await;
    release.install(&scene.stage.cluster).await?; // whatever came of it: others need it
    again?;
    published::gone(scene, &service, cloud).await
}

async fn nothing_left(scene: &Scene) -> anyhow::Result<()> {
    let leftovers = scene.stage.leftovers().await;
    ensure!(leftovers.is_empty(), "namespaces that stay:\n{}", leftovers.join("\n"));
    scene.stage.sites.untouched().await?;
    scene.stage.sites.no_violations().await?;
    let cluster = &scene.stage.cluster;
    for cloud in Cloud::BOTH {
        scene.stage.sites.release(cloud).uninstall(cluster).await?;
    }
    for cloud in Cloud::BOTH {
        let selector = format!("app.kubernetes.io/instance={}", cloud.release());
        let kinds = "all,leases,serviceaccounts,roles,rolebindings,poddisruptionbudgets,clusterroles,clusterrolebindings";
        let args = ["-n", NAMESPACE, "get", kinds, "-l", &selector, "--ignore-not-found", "-o", "name"];
        let left = cluster.kubectl(&args).await?;
        ensure!(left.trim().is_empty(), "{} left:\n{left}", cloud.release());
    }
    let leases = cluster.kubectl(&["-n", NAMESPACE, "get", "leases", "-o", "name"]).await?;
    ensure!(leases.trim().is_empty(), "leases left:\n{leases}");
    Ok(())
}
