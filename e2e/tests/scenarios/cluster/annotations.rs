//! Annotations that are wrong: reported on the Service, by name and with the remedy, and no other Service's business.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::By,
};
use serde_json::json;

use super::{Fixture, Scenario};

/// The condition that says whether what the Service asks for can be done.
const ACCEPTED: &str = "portico.dev/Accepted";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a wrong annotation value is reported by name and stops no other service", |s| {
            Box::pin(value(s))
        }),
        Scenario::new("an unknown annotation under our domain is reported by name", |s| Box::pin(unknown(s))),
    ]
}

/// A LoadBalancer Service with an annotation.
async fn annotated(fixture: &Fixture, name: &str, key: &str, value: &str) -> anyhow::Result<Service> {
    let mut service = mk_service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?;
    service.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
    fixture.create(&service).await
}

/// Waits until condition [`ACCEPTED`] and an Event name the annotation.
async fn reported(fixture: &Fixture, service: &str, status: &str, key: &str) -> anyhow::Result<()> {
    fixture
        .eventually("a condition and an Event that name the annotation", async || {
            let said =
                observe::condition(&fixture.service(service).await?, ACCEPTED).context("no condition")?;
            ensure!(said.starts_with(status) && said.contains(key), "the condition says {said:?}");
            let events = fixture.events(service).await?;
            let warned = events.iter().any(|event| event.starts_with("Warning") && event.contains(key));
            ensure!(warned, "no warning among {events:#?}");
            Ok(())
        })
        .await
}

async fn value(fixture: &Fixture) -> anyhow::Result<()> {
    let key = "portico.dev/proxy-protocol";
    fixture.deploy(&Workload::web("good")).await?;
    annotated(fixture, "bad", key, "maybe").await?;
    reported(fixture, "bad", "False ", key).await?;

    fixture.create(&mk_service("good", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let good = fixture.provisioned("good").await?;
    fixture.answered(&fixture.everybody(), By::Http, good).await?;

    let bad = fixture.service("bad").await?;
    ensure!(observe::ingress(&bad).is_empty(), "a Service that is not accepted has an address");
    fixture.shared.lb.holds(fixture, 1).await?;
    let remedy = json!({"metadata": {"annotations": {key: null}}});
    let _changed: Service = fixture.patch("bad", &remedy).await?;
    fixture
        .eventually("accepted after the remedy", async || {
            observe::provisioned(&fixture.service("bad").await?)
        })
        .await?;
    let said = observe::condition(&fixture.service("bad").await?, ACCEPTED).unwrap_or_default();
    ensure!(said.starts_with("True "), "after the remedy: {said}");
    Ok(())
}

async fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    let key = "portico.dev/proxi-protocol";
    annotated(fixture, "web", key, "v2").await?;
    reported(fixture, "web", "True ", key).await?;
    fixture.provisioned("web").await.map(drop)
}
