//! The command line: one variant per subcommand, whose flags live beside what it does. No runtime runs here: `enter` and
//! `sandboxed` change namespaces and must do it while the process has one thread, so each command starts its own.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::sandbox;

/// A Kubernetes cluster on one machine, for Portico's demo, tests and benches.
#[derive(Debug, Parser)]
#[command(name = "portico-e2e", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// (internal) PID 1 of a cluster's sandbox: runs a command, reaps orphans, ends with the command's code.
    #[command(hide = true)]
    Sandboxed(sandbox::init::Args),
}

impl Command {
    /// Runs the subcommand to its end.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Sandboxed(args) => sandbox::init::run(&args),
        }
    }
}
