//! The footprint of the operator while its provider does not answer: each Service then has an attempt that waits.
//!
//! The provider is `local`, and what it calls lists no load balancers and answers nothing else. There are as many nodes as
//! Services, and every Service's load balancer would send to each of them: what a wait costs must not grow with them.

use std::{
    fs,
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::{Json, Router, routing::get};
use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command, task::JoinHandle, time::sleep};

use super::{
    bare_metal::{has_condition, mk_instance},
    objects::Kind,
    report::Report,
    testbed::Testbed,
};
use crate::{
    account::Account,
    bench::footprint::Memory,
    process::{Crashes, Process},
};

/// How long the operator may take to reconcile all Services.
const LIMIT: Duration = Duration::from_mins(10);

/// Time from one list of all Services to the next.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Measures with `count` Services and as many nodes.
pub async fn run(
    testbed: &Testbed,
    count: u16,
    report: &mut Report,
    account: &Account,
) -> anyhow::Result<()> {
    let services = u32::from(count);
    for number in 0..count {
        testbed.join(&mk_instance(number)).await?;
    }
    testbed.create("waiting", services, Kind::Selectorless).await?;
    account.detail(format_args!("{count} Services and nodes made"));
    let crashes = Crashes::new();
    let silent = Silent::start().await?;
    let measured = crashes.or(measure(testbed, &silent, services, &crashes)).await;
    silent.task.abort();
    let Memory { resident, peak } = measured?;
    account.detail(format_args!("{resident:.0} MiB resident (peak {peak:.0}) while all wait"));
    report.alone(
        "portico local",
        services,
        "waiting",
        &[("resident_mib", resident), ("resident_peak_mib", peak)],
    );
    Ok(())
}

async fn measure(
    testbed: &Testbed,
    silent: &Silent,
    services: u32,
    crashes: &Crashes,
) -> anyhow::Result<Memory> {
    let process = operator(testbed, silent, crashes)?;
    let (start, all) = (Instant::now(), usize::try_from(services)?);
    loop {
        let reported = testbed.list().await?.iter().filter(|service| has_condition(service)).count();
        if reported == all {
            break;
        }
        ensure!(start.elapsed() < LIMIT, "{reported} of {all} Services have a condition after {LIMIT:?}");
        sleep(POLL_INTERVAL).await;
    }
    let memory = Memory::of(process.pid())?;
    process.stop().await?;
    Ok(memory)
}

fn operator(testbed: &Testbed, silent: &Silent, crashes: &Crashes) -> anyhow::Result<Process> {
    let Testbed { tools, home, .. } = testbed;
    let token = home.path("waiting-token");
    fs::write(&token, "nobody reads it").with_context(|| format!("writing {}", token.display()))?;
    let mut command = Command::new(tools.operator());
    command.env("KUBECONFIG", home.admin_kubeconfig()).args([
        "--provider=local",
        "--default-class",
        "--leader-elect=false",
        "--admin-address=127.0.0.1:0",
        &format!("--local-endpoint=http://{}", silent.address),
        &format!("--local-token-file={}", token.display()),
    ]);
    Process::start("operator-that-waits", command, &home.logs(), crashes)
}

/// An API of load balancers that has none, and never answers a request to create one.
struct Silent {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Silent {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("binding a port")?;
        let address = listener.local_addr().context("the port that was bound")?;
        let nothing = || async { Json(json!([])) };
        let router = Router::new().route("/v1/load-balancers", get(nothing)).fallback(pending::<Json<Value>>);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the provider that does not answer");
            }
        });
        Ok(Self { address, task })
    }
}
