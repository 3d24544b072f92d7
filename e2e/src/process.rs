//! The long-running processes of a cluster: each with a log file, watched, and stopped in order. A process that ends while
//! it should run is reported to every waiting task ([`Crashes`]), with the last lines of its log. So no task waits for
//! its deadline when the reason is known.

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Command, sync::watch, task::JoinHandle, time::timeout};

/// How long a process may take to stop after SIGTERM, before SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The first process of a cluster that ended when it should not have.
#[derive(Clone, Debug)]
pub struct Crash {
    name: String,
    status: String,
    tail: String,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, status, tail } = self;
        write!(f, "{name} ended with {status}; the end of its log:\n{tail}")
    }
}

/// Reports of crashes; a task can wait for the first.
#[derive(Clone, Debug)]
pub struct Crashes(watch::Sender<Option<Crash>>);

impl Crashes {
    /// No crash yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Waits for the first crash. Pends forever if there is none.
    pub async fn first(&self) -> anyhow::Error {
        let mut seen = self.0.subscribe();
        // Owned before the next await: a guard held across one would make every wait in this crate non-`Send`.
        let crash = seen.wait_for(Option::is_some).await.ok().and_then(|crash| crash.clone());
        match crash {
            Some(crash) => anyhow!("{crash}"),
            None => std::future::pending().await, // this sender lives as long as the receiver, so never
        }
    }

    /// The outcome of `work`, or the first crash if that comes earlier.
    pub async fn or<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            done = Box::pin(work) => done,
            crash = self.first() => Err(crash),
        }
    }

    fn report(&self, crash: Crash) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(crash);
            }
            is_first
        });
    }
}

impl Default for Crashes {
    fn default() -> Self {
        Self::new()
    }
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    stopping: Arc<AtomicBool>,
    waiter: JoinHandle<()>,
}

impl Process {
    /// Starts `command`, its output appended to `<logs>/<name>.log`.
    pub fn start(name: &str, mut command: Command, logs: &Path, crashes: &Crashes) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let err = out.try_clone().context("sharing a log file")?;
        let program = command.as_std().get_program().display().to_string();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name} ({program})"))?;
        let pid = child.id().context("a process that was just started has no id")?;
        let stopping = Arc::new(AtomicBool::new(false));
        let waiter = tokio::spawn({
            let (name, log, stopping, crashes) =
                (name.to_owned(), log.clone(), stopping.clone(), crashes.clone());
            async move {
                let status = child.wait().await;
                if !stopping.load(Ordering::SeqCst) {
                    crashes.report(Crash { name, status: describe(status), tail: tail(&log, 15) });
                }
            }
        });
        Ok(Self { name: name.to_owned(), pid: Pid::from_raw(i32::try_from(pid)?), log, stopping, waiter })
    }

    /// Name of the process, and of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, as seen in the sandbox.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Asks it to stop, waits for its end, and kills it after a grace period.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stopping.store(true, Ordering::SeqCst);
        if self.waiter.is_finished() {
            return Ok(());
        }
        self.signal(Signal::SIGTERM)?;
        if timeout(STOP_GRACE, &mut self.waiter).await.is_err() {
            self.signal(Signal::SIGKILL)?;
            (&mut self.waiter).await.with_context(|| format!("waiting for the end of {}", self.name))?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("an unknown status ({error})"),
    }
}

/// The last `lines` lines of a log file.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map_or_else(
        |error| format!("({}: {error})", log.display()),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    );
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Runs a program to its end and gives its stdout; a failure is an error with its stderr.
pub async fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.as_std().get_program().display().to_string();
    let arguments: Vec<String> =
        command.as_std().get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let done = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("starting {program}"))?;
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        return Err(anyhow!(
            "`{program} {}` ended with {}: {}",
            arguments.join(" "),
            done.status,
            stderr.trim()
        ));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_dies_is_told_with_the_end_of_its_log() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let crashes = Crashes::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        let _process = Process::start("etcd", command, dir.path(), &crashes)?;
        let crash = timeout(Duration::from_secs(10), crashes.first()).await?.to_string();
        assert!(crash.contains("etcd ended with exit status: 3"), "{crash}");
        assert!(crash.contains("the reason"), "{crash}");
        Ok(())
    }

    #[tokio::test]
    async fn a_process_that_is_stopped_is_no_crash() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let crashes = Crashes::new();
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::start("sleep", command, dir.path(), &crashes)?.stop().await?;
        assert!(crashes.0.borrow().is_none());
        Ok(())
    }
}
