//! The operators' pods: who leads, and ending a leader at once.

use anyhow::Context as _;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, api::ListParams};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use portico_e2e::portico::NAMESPACE;

use super::{site::Cloud, stage::Stage};

#[path = "../cluster/parts/processes.rs"]
mod processes;

/// Names of a cloud's operators that are not on their way out.
pub(crate) async fn pods(stage: &Stage, cloud: Cloud) -> anyhow::Result<Vec<String>> {
    let selector =
        format!("app.kubernetes.io/component=operator,app.kubernetes.io/instance={}", cloud.release());
    let pods = Api::<Pod>::namespaced(stage.cluster.client(), NAMESPACE);
    let found = pods.list(&ListParams::default().labels(&selector)).await?;
    let staying = found.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(staying.filter_map(|pod| pod.metadata.name).collect())
}

/// The pod whose operator leads.
pub(crate) async fn leader(stage: &Stage, cloud: Cloud) -> anyhow::Result<String> {
    let name = format!("{}-operator", cloud.release());
    let lease = Api::<Lease>::namespaced(stage.cluster.client(), NAMESPACE).get(&name).await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    let leading =
        pods(stage, cloud).await?.into_iter().find(|pod| !holder.is_empty() && holder.starts_with(pod));
    leading.with_context(|| format!("the lease is held by {holder:?}, which is no running operator"))
}

/// SIGKILLs the operator of a pod.
pub(crate) fn kill_at_once(pod: &str) -> anyhow::Result<()> {
    let pid: Pid = processes::process("portico-operator", &format!("{NAMESPACE}_{pod}"))?;
    kill(pid, Signal::SIGKILL).with_context(|| format!("killing the operator of {pod}"))
}
