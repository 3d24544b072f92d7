//! The nodes of a cluster: a network namespace each, with a node agent in the kubelet's place.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    runtime::wait::{await_condition, conditions::Condition as _},
};
use tokio::{process::Command, time::timeout};

use crate::{
    controlplane::Credentials,
    fabric::{self, CLUSTER_DNS, CONTROL_PLANE, Families, Host},
    home::Home,
    kubeconfig,
    process::{Crashes, Process},
    tools::Tools,
};

/// How long a node may take to register and be ready.
const READY_DEADLINE: Duration = Duration::from_secs(90);

/// A node that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// From 1 to 254, and of no other node: its name is `node-<number>`.
    pub number: u8,
    /// The machine of a cloud that it is: `spec.providerID`.
    pub provider_id: Option<String>,
    /// Zone label of the Node.
    pub zone: Option<String>,
}

impl Member {
    /// Of no cloud.
    pub fn plain(number: u8) -> Self {
        Self { number, provider_id: None, zone: None }
    }
}

/// The nodes, and what their certificates are made from.
#[derive(Debug)]
pub(super) struct Nodes {
    credentials: Arc<Credentials>,
    families: Families,
    hosts: Vec<Host>,
    agents: Vec<Process>,
}

impl Nodes {
    /// No node yet.
    pub(super) fn new(credentials: Arc<Credentials>, families: Families) -> Self {
        Self { credentials, families, hosts: Vec::new(), agents: Vec::new() }
    }

    /// The nodes, in the order of their numbers.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Makes a node and starts its agent. It registers itself.
    pub(super) fn start(
        &mut self,
        member: &Member,
        tools: &Tools,
        home: &Home,
        crashes: &Crashes,
    ) -> anyhow::Result<()> {
        let host = Host::node(member.number);
        fabric::attach(&host).with_context(|| format!("making the network of {}", host.name))?;
        let agent =
            Process::start(&host.name, self.agent(&host, member, tools, home)?, &home.logs(), crashes)?;
        self.agents.push(agent);
        self.hosts.push(host);
        Ok(())
    }

    /// The agent's command line.
    fn agent(&self, host: &Host, member: &Member, tools: &Tools, home: &Home) -> anyhow::Result<Command> {
        let Host { name, address, is_router: _ } = host;
        let dir = home.node(name);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let pair = self.credentials.node(name, &address.to_string())?;
        let server = format!("https://{CONTROL_PLANE}:6443");
        let kubeconfig =
            kubeconfig::write(&dir.join("kubeconfig"), &server, &self.credentials.ca.cert, &pair)?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", host.netns()))
            .arg("--")
            .arg(tools.portico_e2e())
            .arg("node-agent")
            .arg(format!("--node-name={name}"))
            .args(host.addresses(self.families).iter().map(|address| format!("--node-ip={address}")))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--state-dir={}", dir.display()))
            .arg(format!("--images={}", home.path("images.json").display()))
            .arg(format!("--tls-cert={}", pair.cert.display()))
            .arg(format!("--tls-key={}", pair.key.display()))
            .arg(format!("--client-ca={}", self.credentials.ca.cert.display()))
            .arg(format!("--cluster-dns={CLUSTER_DNS}"))
            .arg("--cluster-domain=cluster.local");
        let Member { number: _, provider_id, zone } = member;
        command.args(provider_id.iter().map(|id| format!("--provider-id={id}")));
        command.args(zone.iter().map(|zone| format!("--zone={zone}")));
        Ok(command)
    }

    /// Waits until every node is ready and has its podCIDR.
    pub(super) async fn ready(&self, client: &Client) -> anyhow::Result<()> {
        let api = Api::<Node>::all(client.clone());
        for host in &self.hosts {
            let ready = await_condition(api.clone(), &host.name, is_ready.and(has_pod_cidr));
            timeout(READY_DEADLINE, ready)
                .await
                .map_err(|_elapsed| anyhow!("{} was not ready within {READY_DEADLINE:?}", host.name))?
                .with_context(|| format!("watching {}", host.name))?;
        }
        Ok(())
    }

    /// Ends a node: its agent, and with it its pods, then its network.
    pub(super) async fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let index = self.hosts.iter().position(|host| host.name == name);
        let index = index.with_context(|| format!("there is no node {name} among those that may go"))?;
        let (host, agent) = (self.hosts.remove(index), self.agents.remove(index));
        agent.stop().await?;
        fabric::detach(&host).with_context(|| format!("removing the network of {name}"))
    }

    /// Stops the agents, and with them their pods.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let stops = self.agents.into_iter().map(Process::stop);
        futures::future::try_join_all(stops).await.map(drop)
    }
}

fn is_ready(node: Option<&Node>) -> bool {
    let conditions = node.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn has_pod_cidr(node: Option<&Node>) -> bool {
    node.and_then(|node| node.spec.as_ref()).is_some_and(|spec| spec.pod_cidr.is_some())
}
