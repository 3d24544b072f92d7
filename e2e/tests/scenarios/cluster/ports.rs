//! Ports: named, several, of two protocols, and node ports that the user chooses.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::By,
};
use serde_json::json;

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a named targetPort finds each deployment's own number", |s| Box::pin(named_target(s))),
        Scenario::new("a service with several ports leads each to its own target", |s| Box::pin(several(s))),
        Scenario::new("TCP and UDP live on the same port number", |s| Box::pin(both_protocols(s))),
        Scenario::new("a node port chosen by the user is the one that answers", |s| Box::pin(chosen(s))),
        Scenario::new("a conflicting node port is refused by the API server and changes nothing", |s| {
            Box::pin(conflicting(s))
        }),
    ]
}

async fn named_target(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::new("low").app("web").port("http", 8080, "TCP")).await?;
    fixture.deploy(&Workload::new("high").app("web").port("http", 9090, "TCP")).await?;
    let spec = json!({"ports": [{"port": 80, "targetPort": "http"}]});
    let service = fixture.create(&mk_service("web", spec)?).await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    let client = fixture.pod();
    fixture
        .eventually("both numbers are reached", async || {
            let answers = client.answers(By::Http, cluster_ip, 20).await?;
            let ports: BTreeSet<u16> = answers.iter().map(|answer| answer.server.port()).collect();
            ensure!(ports == BTreeSet::from([8080, 9090]), "reached {ports:?}");
            Ok(())
        })
        .await?;
    fixture.answered(&fixture.insiders(), By::Http, cluster_ip).await.map(drop)
}

async fn several(fixture: &Fixture) -> anyhow::Result<()> {
    let workload =
        Workload::new("web").port("http", 8080, "TCP").port("admin", 8443, "TCP").port("dns", 5353, "UDP");
    fixture.deploy(&workload).await?;
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "admin", "port": 443, "targetPort": 8443},
        {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
    ]);
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": ports}))?).await?;
    let balancer = fixture.provisioned("web").await?.ip();
    let service = fixture.service("web").await?;
    for (number, by, target) in [(0, By::Http, 8080), (1, By::Tcp, 8443), (2, By::Udp, 5353)] {
        let cluster_ip = observe::cluster_ip(&service, number)?;
        let node_port = observe::node_port(&service, number).context("no node port")?;
        let on_node = (fixture.shared.cluster.nodes()[0].address, node_port).into();
        let mut answers = fixture.answered(&fixture.insiders(), by, cluster_ip).await?;
        answers.extend(fixture.answered(&fixture.everybody(), by, on_node).await?);
        let on_balancer = (balancer, cluster_ip.port()).into();
        answers.extend(fixture.answered(&fixture.everybody(), by, on_balancer).await?);
        for answer in answers {
            ensure!(
                answer.server.port() == target,
                "port {number} led to {}, not to {target}",
                answer.server
            );
        }
    }
    Ok(())
}

async fn both_protocols(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::new("dns").port("tcp", 53, "TCP").port("udp", 53, "UDP")).await?;
    let ports = json!([{"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}]);
    fixture.create(&mk_service("dns", json!({"type": "LoadBalancer", "ports": ports}))?).await?;
    let balancer = fixture.provisioned("dns").await?;
    let service = fixture.service("dns").await?;
    for (number, by) in [(0, By::Tcp), (1, By::Udp)] {
        let cluster_ip = observe::cluster_ip(&service, number)?;
        let node_port = observe::node_port(&service, number).context("no node port")?;
        let on_node = (fixture.shared.cluster.nodes()[1].address, node_port).into();
        fixture.answered(&fixture.insiders(), by, cluster_ip).await?;
        fixture.answered(&fixture.everybody(), by, on_node).await?;
        fixture.answered(&fixture.everybody(), by, balancer).await?;
    }
    Ok(())
}

async fn chosen(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_080}]});
    let service = fixture.create(&mk_service("web", spec)?).await?;
    ensure!(observe::node_port(&service, 0) == Some(30_080), "another node port than the chosen one");
    for node in fixture.shared.cluster.nodes() {
        fixture.answered(&fixture.everybody(), By::Http, (node.address, 30_080).into()).await?;
    }
    let _changed: Service =
        fixture.patch("web", &json!({"spec": {"ports": [{"port": 80, "nodePort": 30_081}]}})).await?;
    let node = fixture.shared.cluster.nodes()[0].address;
    fixture
        .answered(&fixture.everybody(), By::Http, (node, 30_081).into())
        .await
        .context("the new choice")?;
    for client in fixture.everybody() {
        client.hears_nothing(By::Http, (node, 30_080).into()).await.context("the old choice")?;
    }
    Ok(())
}

async fn conflicting(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("first")).await?;
    let ports = json!([{"port": 80, "nodePort": 30_090}]);
    fixture.create(&mk_service("first", json!({"type": "NodePort", "ports": ports}))?).await?;
    let address = (fixture.shared.cluster.nodes()[0].address, 30_090).into();
    fixture.answered(&fixture.everybody(), By::Http, address).await?;

    let second = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "second", "namespace": fixture.namespace},
        "spec": {"type": "NodePort", "selector": {"app": "second"}, "ports": ports},
    });
    let Err(refusal) =
        fixture.shared.cluster.kubectl_stdin(&["create", "-f", "-"], &second.to_string()).await
    else {
        bail!("the API server gave one node port to two Services");
    };
    let said = refusal.to_string();
    ensure!(said.contains("provided port is already allocated"), "kubectl said: {said}");
    ensure!(fixture.api::<Service>().get_opt("second").await?.is_none(), "the second Service exists");
    let answers =
        fixture.answered(&fixture.everybody(), By::Http, address).await.context("after the refusal")?;
    ensure!(answers.iter().all(|answer| answer.pod.starts_with("first-")), "answers from somewhere else");
    Ok(())
}
