//! The chart's admission policies on the real API server: the fields that a tenant may write.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new("a tenant writes what it may, and the rest is refused at once", |s| {
        Box::pin(tenant(s))
    })]
}

/// Error or warnings of the API server to the tenant; empty: it accepted the object without a warning.
async fn refused(fixture: &Fixture, object: &Value) -> String {
    let applied = fixture
        .shared
        .cluster
        .kubectl_stdin(&["--as=tenant", "apply", "--warnings-as-errors", "-f", "-"], &object.to_string())
        .await;
    applied.err().map(|error| format!("{error:#}")).unwrap_or_default()
}

/// A user who may write Services and endpoints of this namespace, as an administrator of it may.
async fn admit(fixture: &Fixture) -> anyhow::Result<()> {
    let metadata = json!({"name": "tenant", "namespace": fixture.namespace});
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        {"apiGroups": [""], "resources": ["services", "endpoints"], "verbs": ["*"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["*"]},
    ]);
    let role =
        json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata, "rules": rules});
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "tenant"},
        "subjects": [{"kind": "User", "name": "tenant", "apiGroup": group}],
    });
    for object in [role, binding] {
        fixture.shared.cluster.apply(&object.to_string()).await?;
    }
    Ok(())
}

async fn tenant(fixture: &Fixture) -> anyhow::Result<()> {
    admit(fixture).await?;
    let service = |name: &str, annotations: Value| {
        let metadata = json!({"name": name, "namespace": fixture.namespace, "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}})
    };
    let slice = |name: &str, address: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": fixture.namespace}, "endpoints": [{"addresses": [address]}],
        })
    };
    let endpoints = |name: &str, address: &str| {
        let subsets = json!([{"addresses": [{"ip": address}], "ports": [{"port": 80}]}]);
        let metadata = json!({"name": name, "namespace": fixture.namespace});
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets})
    };
    // A policy takes effect a moment after it was made.
    fixture
        .eventually("the policies", async || {
            let refusal =
                refused(fixture, &service("early", json!({"portico.dev/scheme": "sideways"}))).await;
            ensure!(refusal.contains("portico.dev/scheme must be external or internal"), "{refusal}");
            Ok(())
        })
        .await?;
    for (object, says) in [
        (
            service(
                "fine",
                json!({"portico.dev/scheme": "internal", "portico.dev/addresses": "192.0.2.1, 2001:db8::1,"}),
            ),
            "",
        ),
        (service("empty", json!({"portico.dev/scheme": ""})), ""),
        (
            service("kind", json!({"portico.dev/target-kind": "vm"})),
            "portico.dev/target-kind must be node or pod",
        ),
        (
            service("where", json!({"portico.dev/addresses": "here"})),
            "portico.dev/addresses must be addresses",
        ),
        (
            service("held", json!({"portico.dev/held-by": "foo"})),
            "annotation portico.dev/held-by needs leave",
        ),
        (slice("pod", "10.1.0.1"), ""),
        (slice("node", "172.30.1.1"), "operator.admission.protectedCIDRs"),
        (endpoints("node", "172.30.1.1"), "operator.admission.protectedCIDRs"),
    ] {
        let refusal = refused(fixture, &object).await;
        ensure!(
            if says.is_empty() { refusal.is_empty() } else { refusal.contains(says) },
            "{object}: {refusal}"
        );
    }
    // What an administrator wrote stays, and the tenant can go on with the object.
    fixture.shared.cluster.apply(&service("kept", json!({"portico.dev/held-by": "foo"})).to_string()).await?;
    let refusal =
        refused(fixture, &service("kept", json!({"portico.dev/held-by": "foo", "example.com/own": "1"})))
            .await;
    ensure!(refusal.is_empty(), "{refusal}");
    let refusal = refused(fixture, &service("kept", json!({"portico.dev/held-by": "bar"}))).await;
    ensure!(refusal.contains("needs leave"), "{refusal}");
    Ok(())
}
