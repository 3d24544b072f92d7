//! Endpoints that come and go, and Services that have none of the usual kind.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::json;

use crate::cluster::{
    harness::Scenario,
    objects::{Workload, mk_service},
    observe,
    scene::Scene,
    traffic::{By, Silence, pods},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "a service without endpoints refuses, with them answers, without them refuses again",
            |s| Box::pin(come_and_go(s)),
        ),
        Scenario::new("an endpoint that is replaced is answered by the new one only", |s| {
            Box::pin(replaced(s))
        }),
        Scenario::new("a port that the service lacks is refused", |s| Box::pin(missing_port(s))),
        Scenario::new("a selectorless service follows a manual endpointslice", |s| Box::pin(selectorless(s))),
        Scenario::new("headless and ExternalName services are left alone", |s| Box::pin(left_alone(s))),
    ]
}

async fn come_and_go(scene: &Scene) -> anyhow::Result<()> {
    scene.create(&Workload::web("web").replicas(0).deployment()?).await?;
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let service = scene.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": ports}))?).await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let on_node = (scene.stage.cluster.nodes()[0].address, node_port).into();
    let address = scene
        .eventually("a load balancer", async || observe::provisioned(&scene.service("web").await?))
        .await?;

    scene
        .silent(&scene.insiders(), By::Http, cluster_ip, Silence::Refused)
        .await
        .context("no endpoints yet")?;
    scene
        .silent(&scene.everybody(), By::Http, on_node, Silence::Refused)
        .await
        .context("no endpoints yet")?;
    // Everybody's way there leads through the load balancer, which takes a connection and ends it.
    for client in scene.everybody() {
        client.hears_nothing(By::Http, address).await.context("no endpoints yet")?;
    }

    scene.scale("web", 2).await?;
    scene.rolled_out("web").await?;
    for to in [on_node, address] {
        scene.answered(&scene.everybody(), By::Http, to).await.context("with endpoints")?;
    }
    let answers = scene.answered(&scene.insiders(), By::Http, cluster_ip).await.context("with endpoints")?;
    ensure!(pods(&answers).len() == 2, "of two endpoints only {:?} answered 20 requests", pods(&answers));

    scene.scale("web", 0).await?;
    // A pod that dies refuses by itself, and its address is dead before the proxy hears of it: that is not yet the proxy's word.
    let gone = async || {
        let left = scene.pods("app=web").await?;
        ensure!(left.is_empty(), "pods that still are there: {:?}", left.keys());
        Ok(())
    };
    scene.eventually("pods that vanish", gone).await?;
    scene
        .silent(&scene.insiders(), By::Http, cluster_ip, Silence::Refused)
        .await
        .context("endpoints vanished")?;
    scene.silent(&scene.everybody(), By::Http, on_node, Silence::Refused).await.context("endpoints vanished")
}

async fn replaced(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("old").app("web")).await?;
    let service = scene.create(&mk_service("web", json!({"ports": [{"port": 80}]}))?).await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    scene.answered(&scene.insiders(), By::Http, cluster_ip).await?;

    scene.deploy(&Workload::web("new").app("web")).await?;
    scene.scale("old", 0).await?;
    let client = scene.pod();
    scene
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

async fn missing_port(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web")).await?;
    let service = scene.create(&mk_service("web", json!({"ports": [{"port": 80}]}))?).await?;
    let mut address = observe::cluster_ip(&service, 0)?;
    scene.answered(&scene.insiders(), By::Http, address).await?;
    address.set_port(81);
    scene.silent(&scene.insiders(), By::Http, address, Silence::Refused).await?;
    scene.silent(&[scene.pod()], By::Udp, address, Silence::Refused).await?;
    scene.node("node-1").hears_nothing(By::Udp, address).await?; // on the node itself, sending is "not permitted"
    for client in scene.insiders() {
        let replies = client.ask_times(By::Http, address, 30).await?;
        let late = replies.iter().filter(|reply| **reply != Err(Silence::Refused)).count();
        ensure!(late == 0, "{late} of 30 quick attempts were not refused at once");
    }
    Ok(())
}

async fn selectorless(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web")).await?;
    let pods = scene.pods("app=web").await?;
    let pod = pods.values().next().context("no pod")?;
    let address =
        pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("a pod without an address")?;
    let spec = json!({"selector": null, "ports": [{"name": "http", "port": 80}]});
    let service = scene.create(&mk_service("manual", spec)?).await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    scene.silent(&scene.insiders(), By::Http, cluster_ip, Silence::Refused).await.context("no slice yet")?;

    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "manual-1", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address]}], // no conditions: ready
    }))?;
    scene.create(&slice).await?;
    scene.answered(&scene.insiders(), By::Http, cluster_ip).await.context("with the slice")?;

    scene.delete::<EndpointSlice>("manual-1").await?;
    scene.silent(&scene.insiders(), By::Http, cluster_ip, Silence::Refused).await.context("the slice is gone")
}

async fn left_alone(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web")).await?;
    let headless = json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]});
    scene.create(&mk_service("headless", headless)?).await?;
    let external = json!({"type": "ExternalName", "selector": null, "externalName": "example.com"});
    scene.create(&mk_service("external", external)?).await?;
    // A load balancer made after them: once it is there, the operator has seen them, too.
    let service =
        scene.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    scene.eventually("a load balancer", async || observe::provisioned(&scene.service("web").await?)).await?;
    scene.answered(&scene.insiders(), By::Http, observe::cluster_ip(&service, 0)?).await?;
    for name in ["headless", "external"] {
        untouched(scene, name).await?;
    }
    let pods = scene.pods("app=web").await?;
    let pod = pods.values().next().and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()).context("no pod")?;
    scene
        .pod()
        .answers(By::Http, format!("{pod}:80").parse()?, 5)
        .await
        .context("a headless Service's pod")?;
    Ok(())
}

/// An error if anything of ours is on a Service.
pub(super) async fn untouched(scene: &Scene, name: &str) -> anyhow::Result<()> {
    let service: Service = scene.service(name).await?;
    observe::without_load_balancer(&service).with_context(|| format!("Service {name}"))?;
    let conditions = observe::conditions(&service);
    ensure!(conditions.is_empty(), "Service {name} has conditions of ours: {conditions:?}");
    let events = observe::events(scene, name).await?;
    ensure!(events.is_empty(), "Service {name} has Events: {events:?}");
    let fields = service.metadata.managed_fields.unwrap_or_default();
    let writers: Vec<_> = fields.iter().filter_map(|entry| entry.manager.as_deref()).collect();
    ensure!(
        !writers.iter().any(|writer| writer.contains("portico")),
        "Service {name} was written by {writers:?}"
    );
    Ok(())
}
