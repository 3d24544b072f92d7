//! One controller at one size, in an account of its own: Services made, the controller restarted, a node that joins and one
//! that leaves, Services deleted. Of each phase the time and the calls are kept.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use tokio::{process::Command, time::sleep};

use super::{
    controller::{CLUSTER, Controller, Whereabouts},
    report::{Measured, Report},
    testbed::Testbed,
};
use crate::{
    account::Account,
    bench::footprint::{Memory, cpu_time},
    cloud::{Aws, FaultProxy, Place, aws::Instance},
    process::{Crashes, Process, output},
    tools::Tools,
};

/// When there was no call for so long, a controller has done what it had to do. Longer than any pause that either makes.
const QUIET: Duration = Duration::from_secs(15);

/// A controller that still calls after this long is stuck in retries.
const NEVER_QUIET: Duration = Duration::from_secs(90);

/// When no further Service got a status, or went, for so long, no more will.
const STALLED: Duration = Duration::from_mins(1);

/// From one look at the Services to the next: the exactness of times.
const LOOK: Duration = Duration::from_millis(200);

/// Nodes at the start; one more joins.
const NODES: usize = 3;

/// A part of a controller's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Services made, until each has a status.
    Create,
    /// The process started anew, nothing changed; until its last call.
    Restart,
    /// A node more, until it is in the last target group.
    NodeJoins,
    /// A node less, until it is out of the last target group.
    NodeLeaves,
    /// All Services deleted, until none is there.
    Delete,
}

impl Phase {
    /// In the order in which they are.
    pub const ALL: [Self; 5] = [Self::Create, Self::Restart, Self::NodeJoins, Self::NodeLeaves, Self::Delete];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Restart => "restart",
            Self::NodeJoins => "node-joins",
            Self::NodeLeaves => "node-leaves",
            Self::Delete => "delete",
        })
    }
}

/// A controller at a size.
pub struct Trial<'a> {
    testbed: &'a Testbed,
    controller: Controller,
    services: u32,
    account: &'a Account,
}

/// The account, and the proxy before it.
struct Cloud {
    aws: Aws,
    proxy: FaultProxy,
    /// When the proxy's clock began.
    since: Instant,
    dir: PathBuf,
    /// One of the account's.
    subnet: String,
    /// Of the controller.
    crashes: Crashes,
}

impl<'a> Trial<'a> {
    /// Nothing started yet.
    pub fn new(testbed: &'a Testbed, controller: Controller, services: u32, account: &'a Account) -> Self {
        Self { testbed, controller, services, account }
    }

    /// All phases, in an account that is thrown away afterwards.
    pub async fn run(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut cloud = self.cloud().await?;
        let instances = cloud.aws.add_instances(NODES + 1).await?;
        cloud.subnet = prepare(&cloud.aws, &self.testbed.tools).await?;
        let measured = self.phases(&cloud, &instances, report).await;
        self.testbed.strip().await?;
        self.testbed.delete_all().await?;
        for instance in &instances {
            // Those that a failed trial left; the others are gone already.
            drop(self.testbed.leave(instance).await);
        }
        cloud.aws.stop().await?;
        measured
    }

