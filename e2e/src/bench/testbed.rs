//! The testbed of node proxies: a real control plane, two nodes as network namespaces, and pods' namespaces with a client
//! and real endpoints in them. No Portico is installed and no node agent runs: nothing but the measured proxy uses the
//! nodes, and the two processors are left to it.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{process::Command, time::sleep};

use super::{
    client::Identity,
    footprint::cpu_time,
    layout::{Node, Pod},
    namespace::Resident,
    objects::{Objects, Target},
    responder,
    subject::NODE,
};
use crate::{
    account::Account,
    controlplane::{ControlPlane, Credentials},
    fabric::{self, ip_batch},
    home::Home,
    process::{Crashes, output},
    tools::Tools,
};

/// The Service whose endpoint changes.
pub const PROBE: &str = "probe";

/// Processor time of the whole control plane in a second in which it has nothing to do, and some to spare.
const CALM: Duration = Duration::from_millis(300);
const SETTLE_SECONDS: u32 = 120;

/// A testbed, ready for a subject.
pub struct Testbed {
    /// The programs under test.
    pub tools: Tools,
    /// Files and logs.
    pub home: Home,
    /// Of the control plane.
    pub crashes: Crashes,
    /// The bench's objects in the API server.
    pub objects: Objects,
    /// The nodes; the first one is [`NODE`].
    pub nodes: [Node; 2],
    /// The thread in the client's pod.
    pub client: Resident,
    /// Another one there, for traffic beside what the first one measures.
    pub traffic: Resident,
    /// A thread on [`NODE`].
    pub node: Resident,
    /// The Service whose only endpoint changes between the nodes' endpoint pods.
    pub probe: Target,
    /// A Service with an endpoint on each node, to which nothing happens.
    pub steady: Target,
    /// A Service of 1,000 endpoints that are all replaced.
    pub rollout: Target,
    control_plane: ControlPlane,
}

impl Testbed {
    /// Builds it, in the sandbox that this process is in.
    pub async fn start(tools: Tools, home: Home, account: &Account) -> anyhow::Result<Self> {
        let crashes = Crashes::new();
        fabric::create()?;
        let credentials = Credentials::open(&home.pki())?;
        let nodes = Node::both();
        let client = build_network(&nodes).await?;
        let traffic =
            Resident::enter(nodes[0].client().context("the first node has the client")?.path().as_ref())?;
        let node = Resident::enter(nodes[0].host.netns().as_ref())?;
        account.step("starting etcd and the Kubernetes control plane");
        let (control_plane, api) = ControlPlane::start(&tools, &home, &credentials, &crashes).await?;
        let etcd = credentials.etcd_client(&home).await?;
        let objects = Objects::create(api, etcd, nodes.clone()).await?;
        let [here, there] = &nodes;
        let (first, second) = ((here.endpoints().address, here), (there.endpoints().address, there));
        let probe = objects.service(PROBE, &[first]).await?;
        let steady = objects.service("steady", &[first, second]).await?;
        let rollout = objects.rollout().await?;
        Ok(Self {
            tools,
            home,
            crashes,
            objects,
            nodes,
            client,
            traffic,
            node,
            probe,
            steady,
            rollout,
            control_plane,
        })
    }

    /// Makes filler Services until there are `services`, and waits until the control plane has taken them in: until a second has
    /// cost it little, or two minutes are over.
    pub async fn grow_to(&mut self, services: u32, account: &Account) -> anyhow::Result<()> {
        self.objects.grow_to(services, account).await?;
        let processes = self.control_plane.processes();
        let spent =
            || processes.iter().map(|process| cpu_time(process.pid())).sum::<anyhow::Result<Duration>>();
        let mut before = spent()?;
        for _ in 0..SETTLE_SECONDS {
            sleep(Duration::from_secs(1)).await;
            let now = spent()?;
            if now.saturating_sub(before) < CALM {
                return Ok(());
            }
            before = now;
        }
        account.detail("the control plane is still busy");
        Ok(())
    }

    /// Makes node `index` (0 or 1) hold the probe's only endpoint; who then answers.
    pub async fn point_probe(&self, index: usize) -> anyhow::Result<Identity> {
        let node = self.nodes.get(index).with_context(|| format!("there is no node {index}"))?;
        self.objects.point(PROBE, (node.endpoints().address, node)).await?;
        identity(index)
    }

    /// Runs a program on [`NODE`] to its end; its stdout.
    pub async fn on_node(&self, program: &[&str]) -> anyhow::Result<String> {
        output(&mut self.node_command(program)).await
    }

    /// The command that runs a program on [`NODE`]; the process it starts becomes the program.
    pub fn node_command(&self, program: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new(self.tools.portico_e2e());
        command.args(["enter", "--netns", NODE, "--"]).args(program);
        command
    }

    /// Ends the control plane. The rest ends with the sandbox.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.control_plane.stop().await
    }
}

/// Nodes, pods, their links and routes, and the endpoints. Gives the thread in the client's pod.
async fn build_network(nodes: &[Node; 2]) -> anyhow::Result<Resident> {
    for node in nodes {
        fabric::attach(&node.host)?;
    }
    let mut client = None;
    for (index, node) in nodes.iter().enumerate() {
        let others = nodes.iter().filter(|other| other.host != node.host);
        let routes: String = others.map(|other| node.route_to(other)).collect();
        ip_batch(Some(&node.host.name), &routes)?;
        responder::start(&add_pod(node, &node.endpoints())?, identity(index)?).await?;
        if let Some(pod) = node.client() {
            forget_closed_connections(&Resident::enter(node.host.netns().as_ref())?).await?;
            client = Some(add_pod(node, &pod)?);
        }
    }
    client.with_context(|| format!("no node is called {NODE}"))
}

fn add_pod(node: &Node, pod: &Pod) -> anyhow::Result<Resident> {
    // Not from within the node: `ip -netns` has mounts of its own, and the name would be seen there only.
    ip_batch(None, &format!("netns add {}\n", pod.name))?;
    ip_batch(Some(&node.host.name), &node.node_side(pod))?;
    ip_batch(Some(&pod.name), &node.pod_side(pod))?;
    Resident::enter(pod.path().as_ref())
}

/// The client opens tens of thousands of connections a second. With the usual 10 seconds each they would fill the table of
/// connections, and the bench would measure its eviction.
async fn forget_closed_connections(node: &Resident) -> anyhow::Result<()> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close";
    node.run(move || std::fs::write(path, "1")).await?.with_context(|| format!("writing {path}"))
}

fn identity(node: usize) -> anyhow::Result<Identity> {
    Ok(Identity(u8::try_from(node)?))
}
