//! From flags to a serving daemon, and to its end.
//!
//! Owns: start order and shutdown. Leaves to others: everything between.
//! Invariant: what exists serves before the API answers; on SIGTERM the API ends first, then connections drain.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::Args;
use super::http::{Api, router};
use super::ipam::Ipam;
use super::registry::{Registry, Setup};
use super::store::Store;
use crate::dataplane::metrics::Metrics;
use crate::dataplane::{Shared, Timing};

/// How often what is due is brought up and what failed is tried again.
const TEND: Duration = Duration::from_millis(100);

/// A started daemon.
#[derive(Debug)]
pub struct Daemon {
    api: Api,
    listener: TcpListener,
}

impl Daemon {
    /// Claims and serves what exists, and opens the API's socket.
    pub async fn start(args: &Args) -> anyhow::Result<Self> {
        let token = fs::read_to_string(&args.token_file)
            .with_context(|| format!("--token-file {}", args.token_file.display()))?;
        ensure!(!token.trim().is_empty(), "--token-file {} is empty", args.token_file.display());
        let metrics = Arc::new(Metrics::default());
        let timing = Timing {
            drain: args.drain_timeout,
            udp_idle: args.udp_idle_timeout,
            connect: args.connect_timeout,
        };
        let setup = Setup {
            ipam: Ipam::new(args.ranges.clone()),
            placement: args.placement()?,
            store: Store::open(&args.state_dir)?,
            provisioning_delay: args.provisioning_delay,
            shared: Shared { timing, metrics: Arc::clone(&metrics) },
        };
        let registry = Registry::start(setup).await?;
        let listener =
            TcpListener::bind(args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
        Ok(Self { api: Api { registry, token: token.trim().into(), metrics }, listener })
    }

    /// The API's address.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until `stop`, then drains.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { api, listener } = self;
        let registry = api.registry.clone();
        let tending = tokio::spawn(tend(registry.clone(), stop.clone()));
        axum::serve(listener, router(api)).with_graceful_shutdown(stop.cancelled_owned()).await?;
        tending.await.context("tending ended with a panic")?;
        registry.retire().await;
        Ok(())
    }
}

async fn tend(registry: Registry, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TEND);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        registry.tend().await;
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let daemon = Daemon::start(&args).await?;
    tracing::info!(listen = %daemon.address()?, ranges = ?args.ranges, "serving");
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _signal = terminate.recv() => {}
            _signal = interrupt.recv() => {}
        }
        tracing::info!("stopping: draining connections");
        stopping.cancel();
    });
    daemon.serve(stop).await
}
