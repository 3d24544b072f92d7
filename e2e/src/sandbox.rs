//! A sandbox: PID, mount and network namespaces of their own (and a user namespace for those who are not root) in which
//! one cluster lives. This file is the outside of it: it starts the program anew within, and ends it.
//!
//! Invariants: nothing on the machine's own network, firewall, mounts or sysctls changes, and when the sandbox's PID 1
//! ends for whatever reason, kill -9 included, the kernel ends every process and namespace in it. Three chains lead
//! there: the lifeline (see [`init`]), `unshare --kill-child`, and the PID namespace itself.

pub mod init;
mod inside;

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use nix::unistd::geteuid;

use crate::tools::Tools;

/// Set in the environment of whatever runs inside a sandbox.
const INSIDE: &str = "PORTICO_SANDBOX";

/// Whether this process runs inside a sandbox.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// The outer end of a sandbox. Dropping it ends the sandbox.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
}

impl Sandbox {
    /// Starts `program` with `arguments` inside a new sandbox. Its stdout and stderr are this process's.
    pub fn start(tools: &Tools, program: &Path, arguments: &[OsString]) -> anyhow::Result<Self> {
        let child = command(tools, program, arguments)
            .spawn()
            .context("starting `unshare`: it is part of util-linux; install that")?;
        Ok(Self { child })
    }

    /// Asks for the end: closes the lifeline. The inside has a grace period to finish.
    pub fn stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Host process id of the wrapper; killing it kills the sandbox.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The code of the command inside, once it has ended.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<u8>> {
        let status = self.child.try_wait().context("waiting for the sandbox")?;
        Ok(status.map(|status| status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    }

    /// Waits for the end and gives the code of the command inside. Keeps the lifeline.
    pub fn wait(&mut self) -> anyhow::Result<u8> {
        let lifeline = self.child.stdin.take(); // std closes stdin before it waits
        let status = self.child.wait().context("waiting for the sandbox")?;
        drop(lifeline);
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop();
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "waiting for the sandbox's end");
        }
    }
}

/// The `unshare` command line. It runs in a process group of its own, so that Ctrl-C reaches the outer process alone and
/// the end is orderly.
fn command(tools: &Tools, program: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]);
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .arg("--")
        .arg(tools.portico_e2e())
        .arg("sandboxed")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .process_group(0);
    command
}
