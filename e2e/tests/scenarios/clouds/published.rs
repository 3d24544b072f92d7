//! The status of a Service's load balancer, on either cloud.

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    cloud::Cloud,
    scenario::observe::{self, FINALIZER, PROVISIONED, condition, finalizers},
};

use super::{Fixture, setup::PATIENCE};

/// The address in the status, if finalizer and condition fit it. Google's must have the `ipMode` by which nodes serve the
/// address, AWS's must have none.
pub(crate) fn address(service: &Service, cloud: Cloud) -> anyhow::Result<String> {
    address_while(service, cloud, "True ")
}

/// The same while the condition begins with these words: an address is there before every port is, or without one.
pub(crate) fn address_while(service: &Service, cloud: Cloud, words: &str) -> anyhow::Result<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let said = condition(service, PROVISIONED);
    let [entry] = ingress else { bail!("{} addresses in the status, condition {said:?}", ingress.len()) };
    let (found, mode) = match cloud {
        Cloud::Aws => (entry.hostname.as_ref().filter(|name| name.ends_with(".amazonaws.com")), None),
        Cloud::Gce => (entry.ip.as_ref(), Some("VIP")),
    };
    let address = found.with_context(|| format!("{entry:?} is no address of {cloud:?}"))?;
    ensure!(entry.ip_mode.as_deref() == mode, "ipMode {:?}, expected {mode:?}", entry.ip_mode);
    ensure!(finalizers(service).iter().any(|name| name == FINALIZER), "no finalizer {FINALIZER}");
    let said = said.context("no condition that it is provisioned")?;
    ensure!(said.starts_with(words), "{PROVISIONED}: {said}");
    Ok(address.clone())
}

/// Waits until a Service has an address, and the account one load balancer for it.
pub(crate) async fn served(fixture: &Fixture, name: &str, cloud: Cloud) -> anyhow::Result<(Service, String)> {
    let what = format!("a load balancer of {cloud:?} for {name}");
    fixture
        .within(PATIENCE, &what, async || {
            let service = fixture.service(name).await?;
            let address = address(&service, cloud)?;
            let count = fixture.shared.sites.balancers(cloud, &service).await?;
            ensure!(count == 1, "{count} load balancers");
            Ok((service, address))
        })
        .await
}

/// Waits until a Service shows nothing of a load balancer, and the account holds nothing of it.
pub(crate) async fn released(fixture: &Fixture, name: &str, cloud: Cloud) -> anyhow::Result<()> {
    let what = format!("nothing of {cloud:?} is left of {name}");
    fixture
        .within(PATIENCE, &what, async || {
            let service = fixture.service(name).await?;
            observe::without_load_balancer(&service)?;
            let hostname =
                service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
            ensure!(hostname.is_none_or(Vec::is_empty), "the status shows {hostname:?}");
            fixture.shared.sites.nothing_of(cloud, &service).await
        })
        .await
}

/// Waits until a Service that was deleted is gone, and nothing of it is in the account.
pub(crate) async fn gone(fixture: &Fixture, service: &Service, cloud: Cloud) -> anyhow::Result<()> {
    let name = service.metadata.name.clone().unwrap_or_default();
    let what = format!("{name} and what it had at {cloud:?} are gone");
    fixture
        .within(PATIENCE, &what, async || {
            let there = fixture.api::<Service>().get_opt(&name).await?;
            let said = there.as_ref().and_then(|service| condition(service, PROVISIONED));
            ensure!(there.is_none(), "the Service is there: {said:?}");
            fixture.shared.sites.nothing_of(cloud, service).await
        })
        .await
}
