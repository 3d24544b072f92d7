//! The node agent: stands in for the kubelet of one node.
//!
//! ```text
//! node.rs    registers the Node, keeps its Lease and conditions, learns its podCIDR
//! pods.rs    runs what is bound to the node
//! server.rs  answers the API server's questions on port 10250: logs, exec, attach
//! ```
//! Owns the start and end of these three. Runs inside the node's network namespace, as `system:node:NAME`. Invariants: a task
//! that dies ends the agent; the agent has one thread, so that its children's parent-death signal means the agent's death.
//! Left out, with an error that says so: gRPC and HTTPS probes, port-forward, ephemeral containers, users and capabilities
//! (every container runs as root), resource limits, device and persistent volumes.

mod exec;
mod framing;
mod node;
mod server;
mod terminal;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Service;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{reflector, watcher};
use kube::{Api, Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::images::Rule;
use crate::pods::{self, Host, shelf::Shelf};

/// `portico-e2e node-agent`: one node's kubelet.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Name of the Node
    #[arg(long)]
    node_name: String,
    /// Its address; repeat for a second family
    #[arg(long, required = true)]
    node_ip: Vec<IpAddr>,
    /// Credentials of `system:node:NAME`
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Directory for pods' volumes and logs
    #[arg(long)]
    state_dir: PathBuf,
    /// Which program an image is: JSON, [{"image": GLOB, "argv": [...]}]
    #[arg(long)]
    images: PathBuf,
    /// Certificate of the node's HTTPS API, PEM
    #[arg(long)]
    tls_cert: PathBuf,
    /// Its key, PEM
    #[arg(long)]
    tls_key: PathBuf,
    /// Certificate authority of that API's clients, PEM
    #[arg(long)]
    client_ca: PathBuf,
    /// Address of the cluster's DNS, for pods' resolv.conf
    #[arg(long)]
    cluster_dns: Option<IpAddr>,
    /// Domain of the cluster, for the same
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Further labels of the Node, KEY=VALUE
    #[arg(long, value_delimiter = ',')]
    labels: Vec<String>,
    /// Zone of the Node (topology.kubernetes.io/zone)
    #[arg(long)]
    zone: Option<String>,
    /// The machine of a cloud that the Node is (spec.providerID)
    #[arg(long, value_name = "ID")]
    provider_id: Option<String>,
    /// First pause of a crash loop, in milliseconds (the kubelet: 10 s)
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    crash_backoff: i64,
}

impl Args {
    fn labels(&self) -> Result<BTreeMap<String, String>> {
        let mut labels = BTreeMap::new();
        for text in &self.labels {
            let Some((key, value)) = text.split_once('=') else { bail!("--labels {text:?}: want KEY=VALUE") };
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels.extend(self.zone.iter().map(|zone| ("topology.kubernetes.io/zone".to_owned(), zone.clone())));
        Ok(labels)
    }
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &Args) -> Result<ExitCode> {
    start_logging();
    // One thread: a parent-death signal is sent when the parent's thread ends, not its process.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("async runtime")?;
    runtime.block_on(serve(args))?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_unset| "info".into());
    let format =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr);
    if let Err(error) = format.try_init() {
        tracing::debug!(%error, "logging was set up before");
    }
}

async fn serve(args: &Args) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let client = client(&args.kubeconfig).await?;
    let (services, writer) = reflector::store();
    let (cidr_known, pod_cidr) = watch::channel(None);
    let reporter =
        Reporter { controller: "portico-e2e/node-agent".to_owned(), instance: Some(args.node_name.clone()) };
    let host = Arc::new(Host {
        client: client.clone(),
        name: args.node_name.clone(),
        ips: args.node_ip.clone(),
        state_dir: args.state_dir.clone(),
        exe: std::env::current_exe().context("own path")?,
        images: read_images(&args.images)?,
        services: services.clone(),
        dns: args.cluster_dns,
        domain: args.cluster_domain.clone(),
        backoff: SignedDuration::from_millis(args.crash_backoff),
        pod_cidr,
        ipam: Mutex::default(),
        shelf: Shelf::default(),
        recorder: Recorder::new(client.clone(), reporter),
    });
    let node = node::run(
        client.clone(),
        node::Identity::new(&args.node_name, &args.node_ip, args.labels()?, args.provider_id.clone()),
        cidr_known,
    );
    let https =
        server::run(&args.tls_cert, &args.tls_key, &args.client_ca, args.node_ip[0], Arc::clone(&host));
    let started = async {
        services.wait_until_ready().await.context("list Services")?; // the first pod gets all their variables
        pods::run(host).await
    };
    tokio::select! {
        ended = node => ended.context("node task")?,
        ended = https => ended.context("HTTPS API")?,
        ended = started => ended.context("pods task")?,
        () = watch_services(client, writer) => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    Err(anyhow!("a task of the node agent ended by itself"))
}

async fn watch_services(client: Client, writer: reflector::store::Writer<Service>) {
    let services = watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
    let services = services.reflect(writer).inspect_err(|error| tracing::warn!(%error, "watch services"));
    services.for_each(|_| std::future::ready(())).await;
}

async fn client(path: &Path) -> Result<Client> {
    let kubeconfig =
        Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let config = config.with_context(|| format!("--kubeconfig {}", path.display()))?;
    Client::try_from(config).context("API client")
}

fn read_images(path: &Path) -> Result<Vec<Rule>> {
    let text = std::fs::read(path).with_context(|| format!("--images {}: cannot be read", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("--images {}", path.display()))
}
