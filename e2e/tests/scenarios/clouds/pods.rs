//! Pods as the targets themselves: no node ports, and a rolling update in which new ones come before old ones go.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use portico_e2e::{
    cloud::{Cloud, Targets},
    scenario::{
        objects::{Workload, mk_service},
        observe,
    },
};
use serde_json::json;

use super::{Fixture, Scenario, published, setup::PATIENCE};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "pods roll under ip targets, and new ones are added before old ones are removed",
        |s| Box::pin(rolls(s)),
    )]
}

async fn rolls(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").replicas(3)).await?;
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerClass": Cloud::Aws.class(), "allocateLoadBalancerNodePorts": false,
        "ports": [{"name": "http", "port": 80}],
    });
    let mut service = mk_service("web", spec)?;
    service.metadata.annotations = Some([("portico.dev/target-kind".to_owned(), "pod".to_owned())].into());
    fixture.create(&service).await?;
    let (service, _) = published::served(fixture, "web", Cloud::Aws).await?;
    ensure!(observe::node_port(&service, 0).is_none(), "ip targets need no node port");
    let before = targets_are_the_pods(fixture).await?;

    let changed = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    let _changed: Deployment = fixture.patch("web", &changed).await?;
    fixture.rolled_out("web").await?;
    let after = targets_are_the_pods(fixture).await?;
    ensure!(before.is_disjoint(&after), "{before:?} and {after:?} have pods in common");

    fixture.scale("web", 1).await?;
    fixture.rolled_out("web").await?;
    targets_are_the_pods(fixture).await?;
    fixture.delete::<Service>("web").await?;
    published::gone(fixture, &service, Cloud::Aws).await
}

/// Waits until the targets are the addresses of the pods that run, and stay; gives them. The replay checks the order.
async fn targets_are_the_pods(fixture: &Fixture) -> anyhow::Result<BTreeSet<String>> {
    let service = format!("{}/web", fixture.namespace);
    let address = |pod: &Pod| {
        let status = pod.status.as_ref().context("a pod without a status")?;
        status.pod_ip.clone().context("a pod without an address")
    };
    fixture
        .within(PATIENCE, "the targets are the pods' own addresses", async || {
            let pods = fixture.pods("app=web").await?;
            let staying = pods.values().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let wanted = staying.map(address).collect::<anyhow::Result<BTreeSet<String>>>()?;
            let targets = Targets::replay(&fixture.shared.sites.proxy(Cloud::Aws).log(), &service)?;
            let now = targets.now();
            ensure!(now == wanted, "{now:?} instead of {wanted:?}");
            Ok(wanted)
        })
        .await
}
