//! A Service's way up and down through its types, and its end: at each stage what spec, status, finalizer, conditions and
//! Events say, and what clients get.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::{By, Client},
};
use serde_json::json;

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a service goes up through all types and back to ClusterIP", |s| {
            Box::pin(up_and_down(s))
        }),
        Scenario::new("a load balancer service becomes NodePort and keeps its node port", |s| {
            Box::pin(one_down(s))
        }),
        Scenario::new("deleting a load balancer service releases everything", |s| Box::pin(deleted(s))),
        Scenario::new("changing the type and deleting at once leaves nothing", |s| {
            Box::pin(changed_and_deleted(s))
        }),
    ]
}

/// A Service of a type, with two pods behind it.
async fn web(fixture: &Fixture, kind: &str) -> anyhow::Result<Service> {
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    fixture.create(&mk_service("web", json!({"type": kind, "ports": [{"port": 80}]}))?).await
}

/// Waits until the Service has its load balancer; gives its address.
async fn provisioned(fixture: &Fixture) -> anyhow::Result<SocketAddr> {
    fixture
        .eventually("a load balancer", async || {
            let address = observe::provisioned(&fixture.service("web").await?)?;
            fixture.shared.lb.holds(fixture, 1).await?;
            Ok(address)
        })
        .await
}

/// Waits until nothing of a load balancer is left: in the Service, in the cloud, on the wire.
async fn released(fixture: &Fixture, address: SocketAddr) -> anyhow::Result<()> {
    fixture
        .eventually("the load balancer is released", async || {
            observe::without_load_balancer(&fixture.service("web").await?)?;
            fixture.shared.lb.holds(fixture, 0).await
        })
        .await?;
    gone(fixture, &fixture.everybody(), &[address]).await
}

/// Waits until no client gets an answer at any of the addresses.
async fn gone(fixture: &Fixture, clients: &[Client], addresses: &[SocketAddr]) -> anyhow::Result<()> {
    for client in clients {
        for &address in addresses {
            fixture
                .eventually("no answer any more", async || client.hears_nothing(By::Http, address).await)
                .await?;
        }
    }
    Ok(())
}

/// A port's address on every node.
fn on_nodes(fixture: &Fixture, port: u16) -> Vec<SocketAddr> {
    let nodes = fixture.shared.cluster.nodes().iter();
    nodes.map(|node| SocketAddr::new(IpAddr::V4(node.address), port)).collect()
}

async fn up_and_down(fixture: &Fixture) -> anyhow::Result<()> {
    let service = web(fixture, "ClusterIP").await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    fixture.answered(&fixture.insiders(), By::Http, cluster_ip).await.context("as ClusterIP")?;
    fixture.outside().hears_nothing(By::Http, cluster_ip).await.context("a ClusterIP is for insiders")?;
    observe::without_load_balancer(&fixture.service("web").await?).context("as ClusterIP")?;

    let service: Service = fixture.patch("web", &json!({"spec": {"type": "NodePort"}})).await?;
    let node_port = observe::node_port(&service, 0).context("the API server allocated no node port")?;
    for address in on_nodes(fixture, node_port) {
        fixture.answered(&fixture.everybody(), By::Http, address).await.context("as NodePort")?;
    }
    observe::without_load_balancer(&fixture.service("web").await?).context("as NodePort")?;

    let _changed: Service = fixture.patch("web", &json!({"spec": {"type": "LoadBalancer"}})).await?;
    let address = provisioned(fixture).await?;
    fixture.answered(&fixture.everybody(), By::Http, address).await.context("as LoadBalancer")?;
    fixture
        .answered(&fixture.insiders(), By::Http, cluster_ip)
        .await
        .context("the ClusterIP of a LoadBalancer")?;
    for node_address in on_nodes(fixture, node_port) {
        let everybody = fixture.everybody();
        fixture
            .answered(&everybody, By::Http, node_address)
            .await
            .context("the node port of a LoadBalancer")?;
    }
    let said = fixture
        .eventually("an Event that names the address", async || {
            let events = fixture.events("web").await?;
            let named = events.iter().any(|event| event.contains(&address.ip().to_string()));
            ensure!(named, "only {events:#?}");
            Ok(events)
        })
        .await?;
    ensure!(said.iter().all(|event| event.starts_with("Normal ")), "a warning without a reason: {said:#?}");

    let service: Service = fixture.patch("web", &json!({"spec": {"type": "ClusterIP"}})).await?;
    ensure!(observe::node_port(&service, 0).is_none(), "the API server kept the node port");
    released(fixture, address).await?;
    let said = observe::conditions(&fixture.service("web").await?).len();
    ensure!(said == 0, "{said} conditions of ours stay on a ClusterIP Service");
    gone(fixture, &fixture.everybody(), &on_nodes(fixture, node_port))
        .await
        .context("the node port is closed")?;
    fixture.answered(&fixture.insiders(), By::Http, cluster_ip).await.context("as ClusterIP again")?;
    Ok(())
}

async fn one_down(fixture: &Fixture) -> anyhow::Result<()> {
    let service = web(fixture, "LoadBalancer").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let address = provisioned(fixture).await?;
    fixture.answered(&[fixture.outside()], By::Http, address).await?;

    let service: Service = fixture.patch("web", &json!({"spec": {"type": "NodePort"}})).await?;
    ensure!(observe::node_port(&service, 0) == Some(node_port), "the node port changed");
    released(fixture, address).await?;
    for address in on_nodes(fixture, node_port) {
        fixture.answered(&fixture.everybody(), By::Http, address).await.context("as NodePort")?;
    }
    Ok(())
}

async fn deleted(fixture: &Fixture) -> anyhow::Result<()> {
    let service = web(fixture, "LoadBalancer").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let address = provisioned(fixture).await?;
    fixture.answered(&[fixture.outside(), fixture.pod()], By::Http, address).await?;

    fixture.delete::<Service>("web").await?;
    went_away(fixture).await?;
    gone(fixture, &fixture.everybody(), &[address]).await?;
    gone(fixture, &fixture.everybody(), &on_nodes(fixture, node_port)).await?;
    gone(fixture, &fixture.insiders(), &[observe::cluster_ip(&service, 0)?]).await
}

async fn changed_and_deleted(fixture: &Fixture) -> anyhow::Result<()> {
    web(fixture, "LoadBalancer").await?;
    let address = provisioned(fixture).await?;
    let _changed: Service = fixture.patch("web", &json!({"spec": {"type": "ClusterIP"}})).await?;
    fixture.delete::<Service>("web").await?;
    went_away(fixture).await?;
    gone(fixture, &fixture.everybody(), &[address]).await
}

/// Waits until the Service is gone, finalizer and all, and the cloud holds nothing of it.
async fn went_away(fixture: &Fixture) -> anyhow::Result<()> {
    fixture
        .eventually("the Service and its load balancer are gone", async || {
            let seen = fixture.api::<Service>().get_opt("web").await?;
            ensure!(seen.is_none(), "finalizers {:?}", seen.map(|service| service.metadata.finalizers));
            fixture.shared.lb.holds(fixture, 0).await
        })
        .await
}