    async fn cloud(&self) -> anyhow::Result<Cloud> {
        let Testbed { tools, home, crashes, .. } = self.testbed;
        let dir = home.path(&format!("{}-{}", self.controller, self.services));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let place = Place { logs: &dir, crashes, address: None };
        let aws = Aws::start(tools, &place).await?;
        let aws = aws.context("no emulator of AWS: `make emulators` installs it, by pip and its registry")?;
        let since = Instant::now();
        let proxy = FaultProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &aws.url(), 0).await?;
        Ok(Cloud { aws, proxy, since, dir, subnet: String::new(), crashes: Crashes::new() })
    }

    async fn phases(&self, cloud: &Cloud, instances: &[Instance], report: &mut Report) -> anyhow::Result<()> {
        let (last, first) = instances.split_last().context("no instances")?;
        for instance in first {
            self.testbed.join(instance).await?;
        }
        let process = self.start(cloud)?;
        self.settle(cloud).await;
        let create = async { self.testbed.create("s", self.services, true).await };
        let done = async || self.counted(has_status).await;
        self.until(cloud, report, Phase::Create, create, done).await?;
        let memory = Memory::of(process.pid())?;
        let cpu = cpu_time(process.pid())?;
        report.footprint(self.controller, self.services, memory.resident, cpu.as_secs_f64());
        process.stop().await?;

        let start = async { self.start(cloud) };
        let process = self.calls(cloud, report, Phase::Restart, &[], start).await?;
        self.calls(cloud, report, Phase::NodeJoins, &["RegisterTargets"], self.testbed.join(last)).await?;
        self.calls(cloud, report, Phase::NodeLeaves, &["DeregisterTargets"], self.testbed.leave(last))
            .await?;
        let gone = async || Ok(self.services - u32::try_from(self.testbed.list().await?.len())?);
        self.until(cloud, report, Phase::Delete, self.testbed.delete_all(), gone).await?;
        process.stop().await?;
        self.remains(cloud, report).await
    }

    fn start(&self, cloud: &Cloud) -> anyhow::Result<Process> {
        let Testbed { tools, home, .. } = self.testbed;
        let Cloud { aws, proxy, since: _, dir, subnet, crashes } = cloud;
        let place = Whereabouts { aws, subnet, endpoint: &proxy.url() };
        let command = self.controller.command(tools, &home.admin_kubeconfig(), &place, dir)?;
        Process::start("controller", command, dir, crashes)
    }

    /// A phase that ends when `done` has counted every Service, or counts no more.
    async fn until(
        &self,
        cloud: &Cloud,
        report: &mut Report,
        phase: Phase,
        act: impl Future<Output = anyhow::Result<()>>,
        mut done: impl AsyncFnMut() -> anyhow::Result<u32>,
    ) -> anyhow::Result<()> {
        cloud.proxy.take_counts();
        let start = Instant::now();
        cloud.crashes.or(act).await?;
        let (mut count, mut progress) = (0, Instant::now());
        let wall = loop {
            let now = cloud.crashes.or(done()).await?;
            if now == self.services {
                break Some(start.elapsed());
            }
            if now != count {
                (count, progress) = (now, Instant::now());
            }
            if progress.elapsed() > STALLED {
                let (controller, all) = (self.controller, self.services);
                report.remark(format!("{controller} at {all}: {phase}: stays at {now} of {all} Services"));
                break None;
            }
            sleep(LOOK).await;
        };
        self.settle(cloud).await;
        self.add(cloud, report, phase, wall);
        Ok(())
    }

    /// A phase that ends with the last call, of these names if any are given.
    async fn calls<T>(
        &self,
        cloud: &Cloud,
        report: &mut Report,
        phase: Phase,
        names: &[&str],
        act: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        cloud.proxy.take_counts();
        let before = cloud.proxy.log().last().map_or(0, |call| call.number);
        let start = Instant::now();
        let acted = cloud.crashes.or(act).await?;
        self.settle(cloud).await;
        let log = cloud.proxy.log();
        let mut of_phase = log.iter().filter(|call| call.number > before);
        let last = of_phase.rfind(|call| names.is_empty() || names.contains(&call.kind.name.as_str()));
        let wall = last.map(|call| (cloud.since + call.at).saturating_duration_since(start));
        self.add(cloud, report, phase, wall);
        Ok(acted)
    }

    /// Waits until there was no call for a while.
    async fn settle(&self, cloud: &Cloud) {
        let start = Instant::now();
        let (mut calls, mut last) = (cloud.proxy.counts().calls(), Instant::now());
        while last.elapsed() < QUIET && start.elapsed() < NEVER_QUIET {
            sleep(LOOK).await;
            let now = cloud.proxy.counts().calls();
            if now != calls {
                (calls, last) = (now, Instant::now());
            }
        }
    }

    fn add(&self, cloud: &Cloud, report: &mut Report, phase: Phase, wall: Option<Duration>) {
        let counts = cloud.proxy.take_counts();
        let wall = wall.map(|wall| wall.as_secs_f64());
        let shown = wall.map_or("-".to_owned(), |wall| format!("{wall:.1} s"));
        self.account.detail(format_args!("{phase}: {shown}, {} calls", counts.calls()));
        let (controller, services) = (self.controller, self.services);
        report.add(Measured { controller, services, phase, wall, counts });
    }

    async fn counted(&self, is_done: fn(&Service) -> bool) -> anyhow::Result<u32> {
        let all = self.testbed.list().await?;
        Ok(u32::try_from(all.iter().filter(|service| is_done(service)).count())?)
    }

    /// Counts what is in the account although all Services are gone: what their tags name.
    async fn remains(&self, cloud: &Cloud, report: &mut Report) -> anyhow::Result<()> {
        let things = cloud.aws.things().await?;
        let left = things.values().filter(|thing| thing.to_string().contains("bench/s")).count();
        report.left(self.controller, self.services, left);
        Ok(())
    }
}

/// What the peer wants of an account beyond what Portico does; both get the same. Gives a subnet's ID.
async fn prepare(aws: &Aws, tools: &Tools) -> anyhow::Result<String> {
    let python = tools.aws_python().context("no Python of the emulator of AWS")?;
    let mut command = Command::new(python);
    command.arg("-B").arg(tools.emulators().join("aws/peer.py")).args([&aws.url(), aws.vpc(), CLUSTER]);
    let subnet = output(&mut command).await.context("preparing the account")?;
    Ok(subnet.trim().to_owned())
}

fn has_status(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.is_some_and(|status| status.ingress.as_ref().is_some_and(|ingress| !ingress.is_empty()))
}
