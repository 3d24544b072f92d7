//! The async runtime that every command but `enter` and `sandboxed` runs on, with the log and TLS set up once.

use std::io;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// Runs `work` to its end.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // kube logs each connection that fails; while a cluster starts they do, and what counts comes back as an error.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("warn,kube_client=off"));
    // Fails only where a log is set up already, as in a test binary; that one serves as well.
    let _first = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
    let _first = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Runtime::new().context("starting the async runtime")?.block_on(work)
}
