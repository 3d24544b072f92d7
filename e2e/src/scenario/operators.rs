//! The operator's pods of one release: which of them leads, and signals to their processes.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, api::ListParams};
use nix::sys::signal::{Signal, kill};

use super::processes::{process, processes};
use crate::{cluster::Cluster, portico::NAMESPACE};

/// The operator's program.
const OPERATOR: &str = "portico-operator";

/// Names of a release's operator pods that are not being deleted.
pub async fn pods(cluster: &Cluster, release: &str) -> anyhow::Result<Vec<String>> {
    let selector = format!("app.kubernetes.io/component=operator,app.kubernetes.io/instance={release}");
    let pods = Api::<Pod>::namespaced(cluster.client(), NAMESPACE);
    let found = pods.list(&ListParams::default().labels(&selector)).await?;
    let staying = found.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(staying.filter_map(|pod| pod.metadata.name).collect())
}

/// The pod that holds a release's lease.
pub async fn leader(cluster: &Cluster, release: &str) -> anyhow::Result<String> {
    let name = format!("{release}-operator");
    let lease = Api::<Lease>::namespaced(cluster.client(), NAMESPACE).get(&name).await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    let pods = pods(cluster, release).await?;
    let leading = pods.into_iter().find(|pod| !holder.is_empty() && holder.starts_with(pod.as_str()));
    leading.with_context(|| format!("the lease is held by {holder:?}, which is no running operator"))
}

/// Sends a signal to the operator of a pod.
pub fn signal(pod: &str, signal: Signal) -> anyhow::Result<()> {
    let pid = process(OPERATOR, &format!("{NAMESPACE}_{pod}"))?;
    kill(pid, signal).with_context(|| format!("{signal} to the operator of {pod}"))
}

/// Whether the operator of a pod runs; one that is stopped by a signal does.
pub fn runs(pod: &str) -> anyhow::Result<bool> {
    Ok(!processes(OPERATOR, &format!("{NAMESPACE}_{pod}"))?.is_empty())
}

/// SIGKILLs every operator of a release: the leader ends in the middle of its work.
pub async fn kill_all(cluster: &Cluster, release: &str) -> anyhow::Result<()> {
    let pods = pods(cluster, release).await?;
    ensure!(!pods.is_empty(), "no operator runs");
    pods.iter().try_for_each(|pod| signal(pod, Signal::SIGKILL))
}
