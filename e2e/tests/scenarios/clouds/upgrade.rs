//! An upgrade of the operators: the new pods start with empty caches, take over live load balancers, and write nothing to
//! their cloud.
//!
//! Owns: an upgrade between two operators of this version. Leaves to others: the names, tags and hashes of earlier versions,
//! which tests of the providers hold (`earlier_releases_still_hold`). Together they are an upgrade from the version
//! before: its load balancers have the same names, tags and hashes as these.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use portico_e2e::cloud::{Cloud, call::Effect, record::Logged};
use serde_json::json;
use tokio::time::sleep;

use super::{Fixture, Scenario, mk_balanced, published, setup::PATIENCE};

/// The audit of the new operators: a round over a few Services is over soon.
const AUDIT: &str = "10s";

/// The audit begins a minute after the start of an operator; by then all that follows from the start is done.
const STARTED: Duration = Duration::from_mins(1);

/// How long the audit may take until it has read every load balancer.
const AUDITED: Duration = Duration::from_mins(2);

/// Every annotation by which a Service of a cloud may ask for an internal load balancer, the present name first.
fn internal(cloud: Cloud) -> [(&'static str, &'static str); 3] {
    match cloud {
        Cloud::Aws => [
            ("portico.dev/scheme", "internal"),
            ("service.beta.kubernetes.io/aws-load-balancer-scheme", "internal"),
            ("service.beta.kubernetes.io/aws-load-balancer-internal", "true"),
        ],
        Cloud::Gce => [
            ("portico.dev/scheme", "internal"),
            ("networking.gke.io/load-balancer-type", "Internal"),
            ("cloud.google.com/load-balancer-type", "Internal"),
        ],
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::exclusive("an upgrade of the operators makes no cloud write", |s| Box::pin(upgrade(s)))
            .limit(Duration::from_mins(8)),
    ]
}

/// A Service with its load balancer.
struct Served {
    cloud: Cloud,
    service: Service,
    address: String,
}

async fn upgrade(fixture: &Fixture) -> anyhow::Result<()> {
    let served = serve(fixture).await?;
    let outcome = makes_no_write(fixture, &served).await;
    // Whatever came of it: others need the operators as they were.
    let mut restored = Ok(());
    for cloud in Cloud::BOTH {
        restored = restored.and(fixture.shared.sites.release(cloud).install(&fixture.shared.cluster).await);
    }
    outcome?;
    restored?;
    for each in &served {
        fixture.delete::<Service>(&each.service.name_any()).await?;
    }
    for each in &served {
        published::gone(fixture, &each.service, each.cloud).await?;
    }
    Ok(())
}

/// Creates the Services, and waits until no operator has anything left to do for them.
async fn serve(fixture: &Fixture) -> anyhow::Result<Vec<Served>> {
    let mut names = Vec::new();
    for cloud in Cloud::BOTH {
        let mut services = vec![mk_balanced(cloud.as_str(), cloud)?];
        for (number, (key, value)) in internal(cloud).into_iter().enumerate() {
            let mut service = mk_balanced(&format!("{cloud}-internal-{number}"), cloud)?;
            service.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
            services.push(service);
        }
        for service in &services {
            fixture.create(service).await?;
            names.push((cloud, service.name_any()));
        }
    }
    let mut all = Vec::new();
    for (cloud, name) in names {
        let (service, address) = published::served(fixture, &name, cloud).await?;
        let is_internal = fixture.shared.sites.is_internal(cloud, &service).await?;
        ensure!(is_internal == name.contains("internal"), "{name} is internal: {is_internal}");
        all.push(Served { cloud, service, address });
    }
    for cloud in Cloud::BOTH {
        fixture.shared.sites.settle(cloud, PATIENCE).await?;
    }
    Ok(all)
}

/// Replaces the operators. Waits until the new ones have reconciled every Service from empty caches, and the audit has read
/// every load balancer in full; then checks that no call was a write.
async fn makes_no_write(fixture: &Fixture, served: &[Served]) -> anyhow::Result<()> {
    let last_calls = || Cloud::BOTH.map(|cloud| fixture.shared.sites.proxy(cloud).number());
    let calls_after = |cloud: Cloud, last: [u64; 2]| {
        fixture.shared.sites.proxy(cloud).log_after(last[usize::from(cloud == Cloud::Gce)])
    };
    let before = last_calls();
    for cloud in Cloud::BOTH {
        let mut release = fixture.shared.sites.release(cloud);
        release.values["operator"]["auditInterval"] = json!(AUDIT);
        release.install(&fixture.shared.cluster).await?;
    }
    sleep(STARTED).await;
    let started = last_calls();
    fixture
        .within(AUDITED, "the audit has read every load balancer", async || {
            for Served { cloud, service, .. } in served {
                let name = format!("{}/{}", fixture.namespace, service.name_any());
                let calls = calls_after(*cloud, started);
                let is_read = calls.iter().any(|call| call.service.as_ref() == Some(&name));
                ensure!(is_read, "no call is about {name}");
            }
            Ok(())
        })
        .await?;
    for cloud in Cloud::BOTH {
        let calls = calls_after(cloud, before);
        let writes: Vec<&Logged> = calls.iter().filter(|call| call.kind.effect == Effect::Write).collect();
        ensure!(writes.is_empty(), "{} of {} calls to {cloud} write: {writes:#?}", writes.len(), calls.len());
    }
    for Served { cloud, service, address } in served {
        let name = service.name_any();
        let found = published::address(&fixture.service(&name).await?, *cloud)?;
        ensure!(found == *address, "the address {address} of {name} became {found}");
    }
    Ok(())
}
