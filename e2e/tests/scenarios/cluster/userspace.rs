//! The userspace proxy: NodePorts on localhost beside the nftables dataplane, and the whole cluster carried by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, ensure};
use portico_e2e::{
    portico,
    scenario::{
        objects::{Workload, mk_service},
        observe,
        traffic::{By, Silence},
    },
};
use serde_json::json;

use super::{Fixture, Scenario, release, setup};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a node port answers on localhost of each node, over both families", |s| {
            Box::pin(localhost(s))
        }),
        Scenario::exclusive(
            "the userspace dataplane carries every kind of service, and gives way again",
            |s| Box::pin(userspace(s)),
        ),
    ]
}

async fn localhost(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    let spec = json!({
        "type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}],
        "externalTrafficPolicy": "Local",
    });
    let service = fixture.create(&mk_service("web", spec)?).await?;
    let port = observe::node_port(&service, 0).context("no node port")?;
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    for node in fixture.shared.node_names() {
        for address in loopback {
            fixture.answered(&[fixture.node(&node)], By::Http, SocketAddr::new(address, port)).await?;
        }
    }
    fixture.delete::<k8s_openapi::api::core::v1::Service>("web").await?;
    for address in loopback {
        let to = SocketAddr::new(address, port);
        fixture.silent(&[fixture.node("node-1")], By::Http, to, Silence::Refused).await?;
    }
    Ok(())
}

async fn userspace(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").port("udp", 81, "UDP").replicas(2)).await?;
    let ports = json!([
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "udp", "port": 81, "protocol": "UDP"},
    ]);
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": ports}))?).await?;
    let balancer = fixture.provisioned("web").await?;
    let mut changed = setup::parts();
    changed.values["nodeproxy"]["dataplane"] = json!("userspace");
    portico::install(&fixture.shared.cluster, &changed, None).await.context("changing the dataplane")?;
    let carried = carried(fixture, balancer).await;
    portico::install(&fixture.shared.cluster, &setup::parts(), None).await.context("changing it back")?;
    release::all_ready(&fixture.shared.cluster).await?;
    carried?;
    let service = fixture.service("web").await?;
    fixture.answered(&fixture.insiders(), By::Http, observe::cluster_ip(&service, 0)?).await.map(drop)
}

/// Checks the answers of all clients through the userspace proxies, and the addresses that pods see.
async fn carried(fixture: &Fixture, balancer: SocketAddr) -> anyhow::Result<()> {
    let service = fixture.service("web").await?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let nodes: Vec<_> =
        fixture.shared.cluster.nodes().iter().map(|node| IpAddr::from(node.address)).collect();
    let on_node = SocketAddr::new(nodes[0], node_port);
    let (http, udp) = (observe::cluster_ip(&service, 0)?, observe::cluster_ip(&service, 1)?);
    let mut answers = fixture.answered(&fixture.insiders(), By::Http, http).await?;
    answers.extend(fixture.answered(&fixture.insiders(), By::Udp, udp).await?);
    answers.extend(fixture.answered(&fixture.everybody(), By::Http, on_node).await?);
    fixture.answered(&[fixture.outside()], By::Http, balancer).await?;
    for answer in answers {
        let client = answer.client.ip().to_canonical();
        // A pod on the same node as the proxy may see the node by any of its addresses, but never another pod.
        ensure!(!is_pod(client), "{} saw the pod {client}, and not a node", answer.pod);
    }
    // Pods come and go under connections that go on; then there is none, and then one again.
    let traffic = fixture.pod().keep_asking(By::Http, http)?;
    for replicas in [4, 1, 2] {
        fixture.scale("web", replicas).await?;
        fixture.rolled_out("web").await?;
    }
    traffic.stop(100).await?;
    fixture.scale("web", 0).await?;
    fixture.silent(&fixture.insiders(), By::Http, http, Silence::Refused).await?;
    fixture.scale("web", 1).await?;
    fixture.answered(&fixture.insiders(), By::Http, http).await.map(drop)
}

/// Whether an address is of the cluster's pods, whose first address on each node is the node's own.
fn is_pod(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, _, d] = address.octets();
            (a, b) == (10, 244) && d > 1
        }
        IpAddr::V6(_) => false,
    }
}
