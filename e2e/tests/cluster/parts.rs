//! Portico's running parts as processes: finding, signalling and replacing them. A process is known by its program and its
//! network namespace, so that what is signalled is the program itself and not what starts it.

use std::{fs, os::linux::fs::MetadataExt as _, path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, api::ListParams};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use portico_e2e::portico::{self, NAMESPACE};

use super::stage::Stage;

/// The operator's program.
pub(crate) const OPERATOR: &str = "portico-operator";
/// The node proxy's program.
pub(crate) const NODE_PROXY: &str = "portico-nodeproxy";

/// The lease that operators lead by.
const LEASE: &str = "portico-operator";

/// `--lease-duration`: after so long without renewal another operator may lead.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(15);

/// The processes that run `program` in the network namespace `netns`.
pub(crate) fn processes(program: &str, netns: &str) -> anyhow::Result<Vec<Pid>> {
    let path = Path::new("/run/netns").join(netns);
    let inode = fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?.st_ino();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let is_there = fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.st_ino() == inode);
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = command.split(|&byte| byte == 0).next().unwrap_or_default();
        if is_there && Path::new(&*String::from_utf8_lossy(name)).ends_with(program) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// The one process that runs `program` there.
pub(crate) fn process(program: &str, netns: &str) -> anyhow::Result<Pid> {
    match processes(program, netns)?.as_slice() {
        &[pid] => Ok(pid),
        all => bail!("{} processes of {program} in {netns}, expected one", all.len()),
    }
}

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
