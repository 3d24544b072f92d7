//! The parent that stays while a program runs in a process-id namespace.
//!
//! Owns the start of the second stage, passing signals on, and the exit code (128 + signal, as a shell says it). Leaves
//! namespaces to `enter.rs`. Invariant: the program never outlives this process, whatever ends it. The second stage asks
//! for SIGKILL on its parent's death; as the first process of its namespace it takes all others along.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::{ENTRY_VARIABLE, Entry};

/// Signals that belong to the program.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Starts this binary once more for the steps that only a child can take, and waits for it.
pub(super) fn second_stage(exe: &Path, entry: &Entry) -> Result<ExitCode> {
    let signals = blocked_signals()?;
    let child = Command::new(exe)
        .args(["enter", "--inside"])
        .env(ENTRY_VARIABLE, serde_json::to_string(entry).context("write the entry")?)
        .spawn()
        .with_context(|| format!("start {} inside", exe.display()))?;
    let status = wait(child, &signals)?;
    Ok(ExitCode::from(code(status)))
}

/// Blocked here, so that they wait for [`wait`]. The second stage inherits the mask and empties it before the program starts.
fn blocked_signals() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in PASSED_ON {
        signals.add(signal);
    }
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("block signals")?;
    Ok(signals)
}

fn wait(mut child: Child, signals: &SigSet) -> Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
    loop {
        if let Some(status) = child.try_wait().context("wait for the program")? {
            return Ok(status);
        }
        match signals.wait().context("wait for a signal")? {
            Signal::SIGCHLD => {}
            signal => match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {} // gone: the next try_wait says so
                Err(error) => return Err(error).context("pass a signal on"),
            },
        }
    }
}

/// The exit code as a shell gives it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_128_and_its_number() {
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
    }
}
