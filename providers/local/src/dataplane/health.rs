//! Active health checks: a probe task for each target, and what they found.
//!
//! Owns: probing and the verdicts. Leaves to others: what an unhealthy target means for traffic (`pool`).
//! Invariant: the first good answer decides at once, so that a new target serves; any other verdict comes after the
//! threshold of equal answers in a row, as one bad answer may only be a node that is still being programmed. Before
//! its first verdict a target is neither healthy nor unhealthy. Without a health check all are healthy.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portico_provider::{HealthCheck, Probe, ProbePort, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::Spec;

/// What the probes found of a target.
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
    inner: Mutex<Inner>,
    verdicts: Arc<Mutex<BTreeMap<SocketAddr, bool>>>,
}

#[derive(Debug, Default)]
struct Inner {
    check: Option<HealthCheck>,
    probes: BTreeMap<SocketAddr, DropGuard>,
}

impl HealthTable {
    /// One that finds everything healthy until it is told what to probe.
    pub fn new() -> Self {
        Self { inner: Mutex::default(), verdicts: Arc::default() }
    }

    /// Probes the targets of `spec`, and no others, from now on. A changed check starts over.
    pub fn watch(&self, spec: &Spec) {
        let mut inner = lock(&self.inner);
        if inner.check != spec.health_check {
            inner.check.clone_from(&spec.health_check);
            inner.probes.clear();
        }
        let targets = probed(spec);
        inner.probes.retain(|target, _probe| targets.contains(target));
        lock(&self.verdicts).retain(|target, _verdict| targets.contains(target));
        let Some(check) = inner.check.clone() else { return };
        for target in targets {
            inner.probes.entry(target).or_insert_with(|| self.start(check.clone(), target));
        }
    }

    /// What is known of a target; one that nobody probes is healthy.
    pub fn verdict(&self, target: SocketAddr) -> Verdict {
        match lock(&self.verdicts).get(&target) {
            Some(false) => Verdict::Unhealthy,
            None if lock(&self.inner).probes.contains_key(&target) => Verdict::Unknown,
            Some(true) | None => Verdict::Healthy,
        }
    }

    fn start(&self, check: HealthCheck, target: SocketAddr) -> DropGuard {
        let stop = CancellationToken::new();
        let verdicts = Arc::clone(&self.verdicts);
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.run_until_cancelled(probe_for_ever(check, target, &verdicts, &stopped)).await
        });
        stop.drop_guard()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is a single insertion or removal, so a panic leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn probe_for_ever(
    check: HealthCheck,
    target: SocketAddr,
    verdicts: &Mutex<BTreeMap<SocketAddr, bool>>,
    stopped: &CancellationToken,
) {
    let mut streak = Streak { healthy: None, against: 0 };
    loop {
        let answer = tokio::time::timeout(check.timeout, probe(&check.probe, target)).await;
        let good = matches!(answer, Ok(Ok(true)));
        if streak.count(good, &check) && !stopped.is_cancelled() {
            tracing::info!(%target, healthy = good, "target health changed");
            lock(verdicts).insert(target, good);
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
