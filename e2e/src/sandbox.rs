//! A sandbox: PID, mount and network namespaces of their own (and a user namespace for those who are not root) in which
//! one cluster lives. This file is the outside of it: it starts the program again within, and ends it.
//!
//! Invariants: nothing on the machine's own network, firewall, mounts or sysctls changes. When the sandbox's PID 1 ends
//! for whatever reason, kill -9 included, the kernel ends every process and namespace in it. Three chains lead
//! there: the lifeline (see [`init`]), `unshare --kill-child`, and the PID namespace itself.

pub mod init;
mod inside;

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{self, Signal},
    unistd::{Pid, geteuid},
};

use crate::tools::Tools;

/// Set in the environment of whatever runs inside a sandbox.
const INSIDE: &str = "PORTICO_SANDBOX";

/// Flags of `unshare` for a sandbox.
const NAMESPACES: [&str; 8] =
    ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];

/// Further ones for those who are not root.
const OWN_USERS: [&str; 2] = ["--user", "--map-root-user"];

/// Whether this process runs inside a sandbox.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Why this machine lets no sandbox be made, in words for a person; `None` where it does. Tests are skipped by it.
pub fn refusal() -> anyhow::Result<Option<String>> {
    let mut command = Command::new("unshare");
    command.args(NAMESPACES);
    if !geteuid().is_root() {
        command.args(OWN_USERS);
    }
    let done =
        command.arg("true").output().context("starting `unshare`: it is part of util-linux; install that")?;
    let said = String::from_utf8_lossy(&done.stderr);
    Ok((!done.status.success()).then(|| {
        format!(
            "no namespaces of one's own here ({}): be root, or let the kernel have user namespaces",
            said.trim()
        )
    }))
}

/// The outer end of a sandbox.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
}

/// While this is held, the sandbox may live; dropping it asks for the end, with a grace period.
#[derive(Debug)]
pub struct Lifeline {
    /// Closed when this is dropped, which is the request.
    _stdin: ChildStdin,
}

impl Sandbox {
    /// Starts `program` with `arguments` inside a new sandbox. Its stdout and stderr are this process's.
    pub fn start(
        tools: &Tools,
        program: &Path,
        arguments: &[OsString],
        environment: &[(&str, OsString)],
    ) -> anyhow::Result<(Self, Lifeline)> {
        let mut child = command(tools, program, arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .spawn()
            .context("starting `unshare`: it is part of util-linux; install that")?;
        let lifeline = child.stdin.take().context("the sandbox has no stdin")?;
        Ok((Self { child }, Lifeline { _stdin: lifeline }))
    }

    /// Process id of the wrapper on the machine.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end and gives the code of the command inside.
    pub fn wait(&mut self) -> anyhow::Result<u8> {
        let status = self.child.wait().context("waiting for the sandbox")?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }
}

/// Ends a sandbox by its wrapper's process id, at once.
pub fn kill(pid: u32) -> anyhow::Result<()> {
    signal::kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL).context("killing the sandbox")
}

/// Process id, on the machine, of the PID 1 of the sandbox whose wrapper is `pid`.
pub fn init_of(pid: u32) -> anyhow::Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let first = children.split_whitespace().next().context("the sandbox has no process")?;
    first.parse().with_context(|| format!("a process id in {path}"))
}

/// The `unshare` command line. It runs in a process group of its own, so that Ctrl-C reaches the outer process alone and
/// the end is orderly.
fn command(tools: &Tools, program: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new("unshare");
    command.args(NAMESPACES);
    if !geteuid().is_root() {
        command.args(OWN_USERS);
    }
    command
        .arg("--")
        .arg(tools.portico_e2e())
        .arg("sandboxed")
        .arg(program)
        .args(arguments)
        .env("PATH", path())
        .stdin(Stdio::piped())
        .process_group(0);
    command
}

/// The search path with the folders of `ip`, `nft` and `sysctl`, which Debian leaves out for those who are not root.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
