//! Restarts of portico-operator with many load balancers, before AWS's documented token buckets: with nothing changed, with
//! one Service's endpoints changed, and with a node gone.
//!
//! Owns: this order of things, and what is counted. Leaves to others: the account and the process (`site`).
//! Portico itself fills the account, without throttling and with its own limits off: a real account of that size has had
//! weeks to grow. Invariant: throttling is on in each restart that is measured.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use super::{
    controller::Controller,
    objects::Kind,
    report::Report,
    site::{POLL_INTERVAL, Site},
    testbed::Testbed,
    trial::has_status,
};
use crate::{
    account::Account,
    bench::statistics::Summary,
    cloud::{
        Faults, Limits,
        call::Effect,
        faults::Fate,
        record::{Counts, Logged},
    },
    process::Process,
};

/// A Service with pods behind it, whose endpoints change; by its name the last of all.
const PODS: &str = "z-pods";

/// Another, whose endpoints change while a restart still catches up with what changed before.
const LIVE: &str = "z-pods-live";

/// How long after the start.
const LATER: Duration = Duration::from_secs(30);

/// The call by which a change of endpoints takes effect.
const REGISTER: &str = "RegisterTargets";

/// How often each restart with changed endpoints is measured.
const ROUNDS: u8 = 3;

/// Nodes; the last one leaves.
const NODES: usize = 4;

/// How long a restart may take until it is done.
const PATIENCE: Duration = Duration::from_mins(20);

/// How long the account may take to be filled.
const FILLED: Duration = Duration::from_mins(20);

/// As fast as the emulator is, which does one thing at a time, and without an audit.
const FILLING: [&str; 4] =
    ["--api-rate=1000", "--provider-concurrency=16", "--aws-poll=1s", "--audit-interval=0s"];

/// Measures with `services` load balancers.
pub async fn run(
    testbed: &Testbed,
    services: u32,
    report: &mut Report,
    account: &Account,
) -> anyhow::Result<()> {
    let site = Site::start(testbed, Controller::Portico, &format!("restart-{services}"), NODES).await?;
    let restarts = Restarts { testbed, site: &site, services, account };
    let measured = site.crashes.or(restarts.all(report)).await;
    site.close().await?;
    measured
}

struct Restarts<'a> {
    testbed: &'a Testbed,
    site: &'a Site<'a>,
    services: u32,
    account: &'a Account,
}

/// A controller that was just started.
struct Started {
    process: Process,
    at: Instant,
    /// The number of the last call before.
    number: u64,
}

