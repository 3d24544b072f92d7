//! Manifests that Kubernetes' tests need beside a node proxy: DNS for Services, by `CoreDNS`, and nodes in zones.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{cluster::Cluster, fabric::CLUSTER_DNS};

/// Puts each node into a zone of its own: traffic-distribution tests need more than one.
pub(super) async fn zones(cluster: &Cluster) -> anyhow::Result<()> {
    for (number, node) in cluster.nodes().iter().enumerate() {
        let zone = format!("topology.kubernetes.io/zone=zone-{number}");
        cluster.kubectl(&["label", "node", &node.name, &zone]).await?;
    }
    Ok(())
}

/// Installs `CoreDNS` as Service `kube-dns` and waits until it is ready.
pub(super) async fn dns(cluster: &Cluster) -> anyhow::Result<()> {
    let all = json!({"apiVersion": "v1", "kind": "List", "items": dns_objects()});
    cluster.apply(&all.to_string()).await.context("installing CoreDNS")?;
    let args = ["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s"];
    cluster.kubectl(&args).await.context("CoreDNS did not get ready").map(drop)
}

const COREFILE: &str = ".:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
}
";

fn dns_objects() -> Vec<Value> {
    let named = |kind: &str, api: &str, name: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
    let mut objects = Vec::new();
    let mut add = |mut object: Value, namespaced: bool, rest: Value| {
        if namespaced {
            object["metadata"]["namespace"] = json!("kube-system");
        }
        if let (Value::Object(object), Value::Object(rest)) = (&mut object, rest) {
            object.extend(rest);
        }
        objects.push(object);
    };
    add(named("ServiceAccount", "v1", "coredns"), true, json!({}));
    let rbac = "rbac.authorization.k8s.io/v1";
    let core = json!({"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]});
    let slices = json!({"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]});
    add(named("ClusterRole", rbac, "system:coredns"), false, json!({"rules": [core, slices]}));
    add(
        named("ClusterRoleBinding", rbac, "system:coredns"),
        false,
        json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        }),
    );
    add(named("ConfigMap", "v1", "coredns"), true, json!({"data": {"Corefile": COREFILE}}));
    add(named("Deployment", "apps/v1", "coredns"), true, json!({"spec": deployment()}));
    let mut service = named("Service", "v1", "kube-dns");
    service["metadata"]["labels"] = json!({"k8s-app": "kube-dns"});
    add(
        service,
        true,
        json!({"spec": {
            "selector": {"k8s-app": "kube-dns"},
            "clusterIP": CLUSTER_DNS,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        }}),
    );
    objects
}

fn deployment() -> Value {
    let labels = json!({"k8s-app": "kube-dns"});
    json!({
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "serviceAccountName": "coredns",
                "dnsPolicy": "Default",
                "containers": [{
                    "name": "coredns",
                    "image": "coredns",
                    "args": ["-conf", "/etc/coredns/Corefile"],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}},
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
                }],
                "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
            },
        },
    })
}
