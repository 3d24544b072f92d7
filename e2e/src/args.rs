//! The command line: one variant per subcommand, whose flags live beside what it does. No runtime runs here: `enter` and
//! `sandboxed` change namespaces and must do it while the process has one thread, so each command starts its own.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{agent, backend, bench, conformance, demo, enter, probe, sandbox, up};

/// A Kubernetes cluster on one machine, for Portico's demo, tests and benches.
#[derive(Debug, Parser)]
#[command(name = "portico-e2e", version)]
pub struct Args {
    /// Subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a Service of every type on a cluster made for it.
    Demo(demo::Args),
    /// Run a cluster until Ctrl-C, for work by hand.
    Up(up::UpArgs),
    /// End a cluster, and remove what a killed one left.
    Down(up::DownArgs),
    /// Enter a node, a pod or the outside host of a running cluster.
    Shell(up::ShellArgs),
    /// Measure Portico and its peers in turn on the same cluster.
    Bench(bench::Args),
    /// Run Kubernetes' own tests of Services with Portico and with kube-proxy.
    Conformance(conformance::Args),
    /// (internal) PID 1 of a cluster's sandbox: runs a command, reaps orphans, ends with the command's code.
    #[command(hide = true)]
    Sandboxed(sandbox::init::Args),
    /// Run a program in the namespaces of a node, a pod or a process.
    Enter(enter::Args),
    /// Stand in for the kubelet of one node.
    NodeAgent(agent::Args),
    /// The test backend: answers who it is and whom it sees.
    Backend(backend::Args),
    /// The test client: tries an address and says who answered.
    Probe(probe::Args),
}

impl Command {
    /// Runs the subcommand to its end.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Demo(args) => demo::run(&args),
            Self::Up(args) => up::up(&args),
            Self::Down(args) => up::down(&args),
            Self::Shell(args) => up::shell(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Conformance(args) => conformance::run(&args),
            Self::Sandboxed(args) => sandbox::init::run(&args),
            Self::Enter(args) => enter::run(&args),
            Self::NodeAgent(args) => agent::run(&args),
            Self::Backend(args) => backend::run(&args),
            Self::Probe(args) => probe::run(&args),
        }
    }
}
