//! PID 1 of a sandbox. It runs one command, reaps every orphan, and ends with the command's code; then the kernel kills
//! whatever is left in the PID namespace and takes the other namespaces down. It owns no cluster knowledge.
//!
//! Its stdin is the lifeline: a pipe whose other end the outer process holds. When that closes, because the outer process
//! wants the end or was killed, the command gets SIGTERM and, after a grace period, SIGKILL through the end of PID 1.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::inside;

/// How long the command may take to end after the lifeline closed. A cluster's processes end with PID 1 anyway, so this
/// is only time for a readable last line and for tests' dumps.
const GRACE: Duration = Duration::from_secs(20);

/// Flags of `sandboxed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The command to run, with its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Runs the command as the sandbox's only reason to live.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("`sandboxed` is PID 1 of a sandbox and nothing else; use `portico-e2e up` or `demo`");
    }
    inside::prepare().context("preparing the sandbox")?;
    let [program, arguments @ ..] = args.command.as_slice() else { bail!("no command to run") };
    let child = Command::new(program)
        .args(arguments)
        .env(super::INSIDE, "1")
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let main = Pid::from_raw(i32::try_from(child.id())?);
    drop(child); // waited for below, by waitpid: a std Child has no destructor that would
    let (sender, ended) = mpsc::channel();
    let lifeline = sender.clone();
    thread::spawn(move || reap_all(main, &sender));
    thread::spawn(move || {
        let closed = io::stdin().read_to_end(&mut Vec::new());
        lifeline.send(Event::LifelineClosed(closed.err()))
    });
    Ok(wait(main, &ended))
}

/// Events that PID 1 waits for.
enum Event {
    Exited(ExitStatus),
    LifelineClosed(Option<io::Error>),
}

/// Waits for the command's end, passing on the end of the lifeline.
fn wait(main: Pid, events: &mpsc::Receiver<Event>) -> ExitCode {
    let closed = match events.recv() {
        Ok(Event::Exited(status)) => return code(status),
        Ok(Event::LifelineClosed(error)) => error,
        Err(mpsc::RecvError) => return ExitCode::FAILURE,
    };
    if let Some(error) = closed {
        tracing::warn!(%error, "lifeline broke");
    }
    if kill(main, Signal::SIGTERM).is_err() {
        return ExitCode::FAILURE;
    }
    match events.recv_timeout(GRACE) {
        Ok(Event::Exited(status)) => code(status),
        _ => ExitCode::FAILURE,
    }
}

/// Reaps until the command has ended. Orphans of any kind become children of PID 1.
fn reap_all(main: Pid, sender: &mpsc::Sender<Event>) {
    loop {
        let status = match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => ExitStatus::from_raw(code << 8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => ExitStatus::from_raw(signal as i32),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => ExitStatus::from_raw(1 << 8),
        };
        let _gone = sender.send(Event::Exited(status));
        return;
    }
}

/// A process's code as a shell shows it: 128 + signal for a killed one.
fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(number).unwrap_or(1))
}
