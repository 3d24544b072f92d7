//! The operator as a process that is killed and started again.
//!
//! Owns: its command line and its life. Leaves to others: when it is killed.
//! Invariant: an unrequested end is an error with the end of its log.

use std::net::SocketAddr;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use portico_e2e::{
    cloud::{aws, free_address},
    cluster::Cluster,
    process::{Crashes, Process},
};
use tokio::process::Command;

use super::account::CloudAccount;

pub(crate) struct Operator<'a> {
    cluster: &'a Cluster,
    name: String,
    flags: Vec<String>,
    admin: SocketAddr,
    running: Option<(Process, Crashes)>,
}

impl<'a> Operator<'a> {
    /// One that calls `endpoint`; it does not run yet.
    pub(crate) fn new(cluster: &'a Cluster, account: &CloudAccount, endpoint: &str) -> anyhow::Result<Self> {
        cluster.tools().check(&[&cluster.tools().operator()])?;
        let admin = free_address()?;
        let mut flags = account.operator_flags(endpoint);
        flags.extend(
            [
                "--leader-elect=false", // a killed leader's lease would only make the test wait
                "--resync=10s",
                "--orphan-grace=5s",
                "--orphan-limit=1000", // what a stale read hid goes at once, however much it is
                "--orphan-share=100",
                "--api-rate=6",
                &format!("--admin-address={admin}"),
            ]
            .map(str::to_owned),
        );
        Ok(Self { cluster, name: format!("operator-{}", account.cloud()), flags, admin, running: None })
    }

    /// Starts the process.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let home = self.cluster.home();
        let mut command = Command::new(self.cluster.tools().operator());
        command.args(&self.flags).envs(aws::CREDENTIALS).env("KUBECONFIG", home.admin_kubeconfig());
        command.env("RUST_LOG", "info").env("RUST_BACKTRACE", "1");
        let crashes = Crashes::new();
        let process = Process::start(&self.name, command, &home.logs(), &crashes)?;
        self.running = Some((process, crashes));
        Ok(())
    }

    /// SIGKILL, and waits for its end.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        let (process, crashes) = self.running.take().context("the operator does not run")?;
        kill(process.pid(), Signal::SIGKILL).context("killing the operator")?;
        let _killed = crashes.first().await;
        Ok(())
    }

    /// SIGTERM: it hands over in order.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        match self.running.take() {
            Some((process, _)) => process.stop().await,
            None => Ok(()),
        }
    }

    /// `work`, unless the operator ends by itself meanwhile.
    pub(crate) async fn while_running<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        match &self.running {
            Some((_, crashes)) => crashes.or(work).await,
            None => work.await,
        }
    }

    /// Metrics of the process, in Prometheus' text form.
    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        let url = format!("http://{}/metrics", self.admin);
        Ok(reqwest::Client::builder().no_proxy().build()?.get(url).send().await?.text().await?)
    }
}
