//! A provider that takes its time: it holds up its own Service and no other.

use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::By,
};
use serde_json::json;

use super::{Fixture, Scenario};

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
pub(super) async fn in_the_making(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    fixture
        .eventually("the provider is at work", async || {
            let service = fixture.service(name).await?;
            ensure!(!observe::finalizers(&service).is_empty(), "no finalizer yet");
            ensure!(observe::ingress(&service).is_empty(), "it is there already");
            fixture.shared.lb.holds(fixture, 1).await
        })
        .await
}

async fn slow(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    fixture.create(&mk_slow("slow", "30s")?).await?;
    in_the_making(fixture, "slow").await?;
    let names: Vec<String> = (0..10).map(|number| format!("quick-{number}")).collect();
    for name in &names {
        let spec = json!({"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]});
        fixture.create(&mk_service(name, spec)?).await?;
    }
    let quick = names.iter().map(|name| async move {
        fixture.eventually("a quick one", async || observe::provisioned(&fixture.service(name).await?)).await
    });
    let addresses = try_join_all(quick).await?;
    let waiting = fixture.service("slow").await?;
    ensure!(
        observe::ingress(&waiting).is_empty(),
        "the slow one was there before the ten others: nothing was proven"
    );
    let said = observe::condition(&waiting, observe::PROVISIONED).unwrap_or_default();
    ensure!(said.starts_with("False Provisioning"), "while it is made, the condition says {said:?}");
    for address in addresses {
        fixture.answered(&[fixture.outside()], By::Http, address).await?;
    }
    let slow = fixture
        .within(Duration::from_mins(1), "the slow one", async || {
            observe::provisioned(&fixture.service("slow").await?)
        })
        .await?;
    fixture.answered(&fixture.everybody(), By::Http, slow).await?;
    fixture.shared.lb.holds(fixture, 11).await
}

async fn deleted_in_the_making(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.create(&mk_slow("web", "60s")?).await?;
    in_the_making(fixture, "web").await?;
    fixture.delete::<Service>("web").await?;
    fixture
        .eventually("the Service and its load balancer are gone", async || {
            ensure!(fixture.api::<Service>().get_opt("web").await?.is_none(), "the Service is there");
            fixture.shared.lb.holds(fixture, 0).await
        })
        .await
}
