//! Uninstalling: nothing is left in the accounts when all Services are deleted, and nothing in the cluster without the
//! operators. First a Service still has a load balancer, then none has.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    cloud::Cloud,
    portico::NAMESPACE,
    scenario::observe::{FINALIZER, finalizers},
};

use super::{Fixture, Scenario, mk_balanced, published, sites};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::exclusive("a service that outlived its operator waits for it to be installed again", |s| {
            Box::pin(outlived(s))
        }),
        Scenario::exclusive("at the end both accounts are as they were and nothing is installed", |s| {
            Box::pin(nothing_left(s))
        }),
    ]
}

async fn outlived(fixture: &Fixture) -> anyhow::Result<()> {
    let cloud = Cloud::Aws;
    fixture.create(&mk_balanced("web", cloud)?).await?;
    let (service, address) = published::served(fixture, "web", cloud).await?;
    let release = fixture.shared.sites.release(cloud);
    release.uninstall(&fixture.shared.cluster).await?;
    let again = async {
        let left = fixture.service("web").await?;
        ensure!(published::address(&left, cloud)? == address, "its status was taken away");
        ensure!(
            fixture.shared.sites.balancers(cloud, &service).await? == 1,
            "its load balancer was taken away"
        );
        fixture.delete::<Service>("web").await?;
        let held = fixture.service("web").await.context("gone, and its load balancer leaks")?;
        ensure!(finalizers(&held).iter().any(|name| name == FINALIZER), "nothing holds it");
        Ok(())
    };
    let again = again.await;
    release.install(&fixture.shared.cluster).await?; // whatever came of it: others need it
    again?;
    published::gone(fixture, &service, cloud).await
}

async fn nothing_left(fixture: &Fixture) -> anyhow::Result<()> {
    let leftovers = fixture.shared.leftovers().await;
    ensure!(leftovers.is_empty(), "namespaces that stay:\n{}", leftovers.join("\n"));
    fixture.shared.sites.untouched().await?;
    fixture.shared.sites.no_violations().await?;
    let cluster = &fixture.shared.cluster;
    for cloud in Cloud::BOTH {
        fixture.shared.sites.release(cloud).uninstall(cluster).await?;
    }
    for cloud in Cloud::BOTH {
        let selector = format!("app.kubernetes.io/instance={}", sites::release_name(cloud));
        let kinds = "all,leases,serviceaccounts,roles,rolebindings,poddisruptionbudgets,clusterroles,clusterrolebindings";
        let args = ["-n", NAMESPACE, "get", kinds, "-l", &selector, "--ignore-not-found", "-o", "name"];
        let left = cluster.kubectl(&args).await?;
        ensure!(left.trim().is_empty(), "{} left:\n{left}", sites::release_name(cloud));
    }
    let leases = cluster.kubectl(&["-n", NAMESPACE, "get", "leases", "-o", "name"]).await?;
    ensure!(leases.trim().is_empty(), "leases left:\n{leases}");
    Ok(())
}
