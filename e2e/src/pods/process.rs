//! The process of a running container, and others run beside it (probes, hooks, `kubectl exec`).
//!
//! Owns signals and joining its namespaces. Leaves starting it to `launch.rs`. Invariant: the process known here is `enter`,
//! whose only child is the container's first process; signals go to that child, since killing `enter` would lose the exit code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// `enter`, the parent.
    pub(crate) parent: u32,
    /// Path of this program.
    pub(crate) exe: PathBuf,
    /// Environment of the container's processes.
    pub(crate) environment: BTreeMap<String, String>,
    /// Its working directory.
    pub(crate) cwd: Option<PathBuf>,
}

impl Process {
    /// The first process inside, by its number out here; none before it exists and after it ended.
    pub(crate) fn first(&self) -> Option<u32> {
        let Self { parent, .. } = self;
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Waits until the first process is there, or can no longer come.
    pub(crate) async fn appeared(&self) {
        while self.first().is_none() && Path::new(&format!("/proc/{}", self.parent)).exists() {
            tokio::time::sleep(Duration::from_millis(2)).await; // the kernel sends no event
        }
    }

    /// Sends a signal; to one that is gone, nothing happens.
    pub(crate) fn signal(&self, signal: Signal) {
        let target = self.first().unwrap_or(self.parent);
        if let Ok(pid) = i32::try_from(target)
            && let Err(error) = kill(Pid::from_raw(pid), signal)
        {
            tracing::debug!(pid, %signal, %error, "signal");
        }
    }

    /// A command in the container's namespaces, with its environment; killed when the handle is dropped.
    pub(crate) fn command(&self, argv: &[String], tty: Option<&Path>) -> Option<Command> {
        let mut command = Command::new(&self.exe);
        command.args(["enter", "--join", &self.first()?.to_string()]);
        if let Some(cwd) = &self.cwd {
            command.arg("--cwd").arg(cwd);
        }
        if let Some(tty) = tty {
            command.arg("--tty").arg(tty);
        }
        command.arg("--").args(argv);
        command.env_clear().envs(&self.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Some(command)
    }
}
