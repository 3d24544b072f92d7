//! Portico's running parts as processes: signalling and replacing them. Finding them is `parts/processes`.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, api::ListParams};
use nix::sys::signal::{Signal, kill};
use portico_e2e::portico::{self, NAMESPACE};

use super::stage::Stage;

mod processes;

pub(crate) use processes::{process, processes};

/// The operator's program.
pub(crate) const OPERATOR: &str = "portico-operator";
/// The node proxy's program.
pub(crate) const NODE_PROXY: &str = "portico-nodeproxy";

/// The lease that operators lead by.
const LEASE: &str = "portico-operator";

/// `--lease-duration`: after so long without renewal another operator may lead.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(15);

/// Sends a signal to the operator of a pod.
pub(crate) fn signal_operator(pod: &str, signal: Signal) -> anyhow::Result<()> {
    let pid = process(OPERATOR, &format!("{NAMESPACE}_{pod}"))?;
    kill(pid, signal).with_context(|| format!("{signal} to the operator of {pod}"))
}

/// Whether the operator of a pod runs, hanging or not.
pub(crate) fn operator_runs(pod: &str) -> anyhow::Result<bool> {
    Ok(!processes(OPERATOR, &format!("{NAMESPACE}_{pod}"))?.is_empty())
}

/// Names of the operator's pods that are not on their way out.
pub(crate) async fn operators(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let pods = Api::<Pod>::namespaced(stage.cluster.client(), NAMESPACE);
    let of_operator = ListParams::default().labels("app.kubernetes.io/component=operator");
    let staying =
        pods.list(&of_operator).await?.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(staying.filter_map(|pod| pod.metadata.name).collect())
}

/// The pod whose operator leads.
pub(crate) async fn leader(stage: &Stage) -> anyhow::Result<String> {
    let lease = Api::<Lease>::namespaced(stage.cluster.client(), NAMESPACE).get(LEASE).await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    let pods = operators(stage).await?;
    let leading = pods.into_iter().find(|pod| !holder.is_empty() && holder.starts_with(pod.as_str()));
    leading.with_context(|| format!("the lease is held by {holder:?}, which is no running operator"))
}

/// SIGKILLs every operator: whatever led is gone, in the middle of what it did.
pub(crate) async fn kill_operators(stage: &Stage) -> anyhow::Result<()> {
    let pods = operators(stage).await?;
    ensure!(!pods.is_empty(), "no operator runs");
    pods.iter().try_for_each(|pod| signal_operator(pod, Signal::SIGKILL))
}

/// Waits until all of Portico's pods are ready.
pub(crate) async fn all_ready(stage: &Stage) -> anyhow::Result<()> {
    portico::rolled_out(&stage.cluster, "deployment/portico-operator").await?;
    portico::rolled_out(&stage.cluster, "daemonset/portico-nodeproxy").await
}
