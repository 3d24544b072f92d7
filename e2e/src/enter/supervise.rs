//! The parent that stays while a program runs in a process-id namespace.
//!
//! Owns passing signals on and the exit code (128 + signal, as a shell says it). Leaves namespaces to the caller.
//! Invariant: the program never outlives this process, whatever ends it (parent-death signal, set by the second stage).

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::Entry;

/// Signals that belong to the program.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Starts this binary once more, inside, for the steps that only a child can take.
pub(super) fn second_stage(exe: &Path, spec: &Path, entry: &Entry) -> Result<ExitCode> {
    // The spec file lies outside the new root, so it is handed over as an open stdin-like file: by number.
    let file = std::fs::File::open(spec).or_else(|_| inherited_spec(entry))?;
    set_pdeathsig(Signal::SIGKILL).context("parent-death signal")?;
    let mut command = Command::new(exe);
    command.arg("enter").arg("--inside").arg("--spec").arg("/dev/fd/3");
    drop(file);
    with_env(&mut command, entry);
    wait_for(&mut command)
}
