//! Builders of the Kubernetes objects that scenarios make. Defaults are those of a well-behaved application: ready when it
//! answers, served by the test backend, and quick to end.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use serde_json::{Value, json};

/// Any image that the node agents' table does not know runs the project's test backend.
const BACKEND_IMAGE: &str = "portico.test/backend";

/// A Service whose selector is `app: <name>` where `spec` says none; `"selector": null` makes it selectorless.
pub fn mk_service(name: &str, mut spec: Value) -> anyhow::Result<Service> {
    if spec.get("selector").is_none() {
        spec["selector"] = json!({"app": name});
    }
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?)
}

/// Pods that run the test backend.
#[derive(Clone, Debug)]
#[must_use]
pub struct Workload {
    name: String,
    app: String,
    replicas: u32,
    node: Option<String>,
    ports: Vec<Value>,
    grace_seconds: u32,
    patch: Value,
}

impl Workload {
    /// One pod with label `app: <name>`, on any node, that serves nothing yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            app: name.to_owned(),
            replicas: 1,
            node: None,
            ports: Vec::new(),
            grace_seconds: 1,
            patch: json!({}),
        }
    }

    /// The usual one: HTTP on port 80.
    pub fn web(name: &str) -> Self {
        Self::new(name).port("http", 80, "TCP")
    }

    /// With another `app` label than the name.
    pub fn app(self, app: &str) -> Self {
        Self { app: app.to_owned(), ..self }
    }

    /// So many pods.
    pub fn replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// Only on this node.
    pub fn on(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }

    /// Serves a port, too.
    pub fn port(mut self, name: &str, port: u16, protocol: &str) -> Self {
        self.ports.push(json!({"name": name, "containerPort": port, "protocol": protocol}));
        self
    }

    /// Sets `terminationGracePeriodSeconds`.
    pub fn grace(self, seconds: u32) -> Self {
        Self { grace_seconds: seconds, ..self }
    }

    /// Fields of the container beyond those above; they win.
    pub fn container(self, fields: Value) -> Self {
        Self { patch: fields, ..self }
    }

    fn labels(&self) -> BTreeMap<&str, &str> {
        BTreeMap::from([("app", self.app.as_str()), ("workload", self.name.as_str())])
    }

    fn pod_spec(&self) -> Value {
        let first_tcp = self.ports.iter().find(|port| port["protocol"] == "TCP");
        let mut container = json!({"name": "backend", "image": BACKEND_IMAGE, "ports": self.ports});
        if let Some(port) = first_tcp {
            container["readinessProbe"] =
                json!({"httpGet": {"path": "/healthz", "port": port["containerPort"]}, "periodSeconds": 1});
        }
        for (field, value) in self.patch.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        let mut spec =
            json!({"terminationGracePeriodSeconds": self.grace_seconds, "containers": [container]});
        if let Some(node) = &self.node {
            spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        }
        spec
    }

    /// As a Deployment.
    pub fn deployment(&self) -> anyhow::Result<Deployment> {
        Ok(serde_json::from_value(json!({
            "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": self.labels()},
                "template": {"metadata": {"labels": self.labels()}, "spec": self.pod_spec()},
            },
        }))?)
    }

    /// As a single pod of that name.
    pub fn pod(&self) -> anyhow::Result<Pod> {
        let metadata = json!({"name": self.name, "labels": self.labels()});
        Ok(serde_json::from_value(json!({"metadata": metadata, "spec": self.pod_spec()}))?)
    }
}
