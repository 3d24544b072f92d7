//! The real control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, a process each, with TLS and
//! the Node and RBAC authorizers. Their command lines are made by pure functions; starting waits for `readyz`.

pub mod flags;

use std::{fs, os::unix::fs::DirBuilderExt as _, path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use kube::Client;
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    fabric::{CONTROL_PLANE, Families, KUBERNETES_SERVICE},
    home::Home,
    kubeconfig,
    pki::{self, Authority, Pair, Subject},
    process::{Crashes, Process},
    tools::Tools,
};

/// How long the API server may take to be ready. It takes 3 to 5 seconds on an idle machine.
const READY_DEADLINE: Duration = Duration::from_mins(2);

/// The certificates of a control plane.
#[derive(Debug)]
pub struct Credentials {
    /// Signs every client's and server's certificate.
    pub ca: Authority,
    /// Signs the API server's certificate towards aggregated API servers.
    pub front_proxy_ca: Authority,
    /// The API server's client certificate towards those.
    pub front_proxy: Pair,
    /// etcd's server certificate.
    pub etcd: Pair,
    /// The API server's certificate.
    pub apiserver: Pair,
    /// The API server's client certificate for etcd.
    pub etcd_client: Pair,
    /// The API server's client certificate for node agents.
    pub kubelet_client: Pair,
    /// A cluster administrator.
    pub admin: Pair,
    /// The controller-manager as a client.
    pub controller_manager: Pair,
    /// The scheduler as a client.
    pub scheduler: Pair,
    /// Signs service account tokens; the certificate's place holds the public key.
    pub service_account_key: Pair,
}

impl Credentials {
    /// Those in `dir`, and new ones for what is missing.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let ca = Authority::open(dir, "ca")?;
        let front_proxy_ca = Authority::open(dir, "front-proxy-ca")?;
        let server = |name: &str, hosts: &[&str]| {
            let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
            ca.issue(name, &Subject { name, group: None, hosts })
        };
        let client = |file: &str, name: &str, group: Option<&str>| {
            ca.issue(file, &Subject { name, group, hosts: Vec::new() })
        };
        let (address, service) = (CONTROL_PLANE.to_string(), KUBERNETES_SERVICE.to_string());
        let apiserver_hosts = [
            "127.0.0.1",
            "localhost",
            &address,
            &service,
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        Ok(Self {
            front_proxy: front_proxy_ca.issue(
                "front-proxy-client",
                &Subject { name: flags::FRONT_PROXY_NAME, group: None, hosts: Vec::new() },
            )?,
            etcd: server("etcd", &["127.0.0.1", "localhost"])?,
            apiserver: server("apiserver", &apiserver_hosts)?,
            etcd_client: client("etcd-client", "kube-apiserver", None)?,
            kubelet_client: client(
                "kubelet-client",
                "kube-apiserver-kubelet-client",
                Some("system:masters"),
            )?,
            admin: client("admin", "kubernetes-admin", Some("system:masters"))?,
            controller_manager: client("controller-manager", "system:kube-controller-manager", None)?,
            scheduler: client("scheduler", "system:kube-scheduler", None)?,
            service_account_key: pki::service_account_key(dir)?,
            front_proxy_ca,
            ca,
        })
    }

    /// A client of etcd's JSON gateway (`/v3/kv/...`), for what cannot be had through the API server.
    pub async fn etcd_client(&self, home: &Home) -> anyhow::Result<Client> {
        let path = home.path("etcd.conf");
        kubeconfig::client(&kubeconfig::write(&path, flags::ETCD, &self.ca.cert, &self.etcd_client)?).await
    }

    /// A node's identity: client certificate of `system:node:<name>`, and server certificate of its agent's API.
    pub fn node(&self, name: &str, address: &str) -> anyhow::Result<Pair> {
        self.ca.issue(
            name,
            &Subject {
                name: &format!("system:node:{name}"),
                group: Some("system:nodes"),
                hosts: vec![address.to_owned(), name.to_owned()],
            },
        )
    }
}

/// Ranges of addresses and node ports of Services.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// Of which families addresses are.
    pub families: Families,
    /// Node ports, as in `30000-32767`.
    pub node_ports: &'static str,
}

impl Default for Ranges {
    /// Of IPv4 alone, and Kubernetes' own node ports: a machine opens no connection from any of them.
    fn default() -> Self {
        Self { families: Families::V4, node_ports: "30000-32767" }
    }
}

/// The running control plane, in the order of its start.
#[derive(Debug)]
pub struct ControlPlane {
    processes: Vec<Process>,
}

impl ControlPlane {
    /// Starts all of it, for IPv4 alone, and waits until the API server is ready. Returns a client with an administrator's
    /// rights.
    pub async fn start(
        tools: &Tools,
        home: &Home,
        credentials: &Credentials,
        crashes: &Crashes,
    ) -> anyhow::Result<(Self, Client)> {
        Self::start_for(Ranges::default(), tools, home, credentials, crashes).await
    }

    /// The same for a cluster of some families, and with some range of node ports.
    pub async fn start_for(
        ranges: Ranges,
        tools: &Tools,
        home: &Home,
        credentials: &Credentials,
        crashes: &Crashes,
    ) -> anyhow::Result<(Self, Client)> {
        let start = |name: &str, args: Vec<String>| {
            let mut command = Command::new(tools.controlplane());
            command.arg(name).args(args);
            Process::start(name, command, &home.logs(), crashes)
        };
        let etcd_data = home.etcd();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&etcd_data)
            .with_context(|| format!("making {}", etcd_data.display()))?;
        let server = format!("https://{CONTROL_PLANE}:6443");
        let ca = &credentials.ca.cert;
        let admin = kubeconfig::write(&home.admin_kubeconfig(), &server, ca, &credentials.admin)?;
        let controller_manager = kubeconfig::write(
            &home.path("controller-manager.conf"),
            &server,
            ca,
            &credentials.controller_manager,
        )?;
        let scheduler = kubeconfig::write(&home.path("scheduler.conf"), &server, ca, &credentials.scheduler)?;

        let mut processes = vec![
            start("etcd", flags::etcd(credentials, &etcd_data))?,
            start("kube-apiserver", flags::apiserver(credentials, ranges))?,
        ];
        let client = kubeconfig::client(&admin).await?;
        crashes.or(ready(&client)).await?;
        processes.push(start(
            "kube-controller-manager",
            flags::controller_manager(credentials, &controller_manager, ranges.families),
        )?);
        processes.push(start("kube-scheduler", flags::scheduler(&scheduler))?);
        Ok((Self { processes }, client))
    }

    /// Its processes, in the order of their start.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Stops all of it, last started first, so that etcd closes its files in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        for process in self.processes.into_iter().rev() {
            process.stop().await?;
        }
        Ok(())
    }
}

/// Waits for the API server's `readyz`.
async fn ready(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let asked = timeout_at(deadline, readyz(client)).await;
        match asked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if Instant::now() >= deadline => return Err(error.context(late())),
            Ok(Err(_not_yet)) => sleep(Duration::from_millis(50)).await,
            Err(_elapsed) => return Err(anyhow!(late())),
        }
    }
}

fn late() -> String {
    format!("kube-apiserver was not ready within {READY_DEADLINE:?}; its log says why")
}

async fn readyz(client: &Client) -> anyhow::Result<()> {
    let request = axum::http::Request::get("/readyz").body(Vec::new())?;
    client.request_text(request).await?;
    Ok(())
}
