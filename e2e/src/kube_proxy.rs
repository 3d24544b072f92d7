//! kube-proxy as clusters run it, a `DaemonSet` on the nodes' own network: the control of `conformance`, and the proxy that
//! Portico replaces.

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster::Cluster,
    fabric::{CONTROL_PLANE, POD_CIDR},
    process::output,
};

/// Installs it and waits until it runs on every node.
pub async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "kube-proxy"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"kind": "ServiceAccount", "name": "kube-proxy", "namespace": "kube-system"}],
    });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"k8s-app": "kube-proxy"}},
            "template": {"metadata": {"labels": {"k8s-app": "kube-proxy"}}, "spec": pod()},
        },
    });
    let all = json!({"apiVersion": "v1", "kind": "List", "items": [account, binding, set]});
    cluster.apply(&all.to_string()).await.context("installing kube-proxy")?;
    let args = ["-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=120s"];
    cluster.kubectl(&args).await.context("kube-proxy did not get ready").map(drop)
}

/// Deletes it, waits until it has ended on every node, and removes its rules there.
pub async fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    let delete =
        ["-n", "kube-system", "delete", "daemonset/kube-proxy", "--cascade=foreground", "--timeout=60s"];
    cluster.kubectl(&delete).await.context("deleting kube-proxy")?;
    for node in cluster.nodes() {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", node.name)).arg(cluster.tools().controlplane());
        command.args(["kube-proxy", "--cleanup", "--proxy-mode=nftables"]);
        output(&mut command)
            .await
            .with_context(|| format!("removing kube-proxy's rules from {}", node.name))?;
    }
    Ok(())
}

fn pod() -> Value {
    json!({
        "serviceAccountName": "kube-proxy",
        "hostNetwork": true,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{
            "name": "kube-proxy",
            "image": "kube-proxy",
            "securityContext": {"privileged": true},
            "env": [
                {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                // Not through the API server's VIP: that is what the proxy is there to serve.
                {"name": "KUBERNETES_SERVICE_HOST", "value": CONTROL_PLANE.to_string()},
                {"name": "KUBERNETES_SERVICE_PORT", "value": "6443"},
            ],
            "args": [
                "--proxy-mode=nftables", "--hostname-override=$(NODE_NAME)", format!("--cluster-cidr={POD_CIDR}"),
                // The machine's own: a node here may not change it. The timeouts are the node's, and kube-proxy sets them.
                "--conntrack-max-per-core=0",
            ],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 10256}},
        }],
    })
}
