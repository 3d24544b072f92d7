//! One account and the proxy before it, and the controller that works in it.
//!
//! Owns: starting and ending them, what the account holds at first, and when a controller is done. Leaves to others: what
//! is measured (`trial`, `restart`). Invariant: each site is new, so that nothing of one measurement is in another.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{process::Command, time::sleep};

use super::{
    controller::{CLUSTER, Controller, Whereabouts},
    testbed::Testbed,
};
use crate::{
    cloud::{Aws, FaultProxy, Place, aws::Instance},
    process::{Crashes, Process, output},
    tools::Tools,
};

/// When there was no call for so long, a controller has done what it had to do. Longer than any pause that either makes.
pub const QUIET: Duration = Duration::from_secs(15);

/// Time from one poll to the next: the accuracy of measured times.
pub const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The account, the proxy before it, and who calls there.
pub struct Site<'a> {
    testbed: &'a Testbed,
    controller: Controller,
    /// Machines in the account; none is a Node yet.
    pub instances: Vec<Instance>,
    /// The emulator of AWS, without the proxy.
    pub aws: Aws,
    /// The proxy before it.
    pub proxy: FaultProxy,
    /// When the proxy's clock began.
    pub since: Instant,
    /// Of the controller.
    pub crashes: Crashes,
    dir: PathBuf,
    subnet: String,
}

impl<'a> Site<'a> {
    /// An account of its own for `controller`, with `machines` instances; files go to a directory of this `name`.
    pub async fn start(
        testbed: &'a Testbed,
        controller: Controller,
        name: &str,
        machines: usize,
    ) -> anyhow::Result<Self> {
        let Testbed { tools, home, crashes, .. } = testbed;
        let dir = home.path(name);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let place = Place { logs: &dir, crashes, address: None };
        let aws = Aws::start(tools, &place).await?;
        let aws = aws.context("no emulator of AWS: `make emulators` installs it, by pip and its registry")?;
        let since = Instant::now();
        let proxy = FaultProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &aws.url(), 0).await?;
        let instances = aws.add_instances(machines).await?;
        let subnet = prepare(&aws, tools).await?;
        let crashes = Crashes::new();
        Ok(Self { testbed, controller, instances, aws, proxy, since, crashes, dir, subnet })
    }

    /// Starts the controller, with these flags beside its own.
    pub fn controller(&self, flags: &[&str]) -> anyhow::Result<Process> {
        let Testbed { tools, home, .. } = self.testbed;
        let place = Whereabouts { aws: &self.aws, subnet: &self.subnet, endpoint: &self.proxy.url() };
        let mut command = self.controller.command(tools, &home.admin_kubeconfig(), &place, &self.dir)?;
        command.args(flags);
        Process::start("controller", command, &self.dir, &self.crashes)
    }

    /// Waits until there was no call for a while; at most for `patience`: one that still calls then is stuck in retries.
    pub async fn settle(&self, patience: Duration) {
        let start = Instant::now();
        let (mut calls, mut last) = (self.proxy.calls(), Instant::now());
        while last.elapsed() < QUIET && start.elapsed() < patience {
            sleep(POLL_INTERVAL).await;
            let now = self.proxy.calls();
            if now != calls {
                (calls, last) = (now, Instant::now());
            }
        }
    }

    /// Takes all Services and Nodes out of the API server, whatever state they are in, and ends the account.
    pub async fn close(self) -> anyhow::Result<()> {
        self.testbed.strip().await?;
        self.testbed.delete_all().await?;
        for instance in &self.instances {
            // Those that a failed measurement left; the others are gone already.
            drop(self.testbed.leave(instance).await);
        }
        self.aws.stop().await
    }
}

/// Prepares what the peer needs in an account beyond Portico; both get the same. Gives a subnet's ID.
async fn prepare(aws: &Aws, tools: &Tools) -> anyhow::Result<String> {
    let python = tools.aws_python().context("no Python of the emulator of AWS")?;
    let mut command = Command::new(python);
    command.arg("-B").arg(tools.emulators().join("aws/peer.py")).args([&aws.url(), aws.vpc(), CLUSTER]);
    let subnet = output(&mut command).await.context("preparing the account")?;
    Ok(subnet.trim().to_owned())
}
