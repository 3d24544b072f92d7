//! What is written down when a scenario fails, before its namespace goes: the library's
//! dump, the lease, and the load balancers. The essence is part of the failure, the whole is in a file.

use std::{fmt::Write as _, fs};

use portico_e2e::portico;
use tokio::process::Command;

use super::scene::Scene;

/// Gathers it; gives the essence and the file's path. Whatever cannot be had is told in its place.
pub(crate) async fn gather(scene: &Scene, scenario: &str) -> String {
    let cluster = &scene.stage.cluster;
    let ours = scene.namespace.as_str();
    let mut essence = String::new();
    for args in [
        vec!["-n", ours, "get", "services,endpointslices,pods", "-o", "wide"],
        vec!["-n", ours, "get", "events", "--sort-by=.metadata.creationTimestamp"],
    ] {
        add(&mut essence, &format!("kubectl {}", args.join(" ")), cluster.kubectl(&args).await);
    }
    let mut whole = cluster.dump(ours).await;
    let args = ["-n", portico::NAMESPACE, "get", "leases", "-o", "yaml"];
    add(&mut whole, "leases", cluster.kubectl(&args).await);
    add(&mut whole, "load balancers", scene.stage.cloud.list().await.map(|list| format!("{list:#?}")));
    essence.push_str(&keep(scene, scenario, &whole));
    essence
}

fn add(text: &mut String, heading: &str, said: anyhow::Result<String>) {
    let said = said.unwrap_or_else(|error| format!("({error:#})"));
    let _always_fits = write!(text, "--- {heading}\n{}\n", said.trim_end());
}

fn keep(scene: &Scene, scenario: &str, whole: &str) -> String {
    let dir = scene.stage.cluster.home().path("evidence");
    let path = dir.join(format!("{}.txt", scene.namespace));
    let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, format!("{scenario}\n{whole}")));
    match written {
        Ok(()) => format!("--- all evidence: {}", path.display()),
        Err(error) => format!("--- evidence cannot be written to {}: {error}", path.display()),
    }
}

/// A node's ruleset as people read it.
pub(crate) async fn ruleset(node: &str) -> anyhow::Result<String> {
    nft(node, &["list", "ruleset"]).await
}

/// Runs nft on a node.
pub(crate) async fn nft(node: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{node}")).arg("nft").args(args);
    portico_e2e::process::output(&mut command).await
}
