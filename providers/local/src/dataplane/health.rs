//! Active health checks: a probe task for each target, and what they found.
//!
//! Owns: probing and the verdicts. Leaves to others: what an unhealthy target means for traffic (`pool`).
//! Invariant: the first good answer decides at once, so that a new target serves. Any other verdict comes after the
//! threshold of equal answers in a row, as one bad answer may only be a node that is still being programmed. Before
//! its first verdict a target is neither healthy nor unhealthy. Without a health check all are healthy.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use portico_provider::{HealthCheck, Probe, ProbePort, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::Spec;

/// The health of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New traffic should go there.
    Healthy,
    /// New traffic should go elsewhere.
    Unhealthy,
    /// Too few answers so far.
    Unknown,
}

/// Verdicts and the probes behind them.
#[derive(Debug)]
pub struct HealthTable {
    /// Probe tasks hold it weakly: they end with the table.
    table: Arc<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Rises with every change of what [`HealthTable::verdicts`] answers, under the lock.
    version: AtomicU64,
    /// The only lock: what is probed and what was found are read and written together.
    probes: Mutex<Probes>,
}

#[derive(Debug, Default)]
struct Probes {
    check: Option<HealthCheck>,
    targets: BTreeMap<SocketAddr, Probed>,
}

#[derive(Debug)]
struct Probed {
    /// `None` before the first verdict.
    healthy: Option<bool>,
    /// Stops the task that probes.
    _task: DropGuard,
}

impl HealthTable {
    /// One that reports everything healthy until it has targets to probe.
    pub fn new() -> Self {
        Self { table: Arc::default() }
    }

    /// Probes the targets of `spec`, and no others, from now on. A changed check starts over, and what the former
    /// found holds until it has found something.
    pub fn watch(&self, spec: &Spec) {
        let wanted = probed(spec);
        let mut probes = self.table.lock();
        let restart = probes.check != spec.health_check;
        probes.check.clone_from(&spec.health_check);
        probes.targets.retain(|target, _probed| wanted.contains(target));
        for target in wanted {
            let Some(check) = spec.health_check.clone() else { break };
            let former = probes.targets.get(&target).map(|probed| probed.healthy);
            if restart || former.is_none() {
                let task = self.start(check, target);
                probes.targets.insert(target, Probed { healthy: former.flatten(), _task: task });
            }
        }
        self.table.changed();
    }

    /// The number of changes until now: while it stays, so do all verdicts.
    pub fn version(&self) -> u64 {
        self.table.version.load(Ordering::Acquire)
    }

    /// The health of these targets at one moment; a target that is not probed counts as healthy.
    pub fn verdicts(&self, targets: impl IntoIterator<Item = SocketAddr>) -> Verdicts {
        let probes = self.table.lock();
        let verdict = |target| match probes.targets.get(&target).map(|probed| probed.healthy) {
            Some(Some(false)) => (target, Verdict::Unhealthy),
            Some(None) => (target, Verdict::Unknown),
            Some(Some(true)) | None => (target, Verdict::Healthy),
        };
        Verdicts { version: self.version(), targets: targets.into_iter().map(verdict).collect() }
    }

    fn start(&self, check: HealthCheck, target: SocketAddr) -> DropGuard {
        let stop = CancellationToken::new();
        let table = Arc::downgrade(&self.table);
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.run_until_cancelled(probe_for_ever(check, target, &table, &stopped)).await
        });
        stop.drop_guard()
    }
}

