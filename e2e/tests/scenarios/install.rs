//! Suite `install`: the packed chart on a cluster without Portico, by the verbs of helm that its users run, under traffic.

mod setup;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, ResourceExt as _, api::ListParams};
use portico_e2e::{
    kube_proxy,
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
        Scenario::new("kube-proxy gives way to portico and comes back, and no request fails", |s| {
            Box::pin(kube_proxy_and_back(s))
        })
        .in_namespace("office")
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

    let traffic = start_traffic(fixture, Some(balancer)).await?;
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
    let tables = tables(fixture).await?;
    ensure!(!tables.contains("portico"), "tables of ours stay:\n{tables}");
    Ok(())
}

/// As docs/replace-kube-proxy.md has it.
async fn kube_proxy_and_back(fixture: &Fixture) -> anyhow::Result<()> {
    let cluster = &fixture.shared.cluster;
    let chart = release::package(cluster).await?;
    kube_proxy::install(cluster).await?;
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    fixture.create(&mk_service("web", json!({"type": "NodePort", "ports": [{"port": 80}]}))?).await?;
    let traffic = start_traffic(fixture, None).await?;

    let beside = json!({"healthzBindAddress": "0.0.0.0:10356", "metricsBindAddress": "127.0.0.1:10349"});
    let release = mk_release(json!({"nodeproxy": beside}));
    release.install_from(&chart, cluster).await?;
    kube_proxy::remove(cluster).await?;
    let tables = tables(fixture).await?;
    ensure!(tables.contains("portico") && !tables.contains("kube-proxy"), "after the change:\n{tables}");

    kube_proxy::install(cluster).await?;
    mk_release(json!({"nodeproxy": {"cleanup": true}})).install_from(&chart, cluster).await?;
    release.uninstall(cluster).await?;
    let tables = self::tables(fixture).await?;
    ensure!(!tables.contains("portico") && tables.contains("kube-proxy"), "after the change back:\n{tables}");
    for stream in traffic {
        stream.stop(REQUESTS).await?;
    }
    kube_proxy::remove(cluster).await
}

/// The tables of all nodes.
async fn tables(fixture: &Fixture) -> anyhow::Result<String> {
    let mut all = String::new();
    for node in fixture.shared.node_names() {
        all += &nft::run(&node, &["list", "tables"]).await?;
    }
    Ok(all)
}

/// Requests from a pod, and from outside through a node port and the load balancer, if there is one.
async fn start_traffic(fixture: &Fixture, balancer: Option<SocketAddr>) -> anyhow::Result<Vec<Traffic>> {
    let service = fixture.service("web").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let mut paths = vec![
        (fixture.pod(), observe::cluster_ip(&service, 0)?),
        (fixture.outside(), (fixture.shared.cluster.nodes()[0].address, node_port).into()),
    ];
    paths.extend(balancer.map(|balancer| (fixture.outside(), balancer)));
    let mut traffic = Vec::new();
    for (client, to) in &paths {
        fixture.answered(std::slice::from_ref(client), By::Http, *to).await?;
        traffic.push(client.keep_asking(By::Http, *to)?);
    }
    Ok(traffic)
}
