//! Clients of a Service by address, and the addresses that it sees of them: hairpin, source addresses, source ranges, external IPs.

use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use portico_e2e::{
    fabric::OUTSIDE,
    scenario::{
        objects::{Workload, mk_service},
        observe,
        traffic::By,
    },
};
use serde_json::json;

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a pod reaches itself through its service", |s| Box::pin(hairpin(s))),
        Scenario::new("a ClusterIP service sees pods by their own addresses", |s| Box::pin(source_seen(s))),
        Scenario::new("loadBalancerSourceRanges let in those named and nobody else", |s| {
            Box::pin(source_ranges(s))
        }),
        Scenario::new(
            "the PROXY protocol names the client to the pod, and no node bypasses the load balancer",
            |s| Box::pin(proxy_protocol(s)),
        ),
        Scenario::new("externalIPs are not served unless allowed", |s| Box::pin(external_ips(s))),
    ]
}

fn pod_ip(pod: &Pod) -> anyhow::Result<IpAddr> {
    let ip = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref())
        .context("a pod without an address")?;
    ip.parse().context("a pod's address")
}

async fn hairpin(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::new("web").port("http", 80, "TCP").port("dns", 53, "UDP")).await?;
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": ports}))?).await?;
    let balancer = fixture.provisioned("web").await?;
    let service = fixture.service("web").await?;
    let pods = fixture.pods("app=web").await?;
    let (name, pod) = pods.first_key_value().context("no pod")?;
    let itself = fixture.as_pod(name);
    let node =
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).context("a pod without a node")?;
    let host =
        fixture.shared.cluster.nodes().iter().find(|host| host.name == node).context("an unknown node")?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    for to in [observe::cluster_ip(&service, 0)?, (host.address, node_port).into(), balancer] {
        let answers = fixture.answered(std::slice::from_ref(&itself), By::Http, to).await?;
        ensure!(answers.iter().all(|answer| &answer.pod == name), "answered by another pod: {answers:?}");
    }
    fixture.answered(&[itself], By::Udp, observe::cluster_ip(&service, 1)?).await.map(drop)
}

async fn source_seen(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").on("node-1")).await?;
    let service = fixture.create(&mk_service("web", json!({"ports": [{"port": 80}]}))?).await?;
    let to = observe::cluster_ip(&service, 0)?;
    for node in fixture.shared.node_names() {
        fixture.deploy(&Workload::web(&format!("client-{node}")).on(&node)).await?;
        let clients = fixture.pods(&format!("app=client-{node}")).await?;
        let (name, pod) = clients.first_key_value().context("no client pod")?;
        let own = pod_ip(pod)?;
        let answers = fixture.answered(&[fixture.as_pod(name)], By::Http, to).await?;
        let masked = answers.iter().find(|answer| answer.client.ip() != own);
        ensure!(masked.is_none(), "a pod on {node} is {own}, and was seen as {masked:?}");
    }
    Ok(())
}

async fn source_ranges(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let outside_only = json!([format!("{OUTSIDE}/32")]);
    let spec = json!({
        "type": "LoadBalancer",
        "ports": [{"port": 80}],
        "loadBalancerSourceRanges": outside_only,
    });
    let service = fixture.create(&mk_service("web", spec)?).await?;
    let balancer = fixture.provisioned("web").await?;
    fixture.answered(&[fixture.outside()], By::Http, balancer).await.context("named in the ranges")?;
    fixture
        .answered(&fixture.insiders(), By::Http, observe::cluster_ip(&service, 0)?)
        .await
        .context("the ClusterIP")?;
    let pod = fixture.pod();
    fixture
        .eventually("a pod, in no range, is shut out", async || pod.hears_nothing(By::Http, balancer).await)
        .await?;

    let nobody = json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}});
    let _changed: Service = fixture.patch("web", &nobody).await?;
    let outside = fixture.outside();
    fixture
        .eventually("the outside host is shut out", async || outside.hears_nothing(By::Http, balancer).await)
        .await?;
    pod.hears_nothing(By::Http, balancer).await?;

    let everybody = json!({"spec": {"loadBalancerSourceRanges": null}});
    let _changed: Service = fixture.patch("web", &everybody).await?;
    fixture.answered(&fixture.everybody(), By::Http, balancer).await.context("without ranges")?;
    Ok(())
}

async fn proxy_protocol(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let mut service = mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?;
    service.metadata.annotations = Some([("portico.dev/proxy-protocol".to_owned(), "v2".to_owned())].into());
    fixture.create(&service).await?;
    let balancer = fixture.provisioned("web").await?;
    let mode = fixture.service("web").await?;
    ensure!(
        observe::ip_mode(&mode) == Some("Proxy"),
        "ipMode is {:?}: nodes would go past it",
        observe::ip_mode(&mode)
    );
    let node = fixture.shared.cluster.nodes()[0].address;
    for (client, address) in [(fixture.outside(), OUTSIDE), (fixture.node("node-1"), node)] {
        for answer in fixture.answered(&[client], By::Http, balancer).await? {
            let seen = answer.proxied_client.map(|client| client.ip());
            ensure!(
                seen == Some(IpAddr::V4(address)),
                "the PROXY header names {seen:?}, and {address} is the client"
            );
        }
    }
    Ok(())
}

async fn external_ips(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let spec = json!({"ports": [{"port": 80}], "externalIPs": ["172.30.20.1"]});
    let service = fixture.create(&mk_service("web", spec)?).await?;
    fixture.answered(&fixture.insiders(), By::Http, observe::cluster_ip(&service, 0)?).await?;
    for client in fixture.everybody() {
        client.hears_nothing(By::Http, "172.30.20.1:80".parse()?).await?;
    }
    Ok(())
}
