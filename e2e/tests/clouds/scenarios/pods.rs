//! Pods as the targets themselves: no node ports, and a rolling update in which new ones come before old ones go.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use portico_e2e::cloud::Targets;
use serde_json::json;

use crate::clouds::{
    harness::Scenario,
    objects::{Workload, mk_service},
    observe, published,
    scene::Scene,
    site::Cloud,
    stage::PATIENCE,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new("pods roll under ip targets and new ones come before old ones go", |s| {
        Box::pin(rolls(s))
    })]
}

async fn rolls(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web").replicas(3)).await?;
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerClass": Cloud::Aws.class(), "allocateLoadBalancerNodePorts": false,
        "ports": [{"name": "http", "port": 80}],
    });
    let mut service = mk_service("web", spec)?;
    service.metadata.annotations = Some([("portico.dev/target-kind".to_owned(), "pod".to_owned())].into());
    scene.create(&service).await?;
    let (service, _) = published::served(scene, "web", Cloud::Aws).await?;
    ensure!(observe::node_port(&service, 0).is_none(), "ip targets need no node port");
    let before = targets_are_the_pods(scene).await?;

    let changed = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    let _changed: Deployment = scene.patch("web", &changed).await?;
    scene.rolled_out("web").await?;
    let after = targets_are_the_pods(scene).await?;
    ensure!(before.is_disjoint(&after), "{before:?} and {after:?} have pods in common");

    scene.scale("web", 1).await?;
    scene.rolled_out("web").await?;
    targets_are_the_pods(scene).await?;
    scene.delete::<Service>("web").await?;
    published::gone(scene, &service, Cloud::Aws).await
}

/// Waits until the targets are the addresses of the pods that run, and stay; gives them. The replay has looked at the order.
async fn targets_are_the_pods(scene: &Scene) -> anyhow::Result<BTreeSet<String>> {
    let service = format!("{}/web", scene.namespace);
    let address = |pod: &Pod| {
        let status = pod.status.as_ref().context("a pod without a status")?;
        status.pod_ip.clone().context("a pod without an address")
    };
    scene
        .within(PATIENCE, "the targets are the pods' own addresses", async || {
            let pods = scene.pods("app=web").await?;
            let staying = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let wanted = staying.map(address).collect::<anyhow::Result<BTreeSet<String>>>()?;
            let targets = Targets::replay(&scene.stage.sites.proxy(Cloud::Aws).log(), &service)?;
            let now = targets.now();
            ensure!(now == wanted, "{now:?} instead of {wanted:?}");
            Ok(wanted)
        })
        .await
}
