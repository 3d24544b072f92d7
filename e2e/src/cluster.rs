//! A running cluster, and what its users (demo, scenarios, benches) do with it. Starting goes bottom-up: network, control
//! plane, nodes, load balancer, Portico. It runs inside a sandbox, which ends whatever [`Cluster::stop`] did not.

mod dump;
mod nodes;
pub mod vantage;

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use kube::Client;
use tokio::{io::AsyncWriteExt as _, process::Command, sync::Mutex, task::JoinHandle, time::sleep};

use crate::{
    account::Account,
    controlplane::{ControlPlane, Credentials, Ranges},
    fabric::{self, Families, Host},
    forward,
    home::Home,
    images,
    load_balancer::LoadBalancer,
    portico::{self, Parts},
    process::{self, Crashes},
    tools::Tools,
};
use nodes::Nodes;

pub use nodes::Member;

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes, from 0 to 254.
    pub nodes: u8,
    /// Address families of pods and Services.
    pub families: Families,
    /// Which parts of Portico are installed, and how.
    pub portico: Parts,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2, families: Families::V4, portico: Parts::default() }
    }
}

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
    /// Starts a cluster in `home` and waits until all of it works.
    pub async fn start(home: &Home, options: &Options, account: &Account) -> anyhow::Result<Self> {
        let tools = Tools::find()?;
        let crashes = Crashes::new();
        let (load_balancer, outside) = (Host::load_balancer(), Host::outside());
        fabric::create().context("making the cluster's network")?;
        for host in [&load_balancer, &outside] {
            fabric::attach(host).with_context(|| format!("making the network of {}", host.name))?;
        }
        let credentials = Arc::new(Credentials::open(&home.pki())?);
        account.step("starting etcd and kube-apiserver");
        let ranges = Ranges { families: options.families, ..Ranges::default() };
        let started = ControlPlane::start_for(ranges, &tools, home, &credentials, &crashes);
        let (control_plane, client) = Box::pin(started).await?;
        account.step("the API server is ready");

        images::write(&home.path("images.json"), &images::table(&tools))?;
        let background = vec![
            spawn("routes to pods", fabric::routes::follow(client.clone())),
            spawn("port of the API server", {
                let socket = home.api_socket();
                async move { forward::inside(&socket).await }
            }),
        ];
        let mut cluster = Self {
            nodes: Nodes::new(Arc::clone(&credentials), options.families),
            guests: Mutex::new(Nodes::new(credentials, options.families)),
            load_balancer: None,
            tools,
            home: home.clone(),
            client,
            crashes,
            control_plane,
            background,
        };
        Box::pin(cluster.populate(options, account)).await?;
        Ok(cluster)
    }

    async fn populate(&mut self, options: &Options, account: &Account) -> anyhow::Result<()> {
        let Options { nodes, families: _, portico } = options;
        for number in 1..=*nodes {
            self.nodes.start(&Member::plain(number), &self.tools, &self.home, &self.crashes)?;
        }
        if portico.needs_load_balancer() {
            let started = LoadBalancer::start(&self.tools, &self.home, &self.crashes);
            self.load_balancer = Some(self.crashes.or(started).await?);
        }
        self.crashes.or(self.nodes.ready(&self.client)).await?;
        account.step(format!("{nodes} nodes are ready"));
        if portico.is_empty() {
            return Ok(());
        }
        let token = self.load_balancer.as_ref().map(|lb| lb.token().to_owned());
        self.crashes.or(portico::install(self, portico, token.as_deref())).await?;
        account.step(format!("Portico is installed: {portico}"));
        Ok(())
    }

    /// A client with an administrator's rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The cluster's folder.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The programs.
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

    /// Ends a node that joined: what is left of it is its Node object, if nobody has deleted that.
    pub async fn leave(&self, name: &str) -> anyhow::Result<()> {
        self.guests.lock().await.end(name).await
    }

    /// Where a process crashed that a cluster is made of.
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

/// A background task whose end is a failure worth a line in the log; what depends on it will say so by a deadline.
fn spawn(
    what: &'static str,
    work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::error!(what, error = format!("{error:#}"), "a background task ended");
        }
    })
}
