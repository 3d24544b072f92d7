//! The operator killed at bad moments, and several of it: one load balancer per Service, none left over, one leader.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, api::DeleteParams};
use nix::sys::signal::Signal;
use portico_e2e::portico::NAMESPACE;
use serde_json::json;

use super::provisioning::{in_the_making, mk_slow};
use crate::cluster::{
    harness::Scenario,
    objects::{Workload, mk_service},
    observe,
    parts::{self, LEASE_DURATION},
    scene::Scene,
    traffic::By,
};

/// Lease duration, the time to notice, to start, and to catch up.
const TAKEN_OVER: Duration = Duration::from_secs(LEASE_DURATION.as_secs() + 15);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::alone("an operator killed in mid-provisioning makes one load balancer", |s| {
            Box::pin(in_the_middle(s))
        }),
        Scenario::alone("an operator killed during deletion leaves nothing", |s| {
            Box::pin(during_deletion(s))
        }),
        Scenario::alone("an operator that was away releases what was deleted meanwhile", |s| {
            Box::pin(away(s))
        }),
        Scenario::alone("of two operators one leads and hands over when it is asked to stop", |s| {
            Box::pin(hands_over(s))
        }),
        Scenario::alone("another operator leads once the leader hangs for the lease's time", |s| {
            Box::pin(hangs(s))
        }),
    ]
}

async fn in_the_middle(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web")).await?;
    scene.create(&mk_slow("web", "12s")?).await?;
    in_the_making(scene, "web").await?;
    parts::kill_operators(&scene.stage).await?;
    let address = scene
        .within(TAKEN_OVER + Duration::from_secs(15), "provisioned after the restart", async || {
            observe::provisioned(&scene.service("web").await?)
        })
        .await?;
    scene.stage.cloud.holds(scene, 1).await?; // the provider's own list, not what a Service says
    scene.answered(&scene.everybody(), By::Http, address).await?;
    parts::all_ready(&scene.stage).await
}

async fn during_deletion(scene: &Scene) -> anyhow::Result<()> {
    let names: Vec<String> = (0..6).map(|number| format!("web-{number}")).collect();
    for name in &names {
        scene.create(&mk_service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    }
    for name in &names {
        scene
            .eventually("a load balancer", async || observe::provisioned(&scene.service(name).await?))
            .await?;
    }
    for name in &names {
        scene.delete::<Service>(name).await?;
    }
    parts::kill_operators(&scene.stage).await?; // at once: some are gone, some half, some not begun
    scene
        .within(TAKEN_OVER, "all Services and load balancers are gone", async || {
            let left = scene.api::<Service>().list(&kube::api::ListParams::default()).await?.items.len();
            ensure!(left == 0, "{left} Services are there");
            scene.stage.cloud.holds(scene, 0).await
        })
        .await?;
    parts::all_ready(&scene.stage).await
}

async fn away(scene: &Scene) -> anyhow::Result<()> {
    scene.create(&mk_service("goes", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    scene.eventually("a load balancer", async || observe::provisioned(&scene.service("goes").await?)).await?;
    scale_operator(scene, 0).await?;
    let changed = async {
        scene.delete::<Service>("goes").await?;
        scene.create(&mk_service("comes", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await
    };
    let changed = changed.await;
    scale_operator(scene, 2).await?;
    changed?;
    scene
        .within(TAKEN_OVER, "the deleted one is released, the new one served", async || {
            ensure!(scene.api::<Service>().get_opt("goes").await?.is_none(), "the deleted Service is there");
            observe::provisioned(&scene.service("comes").await?)?;
            scene.stage.cloud.holds(scene, 1).await
        })
        .await
}

/// Sets the number of operators and waits until so many are ready.
async fn scale_operator(scene: &Scene, replicas: u32) -> anyhow::Result<()> {
    let count = format!("--replicas={replicas}");
    scene.stage.cluster.kubectl(&["-n", NAMESPACE, "scale", "deployment/portico-operator", &count]).await?;
    parts::all_ready(&scene.stage).await?;
    scene
        .eventually("as many operators as asked for", async || {
            let pods = Api::<Pod>::namespaced(scene.stage.cluster.client(), NAMESPACE);
            let of_operator = kube::api::ListParams::default().labels("app.kubernetes.io/component=operator");
            let running = pods.list(&of_operator).await?.items.len();
            ensure!(u32::try_from(running) == Ok(replicas), "{running} run");
            Ok(())
        })
        .await
}

/// Waits until another pod than `not` leads; gives its name and the time it took.
async fn new_leader(scene: &Scene, not: &str, limit: Duration) -> anyhow::Result<(String, Duration)> {
    let started = Instant::now();
    let leader = scene
        .within(limit, "another operator leads", async || {
            let leader = parts::leader(&scene.stage).await?;
            ensure!(leader != not, "{not} still holds the lease");
            Ok(leader)
        })
        .await?;
    Ok((leader, started.elapsed()))
}

/// A Service made now gets its load balancer: whoever leads works.
async fn works(scene: &Scene, name: &str) -> anyhow::Result<()> {
    scene.create(&mk_service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    scene
        .eventually("a load balancer", async || observe::provisioned(&scene.service(name).await?))
        .await
        .map(drop)
}

async fn hands_over(scene: &Scene) -> anyhow::Result<()> {
    let operators: BTreeSet<String> = parts::operators(&scene.stage).await?.into_iter().collect();
    ensure!(operators.len() == 2, "the chart starts two operators, and there are {operators:?}");
    let first = scene.eventually("an operator leads", async || parts::leader(&scene.stage).await).await?;
    works(scene, "before").await?;
    let pods = Api::<Pod>::namespaced(scene.stage.cluster.client(), NAMESPACE);
    pods.delete(&first, &DeleteParams::default()).await.context("deleting the leader's pod")?;
    let (_second, took) = new_leader(scene, &first, TAKEN_OVER).await?;
    ensure!(took < LEASE_DURATION / 2, "handed over after {took:?}: the lease was not released, it ran out");
    works(scene, "after").await?;
    scene.stage.cloud.holds(scene, 2).await?;
    parts::all_ready(&scene.stage).await
}

async fn hangs(scene: &Scene) -> anyhow::Result<()> {
    let first = scene.eventually("an operator leads", async || parts::leader(&scene.stage).await).await?;
    parts::signal_operator(&first, Signal::SIGSTOP)?;
    let taken = async {
        let (_second, took) = new_leader(scene, &first, TAKEN_OVER).await?;
        ensure!(
            took > LEASE_DURATION / 2,
            "taken over after {took:?}: from a leader that had renewed its lease"
        );
        works(scene, "meanwhile").await
    };
    let taken = taken.await;
    if parts::operator_runs(&first)? {
        parts::signal_operator(&first, Signal::SIGCONT)?; // else its liveness probe had it replaced already
    }
    taken?;
    works(scene, "after").await?;
    scene.stage.cloud.holds(scene, 2).await?;
    parts::all_ready(&scene.stage).await?;
    let leader = parts::leader(&scene.stage).await?;
    scene
        .eventually("the lease stays where it is", async || {
            ensure!(parts::leader(&scene.stage).await? == leader, "the lease moved");
            Ok(())
        })
        .await
}
