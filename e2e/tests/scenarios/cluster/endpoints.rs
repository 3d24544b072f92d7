//! Endpoints that come and go, and Services that have none of the usual kind.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::{By, Silence, pods},
};
use serde_json::json;

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "a service without endpoints refuses, with them answers, without them refuses again",
            |s| Box::pin(added_and_removed(s)),
        ),
        Scenario::new("an endpoint that is replaced is answered by the new one only", |s| {
            Box::pin(replaced(s))
        }),
        Scenario::new("a port that the service lacks is refused", |s| Box::pin(missing_port(s))),
        Scenario::new("a selectorless service follows a manual endpointslice", |s| Box::pin(selectorless(s))),
        Scenario::new("headless and ExternalName services are left alone", |s| Box::pin(left_alone(s))),
    ]
}

async fn added_and_removed(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.create(&Workload::web("web").replicas(0).deployment()?).await?;
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let service =
        fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": ports}))?).await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let on_node = (fixture.shared.cluster.nodes()[0].address, node_port).into();
    let address = fixture.provisioned("web").await?;

    fixture
        .silent(&fixture.insiders(), By::Http, cluster_ip, Silence::Refused)
        .await
        .context("no endpoints yet")?;
    fixture
        .silent(&fixture.everybody(), By::Http, on_node, Silence::Refused)
        .await
        .context("no endpoints yet")?;
    // Everybody's way there leads through the load balancer, which takes a connection and ends it.
    for client in fixture.everybody() {
        client.hears_nothing(By::Http, address).await.context("no endpoints yet")?;
    }

    fixture.scale("web", 2).await?;
    fixture.rolled_out("web").await?;
    for to in [on_node, address] {
        fixture.answered(&fixture.everybody(), By::Http, to).await.context("with endpoints")?;
    }
    let answers =
        fixture.answered(&fixture.insiders(), By::Http, cluster_ip).await.context("with endpoints")?;
    ensure!(pods(&answers).len() == 2, "of two endpoints only {:?} answered 20 requests", pods(&answers));

    fixture.scale("web", 0).await?;
    // A pod that dies refuses by itself, and its address is dead before the proxy hears of it: that is not yet the proxy's word.
    let gone = async || {
        let left = fixture.pods("app=web").await?;
        ensure!(left.is_empty(), "pods that still are there: {:?}", left.keys());
        Ok(())
    };
    fixture.eventually("pods that vanish", gone).await?;
    fixture
        .silent(&fixture.insiders(), By::Http, cluster_ip, Silence::Refused)
        .await
        .context("endpoints vanished")?;
    fixture
        .silent(&fixture.everybody(), By::Http, on_node, Silence::Refused)
        .await
        .context("endpoints vanished")
}

async fn replaced(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("old").app("web")).await?;
    let service = fixture.create(&mk_service("web", json!({"ports": [{"port": 80}]}))?).await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    fixture.answered(&fixture.insiders(), By::Http, cluster_ip).await?;

    fixture.deploy(&Workload::web("new").app("web")).await?;
    fixture.scale("old", 0).await?;
    let client = fixture.pod();
    fixture
        .eventually("only the new pod answers", async || {
            let answers = client.answers(By::Http, cluster_ip, 10).await?;
            ensure!(
                answers.iter().all(|answer| answer.pod.starts_with("new-")),
                "answered: {:?}",
                pods(&answers)
            );
            Ok(())
        })
        .await?;
    client.answers(By::Http, cluster_ip, 50).await.map(drop)
}

async fn missing_port(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let service = fixture.create(&mk_service("web", json!({"ports": [{"port": 80}]}))?).await?;
    let mut address = observe::cluster_ip(&service, 0)?;
    fixture.answered(&fixture.insiders(), By::Http, address).await?;
    address.set_port(81);
    fixture.silent(&fixture.insiders(), By::Http, address, Silence::Refused).await?;
    fixture.silent(&[fixture.pod()], By::Udp, address, Silence::Refused).await?;
    fixture.node("node-1").hears_nothing(By::Udp, address).await?; // on the node itself, sending is "not permitted"
    for client in fixture.insiders() {
        let replies = client.ask_times(By::Http, address, 30).await?;
        let late = replies.iter().filter(|reply| **reply != Err(Silence::Refused)).count();
        ensure!(late == 0, "{late} of 30 quick attempts were not refused at once");
    }
    Ok(())
}

async fn selectorless(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let pods = fixture.pods("app=web").await?;
    let pod = pods.values().next().context("no pod")?;
    let address =
        pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("a pod without an address")?;
    let spec = json!({"selector": null, "ports": [{"name": "http", "port": 80}]});
    let service = fixture.create(&mk_service("manual", spec)?).await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    fixture
        .silent(&fixture.insiders(), By::Http, cluster_ip, Silence::Refused)
        .await
        .context("no slice yet")?;

    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "manual-1", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address]}], // no conditions: ready
    }))?;
    fixture.create(&slice).await?;
    fixture.answered(&fixture.insiders(), By::Http, cluster_ip).await.context("with the slice")?;

    fixture.delete::<EndpointSlice>("manual-1").await?;
    fixture
        .silent(&fixture.insiders(), By::Http, cluster_ip, Silence::Refused)
        .await
        .context("the slice is gone")
}

async fn left_alone(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let headless = json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]});
    fixture.create(&mk_service("headless", headless)?).await?;
    let external = json!({"type": "ExternalName", "selector": null, "externalName": "example.com"});
    fixture.create(&mk_service("external", external)?).await?;
    // A load balancer made after them: once it is there, the operator has seen them, too.
    let service =
        fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    fixture.provisioned("web").await?;
    fixture.answered(&fixture.insiders(), By::Http, observe::cluster_ip(&service, 0)?).await?;
    for name in ["headless", "external"] {
        untouched(fixture, name).await?;
    }
    let pods = fixture.pods("app=web").await?;
    let pod = pods.values().next().and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()).context("no pod")?;
    fixture
        .pod()
        .answers(By::Http, format!("{pod}:80").parse()?, 5)
        .await
        .context("a headless Service's pod")?;
    Ok(())
}

/// An error if anything of ours is on a Service.
pub(super) async fn untouched(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    let service: Service = fixture.service(name).await?;
    observe::without_load_balancer(&service).with_context(|| format!("Service {name}"))?;
    let conditions = observe::conditions(&service);
    ensure!(conditions.is_empty(), "Service {name} has conditions of ours: {conditions:?}");
    let events = fixture.events(name).await?;
    ensure!(events.is_empty(), "Service {name} has Events: {events:?}");
    let fields = service.metadata.managed_fields.unwrap_or_default();
    let writers: Vec<_> = fields.iter().filter_map(|entry| entry.manager.as_deref()).collect();
    ensure!(
        !writers.iter().any(|writer| writer.contains("portico")),
        "Service {name} was written by {writers:?}"
    );
    Ok(())
}
