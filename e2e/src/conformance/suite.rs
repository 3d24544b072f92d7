//! One run of Kubernetes' e2e.test by ginkgo: which tests, and how they are started. Owns the command line; the report that
//! it leaves is read by [`results`](super::results).

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, bail};
use tokio::process::Command;

use super::unrunnable;
use crate::{cluster::Cluster, tools::Tools};

/// The tests of Services, their proxies, endpoints and load balancers.
pub(super) const FOCUS: &str = r"\[sig-network\] (Services|Service|LoadBalancers|Conntrack|EndpointSlice|EndpointSliceMirroring|Endpoints|EndpointsController|Networking|Traffic Distribution|Topology Hints|KubeProxy|Connectivity|DNS|NoSNAT)\b";

/// The whole run may take this long: ginkgo ends it then, and says which tests had not ended.
const DEADLINE: &str = "130m";

/// The programs of a run.
#[derive(Debug)]
pub(super) struct Programs {
    ginkgo: PathBuf,
    e2e_test: PathBuf,
    agnhost: PathBuf,
    coredns: PathBuf,
}

impl Programs {
    /// Paths of the programs, whether they exist or not.
    pub(super) fn of(tools: &Tools) -> Self {
        let named = |name| tools.conformance_program(name);
        Self {
            ginkgo: named("ginkgo"),
            e2e_test: named("e2e.test"),
            agnhost: named("agnhost"),
            coredns: named("coredns"),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> [&Path; 4] {
        let Self { ginkgo, e2e_test, agnhost, coredns } = self;
        [ginkgo, e2e_test, agnhost, coredns]
    }
}

/// A run of the suite with one proxy.
#[derive(Debug)]
pub(super) struct Suite<'a> {
    /// Regular expression of ginkgo's `--focus`.
    pub(super) focus: &'a str,
    /// How many at once.
    pub(super) procs: u8,
    /// The JSON file it leaves; its log lies beside it.
    pub(super) report: PathBuf,
}

impl Suite<'_> {
    /// Runs it to its end. Tests that failed are in the report.
    pub(super) async fn run(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let log = self.report.with_extension("log");
        let out = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let err = out.try_clone().context("sharing a log file")?;
        let mut command = self.command(cluster)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(true);
        let status = command.status().await.context("starting ginkgo")?;
        if !self.report.exists() {
            bail!("ginkgo left no report ({status}); see {}", log.display());
        }
        Ok(())
    }

    fn command(&self, cluster: &Cluster) -> anyhow::Result<Command> {
        let Self { focus, procs, report } = self;
        let programs = Programs::of(cluster.tools());
        let dir = report.parent().context("the report has no folder")?;
        let file = report.file_name().context("the report has no name")?;
        let mut command = Command::new(&programs.ginkgo);
        command
            .arg(format!("--procs={procs}"))
            .args(["--no-color", "--keep-going", "--silence-skips"])
            .arg(format!("--timeout={DEADLINE}"))
            .arg(format!("--focus={focus}"))
            .arg(format!("--skip={}", unrunnable::pattern()))
            .arg(format!("--json-report={}", file.display()))
            .arg(format!("--output-dir={}", dir.display()))
            .arg(&programs.e2e_test)
            .args(["--", "--provider=skeleton", "--disable-log-dump", "--dns-domain=cluster.local"])
            .arg(format!("--kubeconfig={}", cluster.home().admin_kubeconfig().display()))
            .arg(format!("--num-nodes={}", cluster.nodes().len()))
            .env("HOME", cluster.home().dir());
        Ok(command)
    }
}
