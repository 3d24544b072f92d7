//! The footprint of the operator itself: memory with thousands of Services, and CPU time for a change of one of them.
//!
//! The provider is `bare-metal`, which calls no cloud, so nothing is measured but the operator. Each Service has a node port and
//! three endpoints, and there are a hundred nodes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use nix::unistd::Pid;
use serde_json::json;
use tokio::{process::Command, time::sleep};

use super::{objects::Kind, report::Report, testbed::Testbed};
use crate::{
    account::Account,
    bench::footprint::{Memory, cpu_time},
    cloud::aws::Instance,
    process::{Crashes, Process},
};

/// How many changes are measured together; CPU time is counted in 10 ms.
const CHANGES: u32 = 300;

/// Nodes of the cluster.
const NODES: u8 = 100;

/// How long the operator may take for all Services.
const LIMIT: Duration = Duration::from_mins(15);

/// Time from one list of all Services to the next; a list costs the API server more than a change costs the operator.
const POLL_INTERVAL: Duration = Duration::from_secs(15);

/// After so long without CPU time it is done.
const IDLE: Duration = Duration::from_secs(3);

/// Measures with `services` Services.
pub async fn run(
    testbed: &Testbed,
    services: u32,
    report: &mut Report,
    account: &Account,
) -> anyhow::Result<()> {
    for number in 0..NODES {
        testbed.join(&mk_instance(number.into())).await?;
    }
    testbed.create("bare-metal", services, Kind::Selectorless).await?;
    account.detail(format_args!("{services} Services made"));
    let bench = BareMetal { testbed, services, crashes: Crashes::new() };
    bench.crashes.or(bench.measure(report, account)).await
}

struct BareMetal<'a> {
    testbed: &'a Testbed,
    services: u32,
    crashes: Crashes,
}

impl BareMetal<'_> {
    async fn measure(&self, report: &mut Report, account: &Account) -> anyhow::Result<()> {
        let start = Instant::now();
        let process = self.operator()?;
        self.all_reported(start).await?;
        let reported = start.elapsed().as_secs_f64();
        idle(process.pid()).await?;
        let memory = Memory::of(process.pid())?;
        let change = self.changes(&process).await?;
        process.stop().await?;
        let process = self.operator()?;
        idle(process.pid()).await?;
        let (again, cpu) = (Memory::of(process.pid())?, cpu_time(process.pid())?.as_secs_f64());
        process.stop().await?;
        let Memory { resident, peak } = memory;
        account.detail(format_args!(
            "all reported in {reported:.0} s; {resident:.0} MiB resident (peak {peak:.0}), {:.0} MiB (peak {:.0}) after a \
             restart that takes {cpu:.1} s of CPU; {change:.2} ms of CPU a change",
            again.resident, again.peak
        ));
        report.alone(
            "portico bare-metal",
            self.services,
            "bare-metal",
            &[
                ("reported_s", reported),
                ("resident_mib", resident),
                ("resident_peak_mib", peak),
                ("cpu_ms_a_change", change),
                ("restarted_resident_mib", again.resident),
                ("restarted_resident_peak_mib", again.peak),
                ("restart_cpu_s", cpu),
            ],
        );
        Ok(())
    }

    fn operator(&self) -> anyhow::Result<Process> {
        let Testbed { tools, home, .. } = self.testbed;
        let mut command = Command::new(tools.operator());
        command.env("KUBECONFIG", home.admin_kubeconfig()).args([
            "--provider=bare-metal",
            "--default-class",
            "--leader-elect=false",
            "--admin-address=127.0.0.1:0",
        ]);
        Process::start("operator-bare-metal", command, &home.logs(), &self.crashes)
    }

    /// Waits until the operator has written a condition of each Service.
    async fn all_reported(&self, start: Instant) -> anyhow::Result<()> {
        let all = usize::try_from(self.services)?;
        loop {
            let reported = self.testbed.list().await?.iter().filter(|service| has_condition(service)).count();
            if reported == all {
                return Ok(());
            }
            ensure!(start.elapsed() < LIMIT, "{reported} of {all} Services have a condition after {LIMIT:?}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Milliseconds of CPU for a change of one Service.
    async fn changes(&self, process: &Process) -> anyhow::Result<f64> {
        let first = cpu_time(process.pid())?;
        for number in 0..CHANGES {
            let source = format!("192.0.2.{}/32", number % 250);
            let change = json!({"spec": {"loadBalancerSourceRanges": [source]}});
            self.testbed.change(&format!("bare-metal{}", number * 7 % self.services), &change).await?;
        }
        idle(process.pid()).await?;
        let used = cpu_time(process.pid())?.saturating_sub(first);
        Ok(used.as_secs_f64() * 1e3 / f64::from(CHANGES))
    }
}

/// Waits until a process has used no CPU time for [`IDLE`].
pub(super) async fn idle(pid: Pid) -> anyhow::Result<()> {
    let (mut used, mut since, start) = (cpu_time(pid)?, Instant::now(), Instant::now());
    // Watches that say nothing cost a tick now and then.
    let tick = Duration::from_millis(20);
    while since.elapsed() < IDLE && start.elapsed() < LIMIT {
        sleep(Duration::from_millis(200)).await;
        let now = cpu_time(pid)?;
        if now > used + tick {
            (used, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// A machine of no cloud.
pub(super) fn mk_instance(number: u16) -> Instance {
    let zone = ["a", "b", "c"].into_iter().cycle().nth(number.into()).unwrap_or("a");
    Instance {
        id: format!("i-{number:017x}"),
        zone: format!("us-east-1{zone}"),
        address: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + u32::from(number)).to_string(),
        name: format!("machine-{number}"),
    }
}

/// Whether the operator has written a condition.
pub(super) fn has_condition(service: &Service) -> bool {
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_.starts_with("portico.dev/")))
}
