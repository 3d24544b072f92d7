//! Portico's own installation, the way a user does it: the chart rendered by helm, applied by kubectl. Portico then runs as
//! pods of the chart's Deployment and `DaemonSet`, with the chart's service accounts and exactly its RBAC.

pub mod parts;
pub mod release;

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use tokio::process::Command;

use self::parts::TOKEN_SECRET;
use crate::{cluster::Cluster, home::Home, process::output, tools::Tools};

pub use self::parts::{Parts, Provider};

/// The namespace that Portico is installed to.
pub const NAMESPACE: &str = "portico-system";

/// File of a cluster's home with the chart's values for that cluster.
const VALUES: &str = "values.json";

/// Creates the namespace of `parts` and the Secret with the load balancer's token, and writes their values.
pub async fn prepare(cluster: &Cluster, parts: &Parts, token: Option<&str>) -> anyhow::Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    cluster.apply(&namespace.to_string()).await?;
    if let Some(token) = token {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": TOKEN_SECRET, "namespace": NAMESPACE},
            "stringData": {"token": token},
        });
        cluster.apply(&secret.to_string()).await?;
    }
    let values = values(cluster.home());
    std::fs::write(&values, serde_json::to_vec_pretty(&parts.values())?)
        .with_context(|| format!("writing {}", values.display()))
}

/// The file that [`prepare`] writes, for `helm install --values`.
pub fn values(home: &Home) -> PathBuf {
    home.path(VALUES)
}

/// Installs `parts` and waits until their pods are ready. Doing it again with other parts or values changes the
/// installation, as `helm upgrade` would.
pub async fn install(cluster: &Cluster, parts: &Parts, token: Option<&str>) -> anyhow::Result<()> {
    prepare(cluster, parts, token).await?;
    let manifest = render(cluster.tools(), cluster).await?;
    cluster.apply(&manifest).await.context("applying the chart")?;
    if parts.nodeproxy {
        rolled_out(cluster, "daemonset/portico-nodeproxy").await?;
    }
    if parts.operator.is_some() {
        rolled_out(cluster, "deployment/portico-operator").await?;
    }
    Ok(())
}

/// The chart as helm renders it.
async fn render(tools: &Tools, cluster: &Cluster) -> anyhow::Result<String> {
    tools.check(&[&tools.helm()])?;
    let mut helm = Command::new(tools.helm());
    helm.args(["template", "portico"])
        .arg(tools.chart())
        .args(["--namespace", NAMESPACE, "--kube-version", "1.36.3", "--include-crds", "--values"])
        .arg(values(cluster.home()))
        .env("HOME", cluster.home().dir()); // its caches
    output(&mut helm).await.context("rendering the chart")
}

/// Waits until a workload's pods are those of its newest template, and ready.
pub async fn rolled_out(cluster: &Cluster, workload: &str) -> anyhow::Result<()> {
    let args = ["-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s"];
    if let Err(error) = cluster.kubectl(&args).await {
        let pods = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "wide"]).await?;
        let events = cluster.kubectl(&["-n", NAMESPACE, "get", "events"]).await?;
        return Err(error.context(format!("{workload} did not roll out\n{pods}\n{events}")));
    }
    Ok(())
}
