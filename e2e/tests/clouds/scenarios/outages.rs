//! A cloud that answers nothing but errors, and a leader that dies in the middle: nothing sticks, nothing is made twice.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    cloud::{Faults, Moment, faults::Fate},
    portico,
};

use super::mk_balanced;
use crate::clouds::{
    harness::Scenario,
    observe::{FINALIZER, finalizers},
    operators, published,
    scene::{SOON, Scene},
    site::Cloud,
    stage::PATIENCE,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::alone("a service deleted while its cloud is down goes when that is back", |s| {
            Box::pin(cloud_is_down(s))
        }),
        Scenario::alone("a leader killed in mid-provisioning leaves one load balancer", |s| {
            Box::pin(leader_dies(s))
        }),
    ]
}

fn name(cloud: Cloud) -> &'static str {
    if cloud == Cloud::Aws { "aws" } else { "gce" }
}

async fn cloud_is_down(scene: &Scene) -> anyhow::Result<()> {
    let mut services = Vec::new();
    for cloud in Cloud::BOTH {
        scene.create(&mk_balanced(name(cloud), cloud)?).await?;
    }
    for cloud in Cloud::BOTH {
        services.push((cloud, published::served(scene, name(cloud), cloud).await?.0));
    }
    for cloud in Cloud::BOTH {
        let proxy = scene.stage.sites.proxy(cloud);
        proxy.take_counts();
        proxy.set(Faults { errors: 1000, ..Faults::none() });
        scene.delete::<Service>(name(cloud)).await?;
    }
    let held = held(scene).await;
    for cloud in Cloud::BOTH {
        scene.stage.sites.proxy(cloud).set(Faults::none()); // whatever came of it: others need the clouds
    }
    held?;
    for (cloud, service) in &services {
        published::gone(scene, service, *cloud).await?;
    }
    Ok(())
}

/// Waits until the operators have tried and failed; the Services must be held for as long.
async fn held(scene: &Scene) -> anyhow::Result<()> {
    for cloud in Cloud::BOTH {
        scene
            .within(SOON, "calls that fail", async || {
                let failed = scene.stage.sites.proxy(cloud).counts().met(Fate::Failed);
                ensure!(failed >= 2, "{failed} calls failed");
                Ok(())
            })
            .await?;
        let service = scene.service(name(cloud)).await.context("gone although its cloud was down")?;
        ensure!(finalizers(&service).iter().any(|name| name == FINALIZER), "nothing holds it");
    }
    Ok(())
}

async fn leader_dies(scene: &Scene) -> anyhow::Result<()> {
    let mut traps = Vec::new();
    for cloud in Cloud::BOTH {
        let proxy = scene.stage.sites.proxy(cloud);
        // The fourth write is in the midst of both creations, and has taken effect.
        traps.push((cloud, proxy.trap(4, Moment::After)));
        scene.create(&mk_balanced(name(cloud), cloud)?).await?;
    }
    for (cloud, trap) in &mut traps {
        tokio::time::timeout(PATIENCE, trap.sprung()).await.context("no fourth write came")?;
        operators::kill_at_once(&operators::leader(&scene.stage, *cloud).await?)?;
    }
    drop(traps);
    for cloud in Cloud::BOTH {
        let (service, _) = published::served(scene, name(cloud), cloud).await?;
        scene.delete::<Service>(name(cloud)).await?;
        published::gone(scene, &service, cloud).await?;
        portico::rolled_out(&scene.stage.cluster, &format!("deployment/{}-operator", cloud.release()))
            .await?;
    }
    Ok(())
}
