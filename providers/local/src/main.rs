//! `portico-lb`: starts the daemon.
//!
//! Owns: logging and the exit code. Leaves to others: everything else (`daemon::run`).
//! Invariant: a failure is one readable line and exit code 1.

use std::process::ExitCode;

use clap::Parser;
use portico_provider_local::daemon::{args::Args, run::run};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
