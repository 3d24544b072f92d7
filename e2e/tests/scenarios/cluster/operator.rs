//! The operator killed at bad moments, and several of it: one load balancer per Service, none left over, one leader.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, api::DeleteParams};
use nix::sys::signal::Signal;
use portico_e2e::{
    portico::NAMESPACE,
    scenario::{
        objects::{Workload, mk_service},
        observe, operators,
        traffic::By,
    },
};
use serde_json::json;

use super::provisioning::{in_the_making, mk_slow};
use super::{
    Fixture, Scenario,
    release::{self, LEASE_DURATION},
};

/// Lease duration, the time to notice, to start, and to catch up.
const TAKEN_OVER: Duration = Duration::from_secs(LEASE_DURATION.as_secs() + 15);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::exclusive("an operator killed in mid-provisioning makes one load balancer", |s| {
            Box::pin(in_the_middle(s))
        }),
        Scenario::exclusive("an operator killed during deletion leaves nothing", |s| {
            Box::pin(during_deletion(s))
        }),
        Scenario::exclusive("an operator that was away releases what was deleted meanwhile", |s| {
            Box::pin(away(s))
        }),
        Scenario::exclusive("of two operators one leads and hands over when it is asked to stop", |s| {
            Box::pin(hands_over(s))
        }),
        Scenario::exclusive("another operator leads once the leader hangs for the lease's time", |s| {
            Box::pin(hangs(s))
        }),
    ]
}

async fn in_the_middle(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    fixture.create(&mk_slow("web", "12s")?).await?;
    in_the_making(fixture, "web").await?;
    operators::kill_all(&fixture.shared.cluster, release::NAME).await?;
    let address = fixture
        .within(TAKEN_OVER + Duration::from_secs(15), "provisioned after the restart", async || {
            observe::provisioned(&fixture.service("web").await?)
        })
        .await?;
    fixture.shared.lb.holds(fixture, 1).await?; // the provider's own list, not what a Service says
    fixture.answered(&fixture.everybody(), By::Http, address).await?;
    release::all_ready(&fixture.shared.cluster).await
}

async fn during_deletion(fixture: &Fixture) -> anyhow::Result<()> {
    let names: Vec<String> = (0..6).map(|number| format!("web-{number}")).collect();
    for name in &names {
        fixture.create(&mk_service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    }
    for name in &names {
        fixture.provisioned(name).await?;
    }
    for name in &names {
        fixture.delete::<Service>(name).await?;
    }
    operators::kill_all(&fixture.shared.cluster, release::NAME).await?; // at once: some are gone, some half, some not begun
    fixture
        .within(TAKEN_OVER, "all Services and load balancers are gone", async || {
            let left = fixture.api::<Service>().list(&kube::api::ListParams::default()).await?.items.len();
            ensure!(left == 0, "{left} Services are there");
            fixture.shared.lb.holds(fixture, 0).await
        })
        .await?;
    release::all_ready(&fixture.shared.cluster).await
}

async fn away(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.create(&mk_service("goes", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    fixture.provisioned("goes").await?;
    scale_operator(fixture, 0).await?;
    let changed = async {
        fixture.delete::<Service>("goes").await?;
        fixture.create(&mk_service("comes", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await
    };
    let changed = changed.await;
    scale_operator(fixture, 2).await?;
    changed?;
    fixture
        .within(TAKEN_OVER, "the deleted one is released, the new one served", async || {
            ensure!(
                fixture.api::<Service>().get_opt("goes").await?.is_none(),
                "the deleted Service is there"
            );
            observe::provisioned(&fixture.service("comes").await?)?;
            fixture.shared.lb.holds(fixture, 1).await
        })
        .await
}

/// Sets the number of operators and waits until so many are ready.
async fn scale_operator(fixture: &Fixture, replicas: u32) -> anyhow::Result<()> {
    let count = format!("--replicas={replicas}");
    fixture
        .shared
        .cluster
        .kubectl(&["-n", NAMESPACE, "scale", "deployment/portico-operator", &count])
        .await?;
    release::all_ready(&fixture.shared.cluster).await?;
    fixture
        .eventually("as many operators as asked for", async || {
            let pods = Api::<Pod>::namespaced(fixture.shared.cluster.client(), NAMESPACE);
            let of_operator = kube::api::ListParams::default().labels("app.kubernetes.io/component=operator");
            let running = pods.list(&of_operator).await?.items.len();
            ensure!(u32::try_from(running) == Ok(replicas), "{running} run");
            Ok(())
        })
        .await
}

/// Waits until another pod than `not` leads; gives its name and the time it took.
async fn new_leader(fixture: &Fixture, not: &str, limit: Duration) -> anyhow::Result<(String, Duration)> {
    let started = Instant::now();
    let leader = fixture
        .within(limit, "another operator leads", async || {
            let leader = operators::leader(&fixture.shared.cluster, release::NAME).await?;
            ensure!(leader != not, "{not} still holds the lease");
            Ok(leader)
        })
        .await?;
    Ok((leader, started.elapsed()))
}

/// Checks that the leader works: a Service created now gets its load balancer.
async fn works(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    fixture.create(&mk_service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    fixture.provisioned(name).await.map(drop)
}

async fn hands_over(fixture: &Fixture) -> anyhow::Result<()> {
    let operators: BTreeSet<String> =
        operators::pods(&fixture.shared.cluster, release::NAME).await?.into_iter().collect();
    ensure!(operators.len() == 2, "the chart starts two operators, and there are {operators:?}");
    let first = fixture
        .eventually("an operator leads", async || {
            operators::leader(&fixture.shared.cluster, release::NAME).await
        })
        .await?;
    works(fixture, "before").await?;
    let pods = Api::<Pod>::namespaced(fixture.shared.cluster.client(), NAMESPACE);
    pods.delete(&first, &DeleteParams::default()).await.context("deleting the leader's pod")?;
    let (_second, took) = new_leader(fixture, &first, TAKEN_OVER).await?;
    ensure!(took < LEASE_DURATION / 2, "handed over after {took:?}: the lease was not released, it ran out");
    works(fixture, "after").await?;
    fixture.shared.lb.holds(fixture, 2).await?;
    release::all_ready(&fixture.shared.cluster).await
}

async fn hangs(fixture: &Fixture) -> anyhow::Result<()> {
    let first = fixture
        .eventually("an operator leads", async || {
            operators::leader(&fixture.shared.cluster, release::NAME).await
        })
        .await?;
    operators::signal(&first, Signal::SIGSTOP)?;
    let taken = async {
        let (_second, took) = new_leader(fixture, &first, TAKEN_OVER).await?;
        ensure!(
            took > LEASE_DURATION / 2,
            "taken over after {took:?}: from a leader that had renewed its lease"
        );
        works(fixture, "meanwhile").await
    };
    let taken = taken.await;
    if operators::runs(&first)? {
        operators::signal(&first, Signal::SIGCONT)?; // else its liveness probe had it replaced already
    }
    taken?;
    works(fixture, "after").await?;
    fixture.shared.lb.holds(fixture, 2).await?;
    release::all_ready(&fixture.shared.cluster).await?;
    let leader = operators::leader(&fixture.shared.cluster, release::NAME).await?;
    fixture
        .eventually("the lease stays where it is", async || {
            ensure!(
                operators::leader(&fixture.shared.cluster, release::NAME).await? == leader,
                "the lease moved"
            );
            Ok(())
        })
        .await
}