impl Restarts<'_> {
    async fn all(&self, report: &mut Report) -> anyhow::Result<()> {
        self.fill().await?;
        self.site.proxy.set(Faults { throttle: Some(Limits::documented()), ..Faults::none() });
        self.unchanged(report).await?;
        let mut address = Ipv4Addr::new(10, 0, 0, 100);
        let mut next = || {
            address = Ipv4Addr::from(u32::from(address) + 1);
            address
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            before.push(self.endpoints(next(), true).await?);
            after.push(self.endpoints(next(), false).await?);
        }
        self.report_registered(report, "endpoints-changed-while-down", before);
        self.report_registered(report, "endpoints-changed-at-start", after);
        self.node_gone(report, next()).await
    }

    /// All Services with their load balancers, and no call under way.
    async fn fill(&self) -> anyhow::Result<()> {
        for instance in &self.site.instances {
            self.testbed.join(instance).await?;
        }
        self.testbed.create("s", self.services.saturating_sub(2), Kind::Nodes).await?;
        self.testbed.add(PODS, Kind::Pods, Some(&[Ipv4Addr::new(10, 0, 0, 100)])).await?;
        self.testbed.add(LIVE, Kind::Pods, Some(&[Ipv4Addr::new(10, 0, 1, 100)])).await?;
        let Started { process, at, number: _ } = self.start(&FILLING)?;
        loop {
            let all = self.testbed.list().await?;
            let shown = all.iter().filter(|service| has_status(service)).count();
            if shown == usize::try_from(self.services)? {
                break;
            }
            if at.elapsed() > FILLED {
                bail!("{shown} of {} Services have a load balancer after {FILLED:?}", self.services);
            }
            sleep(Duration::from_secs(2)).await;
        }
        self.site.settle(PATIENCE).await;
        process.stop().await?;
        let (took, calls) = (at.elapsed().as_secs_f64(), self.site.proxy.take_counts().calls());
        self.account
            .detail(format_args!("{} load balancers made in {took:.0} s, {calls} calls", self.services));
        Ok(())
    }

    fn start(&self, flags: &[&str]) -> anyhow::Result<Started> {
        let (at, number) = (Instant::now(), self.site.proxy.number());
        Ok(Started { process: self.site.controller(flags)?, at, number })
    }

    /// Nothing changed: calls, and objects that were written, until the last call.
    async fn unchanged(&self, report: &mut Report) -> anyhow::Result<()> {
        let before = self.testbed.versions().await?;
        self.site.proxy.take_counts();
        let started = self.start(&[])?;
        self.site.settle(PATIENCE).await;
        let after = self.testbed.versions().await?;
        let log = self.site.proxy.log_after(started.number);
        let wall = log.last().map_or(0.0, |call| self.since(&started, call));
        started.process.stop().await?;
        let changed = before.iter().filter(|(name, version)| after.get(*name) != Some(*version)).count();
        let counts = self.site.proxy.take_counts();
        self.account.detail(format_args!("restart, nothing changed: {}", shown(&counts)));
        let mut lines = vec![("wall_s", wall), ("services_written", f64::from(u32::try_from(changed)?))];
        lines.extend(numbers(&counts));
        report.restart(self.services, "unchanged", &lines, &counts);
        Ok(())
    }

    /// Seconds from the start of the process until the only endpoint of a Service, `address` from now on, is registered.
    /// `down`: it changed before the process was started, else at once after.
    async fn endpoints(&self, address: Ipv4Addr, down: bool) -> anyhow::Result<f64> {
        if down {
            self.testbed.point(PODS, address).await?;
        }
        let started = self.start(&[])?;
        if !down {
            self.testbed.point(PODS, address).await?;
        }
        let served = self.registered(&started, address).await?;
        self.site.settle(PATIENCE).await;
        started.process.stop().await?;
        Ok(served)
    }

    fn report_registered(&self, report: &mut Report, phase: &'static str, served: Vec<f64>) {
        let counts = self.site.proxy.take_counts();
        let Some(Summary { p50, p99: _, min, max, n }) = Summary::of(served) else { return };
        self.account.detail(format_args!(
            "{phase}: registered {p50:.1} s after the start ({min:.1} to {max:.1}, n = {n})"
        ));
        let mut lines = vec![("registered_s_min", min), ("registered_s_p50", p50), ("registered_s_max", max)];
        lines.push(("throttled", as_number(counts.met(Fate::Throttled))));
        report.restart(self.services, phase, &lines, &counts);
    }

    /// A node, and the endpoints of one Service, went while no operator ran, so that every load balancer has to change. The
    /// endpoints of another Service change meanwhile.
    async fn node_gone(&self, report: &mut Report, address: Ipv4Addr) -> anyhow::Result<()> {
        let gone = self.site.instances.last().context("no instances")?;
        self.testbed.leave(gone).await?;
        self.testbed.point(PODS, address).await?;
        self.site.proxy.take_counts();
        let started = self.start(&["--audit-interval=0s"])?;
        sleep(LATER).await;
        let (changed, live) = (started.at.elapsed().as_secs_f64(), Ipv4Addr::new(10, 0, 1, 101));
        self.testbed.point(LIVE, live).await?;
        let live = self.registered(&started, live).await? - changed;
        let served = self.registered(&started, address).await?;
        let all = usize::try_from(self.services.saturating_sub(2))?;
        let (mut left, mut last) = (BTreeSet::new(), 0.0);
        while left.len() < all {
            if started.at.elapsed() > PATIENCE {
                report.remark(format!(
                    "portico, restart with a node gone: it left {} of {all} target groups in {PATIENCE:?}",
                    left.len()
                ));
                break;
            }
            sleep(Duration::from_secs(2)).await;
            for call in self.site.proxy.log_after(started.number) {
                if is_done(&call, "DeregisterTargets", &gone.id) {
                    last = self.since(&started, &call);
                    left.extend(call.service);
                }
            }
        }
        started.process.stop().await?;
        let counts = self.site.proxy.take_counts();
        self.account.detail(format_args!(
            "restart, a node gone: endpoints that changed before registered after {served:.1} s, those that changed \
             after {changed:.0} s within {live:.1} s; the node out of the last group after {last:.0} s; {}",
            shown(&counts)
        ));
        let mut lines = vec![("registered_s", served), ("live_registered_s", live), ("node_out_s", last)];
        lines.extend(numbers(&counts));
        report.restart(self.services, "node-gone-while-down", &lines, &counts);
        Ok(())
    }

    /// Waits until a target is registered; seconds since the start.
    async fn registered(&self, started: &Started, target: Ipv4Addr) -> anyhow::Result<f64> {
        let target = target.to_string();
        while started.at.elapsed() < PATIENCE {
            let log = self.site.proxy.log_after(started.number);
            if let Some(call) = log.iter().find(|call| is_done(call, REGISTER, &target)) {
                return Ok(self.since(started, call));
            }
            sleep(POLL_INTERVAL).await;
        }
        bail!("{target} is not registered {PATIENCE:?} after the start")
    }

    fn since(&self, started: &Started, call: &Logged) -> f64 {
        (self.site.since + call.at).saturating_duration_since(started.at).as_secs_f64()
    }
}

/// Whether it is this call, took effect, and names the target.
fn is_done(call: &Logged, name: &str, target: &str) -> bool {
    call.kind.name == name
        && call.fate == Fate::Passed
        && call.status.is_some_and(|status| status < 300)
        && call.words.iter().any(|(key, value)| key.ends_with(".Id") && value == target)
}

fn numbers(counts: &Counts) -> [(&'static str, f64); 3] {
    [
        ("reads", as_number(counts.of(Effect::Read))),
        ("writes", as_number(counts.of(Effect::Write))),
        ("throttled", as_number(counts.met(Fate::Throttled))),
    ]
}

fn shown(counts: &Counts) -> String {
    let [reads, writes, throttled] = numbers(counts).map(|(_, number)| number);
    format!("{reads} reads + {writes} writes, of which {throttled} throttled")
}

/// Counts of a bench are far below what f64 holds exactly.
fn as_number(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
