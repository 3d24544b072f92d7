//! Suite `install`: the packed chart on a cluster without Portico, by the verbs of helm that its users run, under traffic.

mod setup;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, ResourceExt as _, api::ListParams};
use portico_e2e::{
    portico::{
        Parts,
        release::{self, Release},
    },
    scenario::{
        self,
        objects::{Workload, mk_service},
        observe,
        traffic::{By, Silence, Traffic},
    },
};
use serde_json::{Value, json};

use super::nft;

type Fixture = scenario::Fixture<setup::InstallSetup>;
type Scenario = scenario::Scenario<setup::InstallSetup>;

/// Requests that each client has sent before it stops.
const REQUESTS: usize = 100;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "helm installs, upgrades and rolls back under traffic, and uninstalling leaves nothing",
            |s| Box::pin(verbs(s)),
        )
        .in_namespace("shop")
        .limit(Duration::from_mins(8)),
    ]
}

fn mk_release(values: Value) -> Release {
    let parts = Parts { values, ..Parts::default() };
    Release { name: "portico".to_owned(), values: parts.values() }
}

async fn verbs(fixture: &Fixture) -> anyhow::Result<()> {
    let cluster = &fixture.shared.cluster;
    let chart = release::package(cluster).await?;
    let first = mk_release(json!({}));
    first.install_from(&chart, cluster).await?;
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let balancer = fixture.provisioned("web").await?;

    let traffic = start_traffic(fixture, balancer).await?;
    let changed = json!({"operator": {"logFormat": "json"}, "nodeproxy": {"logFormat": "json"}});
    mk_release(changed).install_from(&chart, cluster).await?;
    first.roll_back(1, cluster).await?;
    for stream in traffic {
        stream.stop(REQUESTS).await?;
    }

    fixture.delete::<Service>("web").await?;
    fixture.silent(&[fixture.outside()], By::Http, balancer, Silence::Timeout).await?;
    mk_release(json!({"nodeproxy": {"cleanup": true}})).install_from(&chart, cluster).await?;
    first.uninstall(cluster).await?;
    let services = Api::<Service>::all(cluster.client()).list(&ListParams::default()).await?;
    for service in &services {
        let held = service.finalizers().iter().any(|finalizer| finalizer.contains("portico.dev"));
        ensure!(!held, "Service {} keeps Portico's finalizer", service.name_any());
    }
    for node in fixture.shared.node_names() {
        let tables = nft::run(&node, &["list", "tables"]).await?;
        ensure!(!tables.contains("portico"), "{node} keeps tables of ours:\n{tables}");
    }
    Ok(())
}

/// Requests from a pod, and from outside through a node port and the load balancer.
async fn start_traffic(fixture: &Fixture, balancer: SocketAddr) -> anyhow::Result<Vec<Traffic>> {
    let service = fixture.service("web").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let paths = [
        (fixture.pod(), observe::cluster_ip(&service, 0)?),
        (fixture.outside(), (fixture.shared.cluster.nodes()[0].address, node_port).into()),
        (fixture.outside(), balancer),
    ];
    let mut traffic = Vec::new();
    for (client, to) in &paths {
        fixture.answered(std::slice::from_ref(client), By::Http, *to).await?;
        traffic.push(client.keep_asking(By::Http, *to)?);
    }
    Ok(traffic)
}
