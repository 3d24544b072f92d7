//! Address families: Services of both, and of one alone in a cluster that has both.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    fabric::{self, Families},
    scenario::{
        objects::{Workload, mk_service},
        observe,
        traffic::{By, Silence},
    },
};
use serde_json::{Value, json};

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a dual-stack service is reached over both families, inside and outside", |s| {
            Box::pin(both(s))
        }),
        Scenario::new("an IPv6 service in a dual-stack cluster has no IPv4", |s| Box::pin(v6_alone(s))),
        Scenario::new("an IPv4 service in a dual-stack cluster has no IPv6", |s| Box::pin(v4_alone(s))),
        Scenario::new(
            "an IPv6 client keeps its address under policy Local, and its pod under affinity",
            |s| Box::pin(local_and_sticky(s)),
        ),
        Scenario::new("a service without endpoints refuses over both families until pods come", |s| {
            Box::pin(from_nothing(s))
        }),
        Scenario::new("a service that becomes dual-stack, and single-stack again, follows", |s| {
            Box::pin(changes(s))
        }),
    ]
}

fn mk_spec(policy: &str, families: &[&str]) -> Value {
    json!({"type": "NodePort", "ports": [{"port": 80}], "ipFamilyPolicy": policy, "ipFamilies": families})
}

/// Every ClusterIP with the Service's port.
fn cluster_ips(service: &Service) -> anyhow::Result<Vec<SocketAddr>> {
    let port = observe::cluster_ip(service, 0)?.port();
    let ips = service.spec.as_ref().and_then(|spec| spec.cluster_ips.as_ref()).context("no clusterIPs")?;
    ips.iter().map(|ip| Ok(SocketAddr::new(ip.parse().context("a ClusterIP")?, port))).collect()
}

/// A node's address of a family.
fn node_address(fixture: &Fixture, node: usize, v6: bool) -> anyhow::Result<IpAddr> {
    let addresses = fixture.shared.cluster.nodes()[node].addresses(Families::Both);
    addresses.into_iter().find(|address| address.is_ipv6() == v6).context("no such address")
}

fn on_node(fixture: &Fixture, service: &Service, node: usize, v6: bool) -> anyhow::Result<SocketAddr> {
    let port = observe::node_port(service, 0).context("no node port")?;
    Ok(SocketAddr::new(node_address(fixture, node, v6)?, port))
}

async fn both(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    let spec = mk_spec("RequireDualStack", &["IPv4", "IPv6"]);
    let service = fixture.create(&mk_service("web", spec)?).await?;
    let addresses = cluster_ips(&service)?;
    ensure!(addresses.len() == 2, "addresses {addresses:?}");
    for to in addresses {
        let answers = fixture.answered(&fixture.insiders(), By::Http, to).await?;
        ensure!(
            answers.iter().all(|answer| answer.server.ip().to_canonical().is_ipv6() == to.is_ipv6()),
            "{to} led into the other family: {answers:?}"
        );
    }
    for v6 in [false, true] {
        for node in 0..fixture.shared.cluster.nodes().len() {
            fixture.answered(&fixture.everybody(), By::Http, on_node(fixture, &service, node, v6)?).await?;
        }
    }
    Ok(())
}

async fn v6_alone(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let service = fixture.create(&mk_service("web", mk_spec("SingleStack", &["IPv6"]))?).await?;
    let addresses = cluster_ips(&service)?;
    ensure!(addresses.len() == 1 && addresses[0].is_ipv6(), "addresses {addresses:?}");
    fixture.answered(&fixture.insiders(), By::Http, addresses[0]).await?;
    fixture.answered(&fixture.everybody(), By::Http, on_node(fixture, &service, 0, true)?).await?;
    let other = on_node(fixture, &service, 0, false)?;
    fixture.outside().hears_nothing(By::Http, other).await.context("the node port over IPv4")
}

async fn v4_alone(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let service = fixture.create(&mk_service("web", mk_spec("SingleStack", &["IPv4"]))?).await?;
    let addresses = cluster_ips(&service)?;
    ensure!(addresses.len() == 1 && addresses[0].is_ipv4(), "addresses {addresses:?}");
    fixture.answered(&fixture.everybody(), By::Http, on_node(fixture, &service, 0, false)?).await?;
    let other = on_node(fixture, &service, 0, true)?;
    fixture.outside().hears_nothing(By::Http, other).await.context("the node port over IPv6")
}

async fn local_and_sticky(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").replicas(3).on("node-1")).await?;
    let mut spec = mk_spec("SingleStack", &["IPv6"]);
    spec["externalTrafficPolicy"] = json!("Local");
    spec["sessionAffinity"] = json!("ClientIP");
    let service = fixture.create(&mk_service("web", spec)?).await?;
    let here = on_node(fixture, &service, 0, true)?;
    let answers = fixture.answered(&[fixture.outside()], By::Http, here).await?;
    let outside = IpAddr::from(fabric::twin(fabric::OUTSIDE));
    ensure!(answers.iter().all(|answer| answer.client.ip() == outside), "seen as {answers:?}");
    let pods: BTreeSet<_> = answers.iter().map(|answer| answer.pod.as_str()).collect();
    ensure!(pods.len() == 1, "one client reached {pods:?}");
    let there = on_node(fixture, &service, 1, true)?;
    fixture
        .silent(&[fixture.outside()], By::Http, there, Silence::Timeout)
        .await
        .context("a node without pods")
}

async fn from_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").replicas(0)).await?;
    let spec = mk_spec("RequireDualStack", &["IPv6", "IPv4"]);
    let service = fixture.create(&mk_service("web", spec)?).await?;
    for to in cluster_ips(&service)? {
        fixture.silent(&fixture.insiders(), By::Http, to, Silence::Refused).await?;
    }
    fixture.scale("web", 1).await?;
    for to in cluster_ips(&service)? {
        fixture.answered(&fixture.insiders(), By::Http, to).await?;
    }
    Ok(())
}

async fn changes(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    fixture.create(&mk_service("web", mk_spec("SingleStack", &["IPv4"]))?).await?;
    let more = json!({"spec": {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}});
    let service: Service = fixture.patch("web", &more).await?;
    let addresses = cluster_ips(&service)?;
    let v6 = *addresses.iter().find(|address| address.is_ipv6()).context("no second ClusterIP")?;
    fixture.answered(&fixture.insiders(), By::Http, v6).await?;
    let fewer = json!({"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
        "clusterIPs": [observe::cluster_ip(&service, 0)?.ip()]}});
    let service: Service = fixture.patch("web", &fewer).await?;
    fixture.answered(&fixture.insiders(), By::Http, observe::cluster_ip(&service, 0)?).await?;
    fixture
        .silent(&[fixture.pod()], By::Http, v6, Silence::Timeout)
        .await
        .context("an address that is nobody's now")
}
