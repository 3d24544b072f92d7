//! Services that share one load balancer at AWS: one address for all, each listener one Service's, and an end.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::cloud::Targets;
use serde_json::{Value, json};

use super::balanced;
use crate::clouds::{
    harness::Scenario, objects::mk_service, observe::condition, published, scene::Scene, site::Cloud,
    stage::PATIENCE,
};

/// The condition that says whether all of a Service can be had.
const ACCEPTED: &str = "portico.dev/Accepted";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("two services of a group share a load balancer, and one leaves", |s| {
            Box::pin(shares_and_leaves(s))
        }),
        Scenario::new("a listener of a group is one service's until that goes", |s| Box::pin(inherits(s))),
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

async fn shares_and_leaves(scene: &Scene) -> anyhow::Result<()> {
    scene.create(&mk_member("one", &[80])?).await?;
    let (one, address) = member(scene, "one").await?;
    scene.create(&mk_member("two", &[443])?).await?;
    let (two, second) = member(scene, "two").await?;
    ensure!(second == address, "two addresses for one group: {address}, {second}");
    one_is_shared(scene, [&one, &two]).await?;
    for name in ["one", "two"] {
        its_targets_are_the_nodes(scene, name).await?;
    }

    let _left: Service =
        scene.patch("two", &json!({"metadata": {"annotations": {"portico.dev/group": null}}})).await?;
    let own = scene
        .within(PATIENCE, "another address for who has left", async || {
            let own = published::address(&scene.service("two").await?, Cloud::Aws)?;
            ensure!(own != address, "its status shows the group's address");
            Ok(own)
        })
        .await?;
    scene
        .within(PATIENCE, "nothing of who has left is in the group", async || {
            let (shared, theirs) = (of_group(scene).await?, owned(scene, &two).await?);
            ensure!(shared.is_disjoint(&theirs), "{:#?}", shared.intersection(&theirs));
            Ok(())
        })
        .await?;
    its_targets_are_the_nodes(scene, "one").await?;
    let (_, kept) = member(scene, "one").await?;
    ensure!(kept == address, "the address of who stays became {kept}");

    scene.delete::<Service>("one").await?;
    ends(scene, &one).await?;
    let (_, still) = published::served(scene, "two", Cloud::Aws).await?;
    ensure!(still == own, "the address of who has left became {still}");
    scene.delete::<Service>("two").await?;
    published::gone(scene, &two, Cloud::Aws).await
}

async fn inherits(scene: &Scene) -> anyhow::Result<()> {
    scene.create(&mk_member("one", &[80])?).await?;
    let (one, address) = member(scene, "one").await?;
    scene.create(&mk_member("two", &[80, 443])?).await?;
    let holder = format!("Service {}/one", scene.namespace);
    accepted(scene, "two", &["False ListenerConflict: ", "TCP/80", &holder]).await?;
    let (two, second) = member_while(scene, "two", "False ListenerConflict: TCP/80 ").await?;
    ensure!(second == address, "two addresses for one group: {address}, {second}");
    ensure!(errors(&two) == [Some("portico.dev/ListenerConflict"), None], "{:?}", errors(&two));
    accepted(scene, "one", &["True "]).await?;

    scene.delete::<Service>("one").await?;
    published::gone(scene, &one, Cloud::Aws).await?;
    accepted(scene, "two", &["True "]).await?;
    scene
        .within(PATIENCE, "both listeners serve", async || {
            let (two, kept) = member(scene, "two").await?;
            ensure!(kept == address, "the address became {kept}");
            ensure!(errors(&two).iter().all(Option::is_none), "{:?}", errors(&two));
            Ok(())
        })
        .await?;
    scene.delete::<Service>("two").await?;
    ends(scene, &two).await
}

/// Waits until a member has an address, and all its ports.
async fn member(scene: &Scene, name: &str) -> anyhow::Result<(Service, String)> {
    member_while(scene, name, "True ").await
}

/// Waits until a member has an address, and is told of its provisioning what begins with these words.
async fn member_while(scene: &Scene, name: &str, words: &str) -> anyhow::Result<(Service, String)> {
    scene
        .within(PATIENCE, &format!("an address of its group for {name}"), async || {
            let service = scene.service(name).await?;
            let address = published::address_while(&service, Cloud::Aws, words)?;
            Ok((service, address))
        })
        .await
}

/// Waits until a Service's condition that it is accepted begins with the first of these, and says the others.
async fn accepted(scene: &Scene, name: &str, words: &[&str]) -> anyhow::Result<()> {
    scene
        .within(PATIENCE, &format!("{name} is told {words:?}"), async || {
            let said = condition(&scene.service(name).await?, ACCEPTED).context("not told yet")?;
            ensure!(said.starts_with(words[0]) && words.iter().all(|word| said.contains(word)), "{said}");
            Ok(())
        })
        .await
}

/// What the status says is wrong with each port.
fn errors(service: &Service) -> Vec<Option<&str>> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let ports = ingress.iter().flat_map(|entry| entry.ports.iter().flatten());
    ports.map(|port| port.error.as_deref()).collect()
}

/// An error unless there is one load balancer, which is nobody's own.
async fn one_is_shared(scene: &Scene, members: [&Service; 2]) -> anyhow::Result<()> {
    let shared = of_group(scene).await?;
    let balancers: Vec<_> = shared.iter().filter(|thing| thing.contains(":loadbalancer/net/")).collect();
    ensure!(balancers.len() == 1, "{balancers:?} instead of one");
    for service in members {
        let own = scene.stage.sites.balancers(Cloud::Aws, service).await?;
        ensure!(own == 0, "{own} load balancers of its own");
    }
    Ok(())
}

async fn its_targets_are_the_nodes(scene: &Scene, name: &str) -> anyhow::Result<()> {
    let wanted = [1, 3].map(|number| scene.stage.sites.target(number));
    let wanted = wanted.into_iter().collect::<anyhow::Result<_>>()?;
    let service = format!("{}/{name}", scene.namespace);
    scene
        .eventually("the nodes are the targets", async || {
            let now = Targets::replay(&scene.stage.sites.proxy(Cloud::Aws).log(), &service)?.now();
            ensure!(now == wanted, "{now:?} instead of {wanted:?}");
            Ok(())
        })
        .await
}

/// Waits until the last member is gone; by then nothing of the group is left.
async fn ends(scene: &Scene, last: &Service) -> anyhow::Result<()> {
    published::gone(scene, last, Cloud::Aws).await?;
    let left = of_group(scene).await?;
    ensure!(left.is_empty(), "the last one has left, and AWS holds {left:#?}");
    Ok(())
}

async fn of_group(scene: &Scene) -> anyhow::Result<BTreeSet<String>> {
    scene.stage.sites.of_group(&format!("{}/edge", scene.namespace)).await
}

async fn owned(scene: &Scene, service: &Service) -> anyhow::Result<BTreeSet<String>> {
    scene.stage.sites.owned(Cloud::Aws, service).await
}
