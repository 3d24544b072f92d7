//! A cloud that answers nothing but errors, and a leader that dies in the middle: nothing sticks, nothing is made twice.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use nix::sys::signal::Signal;
use portico_e2e::{
    cloud::{Cloud, Faults, Moment, faults::Fate},
    portico,
    scenario::{
        SOON,
        observe::{FINALIZER, finalizers},
        operators,
    },
};

use super::{Fixture, Scenario, mk_balanced, published, setup::PATIENCE, sites};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::exclusive("a service deleted while its cloud is down is removed when that is back", |s| {
            Box::pin(cloud_is_down(s))
        }),
        Scenario::exclusive("a leader killed in mid-provisioning leaves one load balancer", |s| {
            Box::pin(leader_dies(s))
        }),
    ]
}

async fn cloud_is_down(fixture: &Fixture) -> anyhow::Result<()> {
    let mut services = Vec::new();
    for cloud in Cloud::BOTH {
        fixture.create(&mk_balanced(cloud.as_str(), cloud)?).await?;
    }
    for cloud in Cloud::BOTH {
        services.push((cloud, published::served(fixture, cloud.as_str(), cloud).await?.0));
    }
    for cloud in Cloud::BOTH {
        let proxy = fixture.shared.sites.proxy(cloud);
        proxy.take_counts();
        proxy.set(Faults { errors: 1000, ..Faults::none() });
        fixture.delete::<Service>(cloud.as_str()).await?;
    }
    let held = held(fixture).await;
    for cloud in Cloud::BOTH {
        fixture.shared.sites.proxy(cloud).set(Faults::none()); // whatever came of it: others need the clouds
    }
    held?;
    for (cloud, service) in &services {
        published::gone(fixture, service, *cloud).await?;
    }
    Ok(())
}

/// Waits until the operators have tried and failed; the Services must be held for as long.
async fn held(fixture: &Fixture) -> anyhow::Result<()> {
    for cloud in Cloud::BOTH {
        fixture
            .within(SOON, "calls that fail", async || {
                let failed = fixture.shared.sites.proxy(cloud).counts().met(Fate::Failed);
                ensure!(failed >= 2, "{failed} calls failed");
                Ok(())
            })
            .await?;
        let service = fixture.service(cloud.as_str()).await.context("gone although its cloud was down")?;
        ensure!(finalizers(&service).iter().any(|name| name == FINALIZER), "nothing holds it");
    }
    Ok(())
}

async fn leader_dies(fixture: &Fixture) -> anyhow::Result<()> {
    let mut traps = Vec::new();
    for cloud in Cloud::BOTH {
        let proxy = fixture.shared.sites.proxy(cloud);
        // The fourth write is in the midst of both creations, and has taken effect.
        traps.push((cloud, proxy.trap(4, Moment::After)));
        fixture.create(&mk_balanced(cloud.as_str(), cloud)?).await?;
    }
    for (cloud, trap) in &mut traps {
        tokio::time::timeout(PATIENCE, trap.sprung()).await.context("no fourth write came")?;
        operators::signal(
            &operators::leader(&fixture.shared.cluster, sites::release_name(*cloud)).await?,
            Signal::SIGKILL,
        )?;
    }
    drop(traps);
    for cloud in Cloud::BOTH {
        let (service, _) = published::served(fixture, cloud.as_str(), cloud).await?;
        fixture.delete::<Service>(cloud.as_str()).await?;
        published::gone(fixture, &service, cloud).await?;
        portico::rolled_out(
            &fixture.shared.cluster,
            &format!("deployment/{}-operator", sites::release_name(cloud)),
        )
        .await?;
    }
    Ok(())
}