/// The health of some targets at a moment, in their order.
#[derive(Debug)]
pub struct Verdicts {
    /// At which [`HealthTable::version`].
    pub version: u64,
    /// Each with what was found.
    pub targets: Vec<(SocketAddr, Verdict)>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Probes> {
        // Every change under this lock is a single insertion or removal, so a panic leaves it whole.
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Keeps what a probe found, unless it was stopped: then another asks, or nobody.
    fn decide(&self, target: SocketAddr, healthy: bool, stopped: &CancellationToken) {
        let mut probes = self.lock();
        // Tasks are stopped under this lock only.
        if let Some(probed) = probes.targets.get_mut(&target).filter(|_probed| !stopped.is_cancelled()) {
            probed.healthy = Some(healthy);
            self.changed();
        }
    }
}

impl Default for HealthTable {
    fn default() -> Self {
        Self::new()
    }
}

/// Targets that the check can ask: a TCP probe of the traffic port says nothing about a UDP listener.
fn probed(spec: &Spec) -> BTreeSet<SocketAddr> {
    let by_traffic_port = spec.health_check.as_ref().is_some_and(|check| match &check.probe {
        Probe::Tcp { port } | Probe::Http { port, path: _ } => *port == ProbePort::Traffic,
    });
    let asked =
        spec.listeners.iter().filter(|(key, _targets)| !by_traffic_port || key.protocol == Protocol::Tcp);
    let targets: BTreeSet<SocketAddr> = asked.flat_map(|(_key, targets)| targets.iter().copied()).collect();
    if spec.health_check.is_some() { targets } else { BTreeSet::new() }
}

async fn probe_for_ever(
    check: HealthCheck,
    target: SocketAddr,
    table: &Weak<Table>,
    stopped: &CancellationToken,
) {
    let mut streak = Streak { healthy: None, against: 0 };
    loop {
        let answer = tokio::time::timeout(check.timeout, probe(&check.probe, target)).await;
        let good = matches!(answer, Ok(Ok(true)));
        if streak.count(good, &check) {
            tracing::info!(to = %target, healthy = good, "target health changed");
            let Some(table) = table.upgrade() else { return };
            table.decide(target, good, stopped);
        }
        tokio::time::sleep(check.interval).await;
    }
}

/// Equal answers in a row.
struct Streak {
    healthy: Option<bool>,
    against: u32,
}

impl Streak {
    /// Counts an answer; whether the verdict is a new one.
    fn count(&mut self, good: bool, check: &HealthCheck) -> bool {
        if self.healthy == Some(good) {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if good { check.healthy_threshold } else { check.unhealthy_threshold };
        let decided = (self.healthy.is_none() && good) || self.against >= needed;
        if decided {
            *self = Self { healthy: Some(good), against: 0 };
        }
        decided
    }
}

async fn probe(probe: &Probe, target: SocketAddr) -> io::Result<bool> {
    match probe {
        Probe::Tcp { port } => TcpStream::connect(at(target, *port)).await.map(|_stream| true),
        Probe::Http { port, path } => get(at(target, *port), path).await,
    }
}

fn at(target: SocketAddr, port: ProbePort) -> SocketAddr {
    match port {
        ProbePort::Traffic => target,
        ProbePort::Fixed(port) => SocketAddr::new(target.ip(), port.get()),
    }
}

/// Longest status line that is read: `HTTP/1.1 200`.
const STATUS_LENGTH: usize = 12;

/// One HTTP/1.1 request (RFC 9112); only 200 is good, as kube-proxy answers.
async fn get(address: SocketAddr, path: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: portico-lb\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; STATUS_LENGTH];
    stream.read_exact(&mut status).await?;
    Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the answers made a new verdict.
    fn changes<const N: usize>(answers: [bool; N]) -> [bool; N] {
        let check =
            HealthCheck { healthy_threshold: 2, unhealthy_threshold: 3, ..HealthCheck::tcp_traffic() };
        let mut streak = Streak { healthy: None, against: 0 };
        answers.map(|good| streak.count(good, &check))
    }

    #[test]
    fn the_first_good_answer_decides_and_then_the_thresholds_do() {
        let answers = [true, false, false, true, false, false, false, true, true];
        assert_eq!(changes(answers), [true, false, false, false, false, false, true, false, true]);
    }

    #[test]
    fn a_new_target_is_not_unhealthy_before_the_threshold() {
        assert_eq!(changes([false, false, true]), [false, false, true]);
        assert_eq!(changes([false, false, false]), [false, false, true]);
    }
}
