//! The node proxy killed, restarted and stopped: traffic does not notice, and the kernel's rules are not written again.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use nix::sys::signal::{Signal, kill};
use portico_e2e::{
    portico::NAMESPACE,
    scenario::{
        objects::{Workload, mk_service},
        observe,
        processes::{process, processes},
        traffic::{By, Traffic},
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use super::{
    Fixture, Scenario, nft,
    release::{self, NODE_PROXY},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::exclusive(
            "a node proxy killed and restarted under traffic fails no request and rewrites no rule",
            |s| Box::pin(killed(s)),
        ),
        Scenario::exclusive("a node proxy that was away learns what changed meanwhile", |s| {
            Box::pin(away(s))
        }),
        Scenario::exclusive("traffic goes on without a node proxy", |s| Box::pin(stopped(s))),
    ]
}

/// Requests without end from a pod, a node and outside, through ClusterIP, node port and load balancer.
async fn traffic(fixture: &Fixture) -> anyhow::Result<Vec<Traffic>> {
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    let balancer = fixture.provisioned("web").await?;
    let service = fixture.service("web").await?;
    let cluster_ip = observe::cluster_ip(&service, 0)?;
    let node_port = observe::node_port(&service, 0).context("no node port")?;
    let on_node = (fixture.shared.cluster.nodes()[0].address, node_port).into();
    let mut streams = Vec::new();
    for (client, to) in [
        (fixture.pod(), cluster_ip),
        (fixture.node("node-1"), cluster_ip),
        (fixture.outside(), on_node),
        (fixture.outside(), balancer),
    ] {
        fixture.answered(std::slice::from_ref(&client), By::Http, to).await?;
        streams.push(client.keep_asking(By::Http, to)?);
    }
    Ok(streams)
}

/// Every change of a node's nf_tables, as the kernel announces it.
struct Monitor {
    child: Child,
    reader: JoinHandle<anyhow::Result<String>>,
}

impl Monitor {
    /// Listens, and has heard a change of its own making when this returns.
    async fn start(node: &str) -> anyhow::Result<Self> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{node}"))
            .args(["stdbuf", "-oL", "nft", "monitor"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting nft monitor")?;
        let mut lines = BufReader::new(child.stdout.take().context("nft monitor without stdout")?);
        let listening = async {
            let mut line = String::new();
            while !line.contains("monitor-is-listening") {
                line.clear();
                nft::run(node, &["add", "table", "ip", "monitor-is-listening"]).await?;
                nft::run(node, &["delete", "table", "ip", "monitor-is-listening"]).await?;
                let read =
                    tokio::time::timeout(std::time::Duration::from_millis(200), lines.read_line(&mut line));
                if let Ok(read) = read.await {
                    ensure!(read.context("reading nft monitor")? > 0, "nft monitor ended");
                }
            }
            Ok(())
        };
        listening.await?;
        let reader = tokio::spawn(async move {
            let mut rest = String::new();
            lines.read_to_string(&mut rest).await.context("reading nft monitor")?;
            Ok(rest)
        });
        Ok(Self { child, reader })
    }

    /// Changes of the ruleset, apart from the monitor's own table.
    async fn stop(mut self, node: &str) -> anyhow::Result<Vec<String>> {
        // What is announced in order ends with a change that is known.
        nft::run(node, &["add", "table", "ip", "monitor-ends"]).await?;
        nft::run(node, &["delete", "table", "ip", "monitor-ends"]).await?;
        self.child.start_kill().context("ending nft monitor")?;
        self.child.wait().await.context("waiting for nft monitor")?;
        let heard = self.reader.await.context("reading nft monitor")??;
        let own = |line: &&str| !line.contains("monitor-") && !line.starts_with('#');
        Ok(heard.lines().filter(own).map(str::to_owned).collect())
    }
}

async fn killed(fixture: &Fixture) -> anyhow::Result<()> {
    let streams = traffic(fixture).await?;
    let monitor = Monitor::start("node-1").await?;
    let rules = rules("node-1").await?;
    for _time in 0..2 {
        let before = process(NODE_PROXY, "node-1")?;
        kill(before, Signal::SIGKILL).context("killing the node proxy")?;
        fixture
            .eventually("the node proxy is back", async || {
                ensure!(process(NODE_PROXY, "node-1")? != before, "not yet killed");
                Ok(())
            })
            .await?;
        synced(fixture, "node-1").await?;
    }
    let changes = monitor.stop("node-1").await?;
    ensure!(
        changes.is_empty(),
        "the restarted node proxy wrote what was right already:\n{}",
        changes.join("\n")
    );
    let after = self::rules("node-1").await?;
    ensure!(after == rules, "the ruleset changed from\n{rules}\nto\n{after}");
    for stream in streams {
        stream.stop(100).await?;
    }
    Ok(())
}

/// Waits until a node's proxy says that its rules are as they should be.
async fn synced(fixture: &Fixture, node: &str) -> anyhow::Result<()> {
    let address =
        fixture.shared.cluster.nodes().iter().find(|host| host.name == node).context("no such node")?.address;
    let http = reqwest::Client::new();
    fixture
        .eventually("the node proxy is healthy", async || {
            let answer = http.get(format!("http://{address}:10256/healthz")).send().await?;
            let status = answer.status();
            ensure!(status.is_success(), "{status}: {}", answer.text().await.unwrap_or_default());
            Ok(())
        })
        .await
}

/// A node's rules and the fixed elements of its maps; what the packets themselves add and remove (affinity) is left out.
async fn rules(node: &str) -> anyhow::Result<String> {
    let text = nft::run(node, &["--json", "--stateless", "list", "ruleset"]).await?;
    let mut listed: Value = serde_json::from_str(&text).context("nft's JSON")?;
    for object in listed["nftables"].as_array_mut().into_iter().flatten() {
        for kind in ["set", "map"] {
            let of_packets = object[kind]["flags"]
                .as_array()
                .is_some_and(|flags| flags.iter().any(|flag| flag == "dynamic" || flag == "timeout"));
            if of_packets {
                object[kind]["elem"] = Value::Null;
            }
        }
    }
    serde_json::to_string_pretty(&listed).context("printing the rules")
}

/// Takes the node proxy off every node, by a node selector that no node has; or puts it back.
async fn select_nodes(fixture: &Fixture, label: Value) -> anyhow::Result<()> {
    let sets = Api::<DaemonSet>::namespaced(fixture.shared.cluster.client(), NAMESPACE);
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": {"portico.test/nowhere": label}}}}});
    sets.patch("portico-nodeproxy", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Stops every node proxy, the way an administrator would, and waits until none runs.
async fn stop_all(fixture: &Fixture) -> anyhow::Result<()> {
    select_nodes(fixture, json!("yes")).await?;
    fixture
        .eventually("no node proxy runs", async || {
            for node in fixture.shared.node_names() {
                let running = processes(NODE_PROXY, &node)?;
                ensure!(running.is_empty(), "{running:?} on {node}");
            }
            Ok(())
        })
        .await
}

/// Starts every node proxy again, and waits until each has synced.
async fn start_all(fixture: &Fixture) -> anyhow::Result<()> {
    select_nodes(fixture, Value::Null).await?;
    fixture
        .eventually("a node proxy runs on each node", async || {
            fixture.shared.node_names().iter().try_for_each(|node| process(NODE_PROXY, node).map(drop))
        })
        .await?;
    for node in fixture.shared.node_names() {
        synced(fixture, &node).await?;
    }
    release::all_ready(&fixture.shared.cluster).await
}

async fn stopped(fixture: &Fixture) -> anyhow::Result<()> {
    let streams = traffic(fixture).await?;
    stop_all(fixture).await?;
    // Fresh connections on every path, with no proxy anywhere.
    let service = fixture.service("web").await?;
    let reached = async {
        for client in fixture.insiders() {
            client.answers(By::Http, observe::cluster_ip(&service, 0)?, 20).await?;
        }
        anyhow::Ok(())
    };
    let reached = reached.await.context("without a node proxy");
    start_all(fixture).await?;
    reached?;
    for stream in streams {
        stream.stop(100).await?;
    }
    Ok(())
}

async fn away(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("stays")).await?;
    fixture.deploy(&Workload::web("deleted")).await?;
    let stays = fixture.create(&mk_service("stays", json!({"ports": [{"port": 80}]}))?).await?;
    let deleted = fixture.create(&mk_service("deleted", json!({"ports": [{"port": 80}]}))?).await?;
    let (stays, deleted) = (observe::cluster_ip(&stays, 0)?, observe::cluster_ip(&deleted, 0)?);
    for to in [stays, deleted] {
        fixture.answered(&fixture.insiders(), By::Http, to).await?;
    }
    stop_all(fixture).await?;
    let changed = async {
        fixture.delete::<k8s_openapi::api::core::v1::Service>("deleted").await?;
        let comes = fixture
            .create(&mk_service("created", json!({"selector": {"app": "deleted"}, "ports": [{"port": 80}]}))?)
            .await?;
        observe::cluster_ip(&comes, 0)
    };
    let comes = changed.await;
    start_all(fixture).await?;
    let comes = comes?;
    for client in fixture.insiders() {
        client.answers(By::Http, stays, 5).await.context("what stayed")?;
        client.answers(By::Http, comes, 5).await.context("what came while the proxy was away")?;
        client.hears_nothing(By::Http, deleted).await.context("what went while the proxy was away")?;
    }
    Ok(())
}
