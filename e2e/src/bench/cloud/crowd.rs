//! What the operator itself takes: its memory with thousands of Services, and its time for a change of one of them.
//!
//! The provider is `bare-metal`, which calls nobody, so nothing is measured but the operator. There are not enough node ports
//! for so many Services; they have none, which changes what their conditions say and nothing of the way there.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use nix::unistd::Pid;
use serde_json::json;
use tokio::{process::Command, time::sleep};

use super::{report::Report, testbed::Testbed};
use crate::{
    account::Account,
    bench::footprint::{Memory, cpu_time},
    process::{Crashes, Process},
};

/// How many changes are measured together; CPU time is counted in 10 ms.
const CHANGES: u32 = 300;

/// How long the operator may take for all Services.
const LIMIT: Duration = Duration::from_mins(15);

/// When it took no time for so long, it is done.
const IDLE: Duration = Duration::from_secs(3);

/// Measures with `services` Services.
pub async fn run(
    testbed: &Testbed,
    services: u32,
    report: &mut Report,
    account: &Account,
) -> anyhow::Result<()> {
    let crashes = Crashes::new();
    testbed.create("crowd", services, false).await?;
    account.detail(format_args!("{services} Services made"));
    let mut command = Command::new(testbed.tools.operator());
    command.env("KUBECONFIG", testbed.home.admin_kubeconfig()).args([
        "--provider=bare-metal",
        "--default-class",
        "--leader-elect=false",
        "--admin-address=127.0.0.1:0",
    ]);
    let start = Instant::now();
    let process = Process::start("operator-of-a-crowd", command, &testbed.home.logs(), &crashes)?;
    let measured = crashes.or(measure(testbed, services, &process, start, report, account)).await;
    process.stop().await?;
    measured
}

async fn measure(
    testbed: &Testbed,
    services: u32,
    process: &Process,
    start: Instant,
    report: &mut Report,
    account: &Account,
) -> anyhow::Result<()> {
    while start.elapsed() < LIMIT {
        let told = testbed.list().await?.iter().filter(|service| is_told(service)).count();
        if told == usize::try_from(services)? {
            break;
        }
        sleep(Duration::from_secs(2)).await;
    }
    let told = start.elapsed();
    idle(process.pid()).await?;
    let memory = Memory::of(process.pid())?;
    let first = cpu_time(process.pid())?;
    for number in 0..CHANGES {
        let source = format!("192.0.2.{}/32", number % 250);
        let change = json!({"spec": {"loadBalancerSourceRanges": [source]}});
        testbed.change(&format!("crowd{}", number * 7 % services), &change).await?;
    }
    idle(process.pid()).await?;
    let used = cpu_time(process.pid())?.saturating_sub(first);
    let milliseconds = used.as_secs_f64() * 1e3 / f64::from(CHANGES);
    let Memory { resident, peak } = memory;
    account.detail(format_args!(
        "all told in {:.0} s; {resident:.0} MiB resident (peak {peak:.0}); {milliseconds:.2} ms of CPU a change",
        told.as_secs_f64()
    ));
    report.crowd(services, told.as_secs_f64(), memory, milliseconds);
    Ok(())
}

/// Waits until a process has used no time for a while.
async fn idle(pid: Pid) -> anyhow::Result<()> {
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

/// Whether the operator has said something about it.
fn is_told(service: &Service) -> bool {
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_.starts_with("portico.dev/")))
}
