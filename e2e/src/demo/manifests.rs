//! Any manifest: applied, waited for, and every Service of it with ready endpoints asked on every address that it has.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::{addresses::ingress, probing};
use crate::{account::Account, cluster::Cluster};

/// How long workloads may take to be ready, and load balancers to have an address.
const DEADLINE: Duration = Duration::from_mins(2);

/// Applies the manifests, and sends requests to every Service with ready endpoints.
pub(super) async fn play(cluster: &Cluster, account: &Account, path: &Path) -> anyhow::Result<()> {
    let manifest = fs::read_to_string(path).with_context(|| format!("--manifests {}", path.display()))?;
    account.step(format!("applying {}", path.display()));
    let applied = cluster.apply(&manifest).await?;
    account.detail(applied.trim_end());
    for object in objects(cluster, &manifest).await? {
        wait_for(cluster, &object).await?;
    }
    account.step("its workloads are ready");
    let services = services(cluster, &manifest).await?;
    if services.is_empty() {
        bail!("--manifests {}: there is no Service in it", path.display());
    }
    let mut asked = 0;
    for service in services {
        let service = settled(cluster, &service).await?;
        account.line("");
        let type_ = service.spec.as_ref().and_then(|spec| spec.type_.clone()).unwrap_or_default();
        account.step(format!(
            "Service {}/{}: {type_}",
            service.namespace().unwrap_or_default(),
            service.name_any()
        ));
        asked += probing::ask_all(cluster, account, &service, false).await?;
    }
    account.line("");
    account.step(format!("{asked} addresses answered"));
    Ok(())
}

/// Waits until an object that makes pods, or is one, has them ready.
async fn wait_for(cluster: &Cluster, object: &Value) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&object["kind"]).to_lowercase();
    let name = format!("{kind}/{}", text(&object["metadata"]["name"]));
    let namespace = text(&object["metadata"]["namespace"]);
    let args: &[&str] = match kind.as_str() {
        "deployment" | "daemonset" | "statefulset" => &["rollout", "status", "--timeout=120s"],
        "pod" => &["wait", "--for=condition=Ready", "--timeout=120s"],
        _ => return Ok(()),
    };
    let args: Vec<&str> = args.iter().copied().chain(["-n", &namespace, &name]).collect();
    cluster.kubectl(&args).await.with_context(|| format!("waiting for {name} in {namespace}"))?;
    Ok(())
}

/// The objects of a manifest as they are in the cluster.
async fn objects(cluster: &Cluster, manifest: &str) -> anyhow::Result<Vec<Value>> {
    let text = cluster.kubectl_stdin(&["get", "-f", "-", "-o", "json"], manifest).await?;
    let mut list: Value = serde_json::from_str(&text).context("reading what kubectl says")?;
    Ok(match list["items"].take() {
        Value::Array(items) => items,
        _ => vec![list], // a manifest of one object
    })
}

async fn services(cluster: &Cluster, manifest: &str) -> anyhow::Result<Vec<Service>> {
    let objects = objects(cluster, manifest).await?;
    let services = objects.into_iter().filter(|object| object["kind"] == "Service");
    services.map(|object| serde_json::from_value(object).context("reading a Service")).collect()
}

/// The Service once its endpoints are there (where its pods are) and its load balancer has an address.
async fn settled(cluster: &Cluster, service: &Service) -> anyhow::Result<Service> {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let api = Api::<Service>::namespaced(cluster.client(), &namespace);
    cluster
        .eventually(&format!("Service {namespace}/{name} is complete"), DEADLINE, async || {
            let service = api.get(&name).await?;
            let is_ours = is_load_balancer(&service);
            ensure!(!is_ours || !ingress(&service).is_empty(), "no address in status.loadBalancer");
            Ok(service)
        })
        .await
}

/// Whether Portico is to give it an address: no class, or one of ours.
fn is_load_balancer(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        let class = spec.load_balancer_class.as_deref();
        spec.type_.as_deref() == Some("LoadBalancer")
            && class.is_none_or(|class| class == "portico.dev/local")
    })
}
