//! Services that share one load balancer at AWS: one address for all, each listener one Service's, and an end.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    cloud::{Cloud, Targets},
    scenario::{objects::mk_service, observe::condition},
};
use serde_json::{Value, json};

use super::{Fixture, Scenario, balanced, published, setup::PATIENCE};

/// The condition that says whether all of a Service can be had.
const ACCEPTED: &str = "portico.dev/Accepted";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("two services of a group share a load balancer, and one leaves", |s| {
            Box::pin(shares_and_leaves(s))
        }),
        Scenario::new("a listener of a group is one service's until that is deleted", |s| {
            Box::pin(inherits(s))
        }),
    ]
}

/// A member of the namespace's group `edge`, who may move.
fn mk_member(name: &str, ports: &[u16]) -> anyhow::Result<Service> {
    let mut spec = balanced(Cloud::Aws);
    spec["ports"] = listeners(ports);
    let mut service = mk_service(name, spec)?;
    let annotations = [("portico.dev/group", "edge"), ("portico.dev/allow-replacement", "true")];
    service.metadata.annotations =
        Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    Ok(service)
}

fn listeners(ports: &[u16]) -> Value {
    ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect()
}

async fn shares_and_leaves(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.create(&mk_member("one", &[80])?).await?;
    let (one, address) = member(fixture, "one").await?;
    fixture.create(&mk_member("two", &[443])?).await?;
    let (two, second) = member(fixture, "two").await?;
    ensure!(second == address, "two addresses for one group: {address}, {second}");
    one_is_shared(fixture, [&one, &two]).await?;
    for name in ["one", "two"] {
        its_targets_are_the_nodes(fixture, name).await?;
    }

    let _left: Service =
        fixture.patch("two", &json!({"metadata": {"annotations": {"portico.dev/group": null}}})).await?;
    let own = fixture
        .within(PATIENCE, "another address for who has left", async || {
            let own = published::address(&fixture.service("two").await?, Cloud::Aws)?;
            ensure!(own != address, "its status shows the group's address");
            Ok(own)
        })
        .await?;
    fixture
        .within(PATIENCE, "nothing of who has left is in the group", async || {
            let (shared, theirs) = (of_group(fixture).await?, owned(fixture, &two).await?);
            ensure!(shared.is_disjoint(&theirs), "{:#?}", shared.intersection(&theirs));
            Ok(())
        })
        .await?;
    its_targets_are_the_nodes(fixture, "one").await?;
    let (_, kept) = member(fixture, "one").await?;
    ensure!(kept == address, "the address of who stays became {kept}");

    fixture.delete::<Service>("one").await?;
    ends(fixture, &one).await?;
    let (_, still) = published::served(fixture, "two", Cloud::Aws).await?;
    ensure!(still == own, "the address of who has left became {still}");
    fixture.delete::<Service>("two").await?;
    published::gone(fixture, &two, Cloud::Aws).await
}

async fn inherits(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.create(&mk_member("one", &[80])?).await?;
    let (one, address) = member(fixture, "one").await?;
    fixture.create(&mk_member("two", &[80, 443])?).await?;
    let holder = format!("Service {}/one", fixture.namespace);
    accepted(fixture, "two", &["False ListenerConflict: ", "TCP/80", &holder]).await?;
    let (two, second) = member_while(fixture, "two", "False ListenerConflict: TCP/80 ").await?;
    ensure!(second == address, "two addresses for one group: {address}, {second}");
    ensure!(errors(&two) == [Some("portico.dev/ListenerConflict"), None], "{:?}", errors(&two));
    accepted(fixture, "one", &["True "]).await?;

    fixture.delete::<Service>("one").await?;
    published::gone(fixture, &one, Cloud::Aws).await?;
    accepted(fixture, "two", &["True "]).await?;
    fixture
        .within(PATIENCE, "both listeners serve", async || {
            let (two, kept) = member(fixture, "two").await?;
            ensure!(kept == address, "the address became {kept}");
            ensure!(errors(&two).iter().all(Option::is_none), "{:?}", errors(&two));
            Ok(())
        })
        .await?;
    fixture.delete::<Service>("two").await?;
    ends(fixture, &two).await
}

/// Waits until a member has an address, and all its ports.
async fn member(fixture: &Fixture, name: &str) -> anyhow::Result<(Service, String)> {
    member_while(fixture, name, "True ").await
}

/// Waits until a member has an address, and a provisioning condition that begins with these words.
async fn member_while(fixture: &Fixture, name: &str, words: &str) -> anyhow::Result<(Service, String)> {
    fixture
        .within(PATIENCE, &format!("an address of its group for {name}"), async || {
            let service = fixture.service(name).await?;
            let address = published::address_while(&service, Cloud::Aws, words)?;
            Ok((service, address))
        })
        .await
}

/// Waits until a Service's condition that it is accepted begins with the first of these, and says the others.
async fn accepted(fixture: &Fixture, name: &str, words: &[&str]) -> anyhow::Result<()> {
    fixture
        .within(PATIENCE, &format!("{name} shows {words:?}"), async || {
            let said = condition(&fixture.service(name).await?, ACCEPTED).context("no condition yet")?;
            ensure!(said.starts_with(words[0]) && words.iter().all(|word| said.contains(word)), "{said}");
            Ok(())
        })
        .await
}

/// The error of each port in the status.
fn errors(service: &Service) -> Vec<Option<&str>> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let ports = ingress.iter().flat_map(|entry| entry.ports.iter().flatten());
    ports.map(|port| port.error.as_deref()).collect()
}

/// An error unless there is one load balancer, which belongs to no Service alone.
async fn one_is_shared(fixture: &Fixture, members: [&Service; 2]) -> anyhow::Result<()> {
    let shared = of_group(fixture).await?;
    let balancers: Vec<_> = shared.iter().filter(|thing| thing.contains(":loadbalancer/net/")).collect();
    ensure!(balancers.len() == 1, "{balancers:?} instead of one");
    for service in members {
        let own = fixture.shared.sites.balancers(Cloud::Aws, service).await?;
        ensure!(own == 0, "{own} load balancers of its own");
    }
    Ok(())
}

async fn its_targets_are_the_nodes(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    let wanted = [1, 3].map(|number| fixture.shared.sites.target(number));
    let wanted = wanted.into_iter().collect::<anyhow::Result<_>>()?;
    let service = format!("{}/{name}", fixture.namespace);
    fixture
        .eventually("the nodes are the targets", async || {
            let now = Targets::replay(&fixture.shared.sites.proxy(Cloud::Aws).log(), &service)?.now();
            ensure!(now == wanted, "{now:?} instead of {wanted:?}");
            Ok(())
        })
        .await
}

/// Waits until the last member is gone; by then nothing of the group is left.
async fn ends(fixture: &Fixture, last: &Service) -> anyhow::Result<()> {
    published::gone(fixture, last, Cloud::Aws).await?;
    let left = of_group(fixture).await?;
    ensure!(left.is_empty(), "the last one has left, and AWS holds {left:#?}");
    Ok(())
}

async fn of_group(fixture: &Fixture) -> anyhow::Result<BTreeSet<String>> {
    fixture.shared.sites.of_group(&format!("{}/edge", fixture.namespace)).await
}

async fn owned(fixture: &Fixture, service: &Service) -> anyhow::Result<BTreeSet<String>> {
    fixture.shared.sites.owned(Cloud::Aws, service).await
}
