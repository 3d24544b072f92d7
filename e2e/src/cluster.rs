//! A running cluster, as its users (demo, scenarios, benches) handle it. `cluster/start.rs` starts it. It runs inside a
//! sandbox, which ends whatever [`Cluster::stop`] did not.

mod dump;
mod nodes;
mod options;
mod start;
pub mod vantage;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use kube::Client;
use tokio::{io::AsyncWriteExt as _, process::Command, sync::Mutex, task::JoinHandle, time::sleep};

use crate::{
    controlplane::ControlPlane,
    fabric::Host,
    home::Home,
    load_balancer::LoadBalancer,
    process::{self, Crashes},
    tools::Tools,
};
use nodes::Nodes;

pub use nodes::Member;
pub use options::Options;

/// A running cluster.
pub struct Cluster {
    tools: Tools,
    home: Home,
    client: Client,
    crashes: Crashes,
    control_plane: ControlPlane,
    nodes: Nodes,
    guests: Mutex<Nodes>,
    load_balancer: Option<LoadBalancer>,
    background: Vec<JoinHandle<()>>,
}

impl Cluster {
    /// A client with an administrator's rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The cluster's folder.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Paths of the programs.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The nodes, in the order of their numbers.
    pub fn nodes(&self) -> &[Host] {
        self.nodes.hosts()
    }

    /// Adds nodes for good, and waits until they are ready.
    pub async fn add_nodes(&mut self, members: &[Member]) -> anyhow::Result<()> {
        for member in members {
            self.nodes.start(member, &self.tools, &self.home, &self.crashes)?;
        }
        self.crashes.or(self.nodes.ready(&self.client)).await
    }

    /// Adds a node that may leave again, and is not among [`Cluster::nodes`]; waits until it is ready.
    pub async fn join(&self, member: &Member) -> anyhow::Result<()> {
        let mut guests = self.guests.lock().await;
        guests.start(member, &self.tools, &self.home, &self.crashes)?;
        self.crashes.or(guests.ready(&self.client)).await
    }

    /// Ends a node that joined: only its Node object stays, unless it was deleted.
    pub async fn leave(&self, name: &str) -> anyhow::Result<()> {
        self.guests.lock().await.end(name).await
    }

    /// Crashes of the cluster's processes.
    pub fn crashes(&self) -> &Crashes {
        &self.crashes
    }

    /// Runs kubectl as an administrator and gives its stdout.
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        process::output(self.kubectl_command().args(args)).await
    }

    /// `kubectl apply` of a manifest, which may hold several documents.
    pub async fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        self.kubectl_stdin(&["apply", "-f", "-"], manifest).await
    }

    /// Runs kubectl with something on its stdin.
    pub async fn kubectl_stdin(&self, args: &[&str], stdin: &str) -> anyhow::Result<String> {
        let mut child = self
            .kubectl_command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting kubectl")?;
        let mut pipe = child.stdin.take().context("kubectl has no stdin")?;
        pipe.write_all(stdin.as_bytes()).await.context("writing to kubectl")?;
        drop(pipe);
        let done = child.wait_with_output().await.context("waiting for kubectl")?;
        if !done.status.success() {
            bail!("`kubectl {}` failed: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.tools.controlplane());
        command.arg("kubectl").env("KUBECONFIG", self.home.admin_kubeconfig()).env("HOME", self.home.dir()); // its caches, and no settings of the person's own
        command
    }

    /// Waits until `check` succeeds. An `Err` of `check` says why it has not yet; the last one is in the error
    /// after `deadline`. Ends at once when a process of the cluster crashes.
    pub async fn eventually<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut check: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + deadline;
        let watched = async {
            loop {
                match check().await {
                    Ok(found) => return Ok(found),
                    Err(not_yet) if Instant::now() >= end => {
                        return Err(not_yet.context(format!("{what}: not within {deadline:?}")));
                    }
                    Err(_not_yet) => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        self.crashes.or(watched).await
    }

    /// Stops the control plane in order, so that its data can be used again. All else ends with the sandbox.
    pub async fn stop(self) -> anyhow::Result<()> {
        for task in self.background {
            task.abort();
        }
        self.guests.into_inner().stop().await?;
        self.nodes.stop().await?;
        self.control_plane.stop().await
    }
}
