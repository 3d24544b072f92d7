//! One controller at one size, in an account of its own: Services made, the controller restarted, a node that joins and one
//! that leaves, Services deleted. Of each phase the time and the calls are kept.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use tokio::time::sleep;

use super::{
    controller::Controller,
    objects::Kind,
    phase::Phase,
    report::{Measured, Report},
    site::{POLL_INTERVAL, Site},
    testbed::Testbed,
};
use crate::{
    account::Account,
    bench::footprint::{Memory, cpu_time},
    cloud::{Faults, Limits},
};

/// A controller that still calls after this long is stuck in retries.
const NEVER_QUIET: Duration = Duration::from_secs(90);

/// When no further Service got a status, or went, for so long, no more will.
const STALLED: Duration = Duration::from_mins(2);

/// Nodes at the start; one more joins.
const NODES: usize = 3;

/// Limits of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// Nothing: how much is called is measured.
    None,
    /// AWS's documented token buckets: how long it takes is measured, and only until each Service has a status.
    Documented,
}

impl fmt::Display for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "without limits",
            Self::Documented => "throttled",
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

impl<'a> Trial<'a> {
    /// Nothing started yet.
    pub fn new(testbed: &'a Testbed, controller: Controller, services: u32, account: &'a Account) -> Self {
        Self { testbed, controller, services, account }
    }

    /// All phases, or the throttled one, in an account that is thrown away afterwards.
    pub async fn run(&self, buckets: Buckets, report: &mut Report) -> anyhow::Result<()> {
        let name = format!("{}-{}-{}", self.controller, self.services, buckets == Buckets::Documented);
        let site = Site::start(self.testbed, self.controller, &name, NODES + 1).await?;
        let measured = match buckets {
            Buckets::None => self.phases(&site, report).await,
            Buckets::Documented => self.throttled(&site, report).await,
        };
        site.close().await?;
        measured
    }

    async fn throttled(&self, site: &Site<'_>, report: &mut Report) -> anyhow::Result<()> {
        for instance in site.instances.iter().take(NODES) {
            self.testbed.join(instance).await?;
        }
        site.proxy.set(Faults { throttle: Some(Limits::documented()), ..Faults::none() });
        let process = site.controller(&[])?;
        site.settle(NEVER_QUIET).await;
        let create = async { self.testbed.create("s", self.services, Kind::Nodes).await };
        let done = async || self.counted(has_status).await;
        self.until(site, report, Phase::CreateThrottled, create, done).await?;
        // What is left goes with the account.
        process.stop().await
    }

    async fn phases(&self, site: &Site<'_>, report: &mut Report) -> anyhow::Result<()> {
        let (last, first) = site.instances.split_last().context("no instances")?;
        for instance in first {
            self.testbed.join(instance).await?;
        }
        let process = site.controller(&[])?;
        site.settle(NEVER_QUIET).await;
        let create = async { self.testbed.create("s", self.services, Kind::Nodes).await };
        let done = async || self.counted(has_status).await;
        self.until(site, report, Phase::Create, create, done).await?;
        let memory = Memory::of(process.pid())?;
        let cpu = cpu_time(process.pid())?;
        report.footprint(self.controller, self.services, memory.resident, cpu.as_secs_f64());
        process.stop().await?;

        let start = async { site.controller(&[]) };
        let process = self.calls(site, report, Phase::Restart, &[], start).await?;
        self.calls(site, report, Phase::NodeJoins, &["RegisterTargets"], self.testbed.join(last)).await?;
        self.calls(site, report, Phase::NodeLeaves, &["DeregisterTargets"], self.testbed.leave(last)).await?;
        let gone = async || Ok(self.services - u32::try_from(self.testbed.list().await?.len())?);
        self.until(site, report, Phase::Delete, self.testbed.delete_all(), gone).await?;
        process.stop().await?;
        self.remains(site, report).await
    }

    /// A phase that ends when `done` has counted every Service, or counts no more.
    async fn until(
        &self,
        site: &Site<'_>,
        report: &mut Report,
        phase: Phase,
        act: impl Future<Output = anyhow::Result<()>>,
        mut done: impl AsyncFnMut() -> anyhow::Result<u32>,
    ) -> anyhow::Result<()> {
        site.proxy.take_counts();
        let start = Instant::now();
        site.crashes.or(act).await?;
        let (mut count, mut progress) = (0, Instant::now());
        let wall = loop {
            let now = site.crashes.or(done()).await?;
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
            sleep(POLL_INTERVAL).await;
        };
        site.settle(NEVER_QUIET).await;
        self.add(site, report, phase, wall);
        Ok(())
    }

    /// A phase that ends with the last call, of these names if any are given.
    async fn calls<T>(
        &self,
        site: &Site<'_>,
        report: &mut Report,
        phase: Phase,
        names: &[&str],
        act: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        site.proxy.take_counts();
        let before = site.proxy.number();
        let start = Instant::now();
        let acted = site.crashes.or(act).await?;
        site.settle(NEVER_QUIET).await;
        let log = site.proxy.log_after(before);
        let last = log.iter().rfind(|call| names.is_empty() || names.contains(&call.kind.name.as_str()));
        let wall = last.map(|call| (site.since + call.at).saturating_duration_since(start));
        self.add(site, report, phase, wall);
        Ok(acted)
    }

    fn add(&self, site: &Site<'_>, report: &mut Report, phase: Phase, wall: Option<Duration>) {
        let counts = site.proxy.take_counts();
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
    async fn remains(&self, site: &Site<'_>, report: &mut Report) -> anyhow::Result<()> {
        let things = site.aws.things().await?;
        let left = things.values().filter(|thing| thing.to_string().contains("bench/s")).count();
        report.left(self.controller, self.services, left);
        Ok(())
    }
}

/// Whether it shows an address.
pub(super) fn has_status(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.is_some_and(|status| status.ingress.as_ref().is_some_and(|ingress| !ingress.is_empty()))
}
