//! Portico's own installation, the way a user does it: the chart rendered by helm, applied by kubectl. What runs then are
//! pods of the chart's Deployment and `DaemonSet`, with the chart's service accounts and exactly its RBAC.

pub mod release;

use std::fmt;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster::Cluster,
    fabric::{CONTROL_PLANE, LOAD_BALANCER, POD_CIDR, POD_CIDR_V6},
    load_balancer,
    process::output,
    tools::Tools,
};

/// The namespace that Portico is installed to.
pub const NAMESPACE: &str = "portico-system";

/// The Secret with the load balancer's token.
const TOKEN_SECRET: &str = "portico-lb";

/// Which provider the operator uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// portico-lb, on a host of its own beside the nodes.
    Local,
    /// NodePort only.
    BareMetal,
}

/// Which parts are installed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Whether the operator is installed, and with which provider.
    pub operator: Option<Provider>,
    /// Whether the node proxy is installed.
    pub nodeproxy: bool,
    /// Values of the chart that differ from the cluster's own, merged over these.
    pub values: Value,
}

impl Default for Parts {
    fn default() -> Self {
        Self { operator: Some(Provider::Local), nodeproxy: true, values: json!({}) }
    }
}

impl Parts {
    /// Whether nothing is installed.
    pub fn is_empty(&self) -> bool {
        self.operator.is_none() && !self.nodeproxy
    }

    /// Whether portico-lb must run.
    pub fn needs_load_balancer(&self) -> bool {
        self.operator == Some(Provider::Local)
    }

    /// The chart's values for this cluster.
    fn values(&self) -> Value {
        let Self { operator, nodeproxy, values } = self;
        let provider = match operator {
            Some(Provider::BareMetal) => "bare-metal",
            Some(Provider::Local) | None => "local",
        };
        let mut all = json!({
            "kubernetesApi": {"host": CONTROL_PLANE, "port": 6443},
            "operator": {
                "enabled": operator.is_some(),
                "provider": provider,
                "defaultClass": true,
                "local": {
                    "endpoint": format!("http://{LOAD_BALANCER}:{}", load_balancer::PORT),
                    "tokenSecret": {"name": TOKEN_SECRET},
                },
                "logFormat": "human",
            },
            "nodeproxy": {"enabled": nodeproxy, "clusterCIDR": format!("{POD_CIDR},{POD_CIDR_V6}"), "logFormat": "human"},
        });
        merge(&mut all, values);
        all
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operator, nodeproxy, values: _ } = self;
        match operator {
            Some(Provider::Local) => f.write_str("operator (provider local)")?,
            Some(Provider::BareMetal) => f.write_str("operator (provider bare-metal)")?,
            None => f.write_str("no operator")?,
        }
        f.write_str(if *nodeproxy { ", node proxy on every node" } else { ", no node proxy" })
    }
}

/// Installs `parts` and waits until their pods are ready. Doing it again with other parts or values changes the
/// installation, as `helm upgrade` would.
pub async fn install(cluster: &Cluster, parts: &Parts, token: Option<&str>) -> anyhow::Result<()> {
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
    let manifest = render(cluster.tools(), cluster, parts).await?;
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
async fn render(tools: &Tools, cluster: &Cluster, parts: &Parts) -> anyhow::Result<String> {
    tools.check(&[&tools.helm()])?;
    let values = cluster.home().path("values.json");
    std::fs::write(&values, serde_json::to_vec_pretty(&parts.values())?)
        .with_context(|| format!("writing {}", values.display()))?;
    let mut helm = Command::new(tools.helm());
    helm.args(["template", "portico"])
        .arg(tools.chart())
        .args(["--namespace", NAMESPACE, "--kube-version", "1.36.3", "--include-crds", "--values"])
        .arg(&values)
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

/// Merges `over` into `base`: objects key by key, anything else replaces.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => base.clone_from(over),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_values_are_merged_over_the_clusters_own() {
        let parts = Parts { values: json!({"operator": {"replicas": 1}}), ..Parts::default() };
        let values = parts.values();
        assert_eq!(values["operator"]["replicas"], 1);
        assert_eq!(values["operator"]["provider"], "local");
    }
}
