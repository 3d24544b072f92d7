//! Which target takes a new connection.
//!
//! Owns: the targets of one listener and the choice among them. Leaves to others: probing them, carrying bytes.
//! Invariant: source range first, then affinity, then round robin over the healthy; with none healthy, over
//! all (fail open, as an NLB does: a wrong probe must not be an outage).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use portico_provider::{ProxyProtocol, SessionAffinity};
use tokio::sync::watch;

use super::affinity::AffinityTable;
use super::health::{HealthTable, Verdict};
use crate::api::Spec;

/// The targets of one listener.
#[derive(Debug)]
pub struct Pool {
    health: Arc<HealthTable>,
    rules: watch::Sender<Arc<Rules>>,
    affinity: Mutex<AffinityTable>,
    turn: AtomicUsize,
}

/// What holds for one listener at a moment.
#[derive(Debug)]
struct Rules {
    targets: BTreeSet<SocketAddr>,
    source_ranges: BTreeSet<IpNet>,
    session_affinity: SessionAffinity,
    proxy_protocol: ProxyProtocol,
}

impl Pool {
    /// One without targets.
    pub fn new(health: Arc<HealthTable>) -> Self {
        let nobody = Rules {
            targets: BTreeSet::new(),
            source_ranges: BTreeSet::new(),
            session_affinity: SessionAffinity::None,
            proxy_protocol: ProxyProtocol::Off,
        };
        let rules = watch::Sender::new(Arc::new(nobody));
        Self { health, rules, affinity: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// From now on these.
    pub fn update(&self, spec: &Spec, targets: &BTreeSet<SocketAddr>) {
        if spec.session_affinity == SessionAffinity::None {
            self.table().clear();
        }
        self.rules.send_replace(Arc::new(Rules {
            targets: targets.clone(),
            source_ranges: spec.source_ranges.clone(),
            session_affinity: spec.session_affinity,
            proxy_protocol: spec.proxy_protocol,
        }));
    }

    /// Whether this client may connect at all.
    pub fn admits(&self, client: IpAddr) -> bool {
        let ranges = &self.rules().source_ranges;
        ranges.is_empty() || ranges.iter().any(|range| range.contains(&client))
    }

    /// Whether TCP targets get a PROXY header.
    pub fn proxy_protocol(&self) -> ProxyProtocol {
        self.rules().proxy_protocol
    }

    /// Targets for a new connection of this client, the one to try first in front.
    pub fn candidates(&self, client: IpAddr) -> Vec<SocketAddr> {
        let rules = self.rules();
        let mut candidates = self.serving(&rules);
        if candidates.is_empty() {
            return candidates;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len();
        candidates.rotate_left(turn);
        if let SessionAffinity::ClientIp { timeout } = rules.session_affinity {
            let had = self.table().get(client, timeout, Instant::now());
            if let Some(place) = had.and_then(|had| candidates.iter().position(|target| *target == had)) {
                candidates.swap(0, place);
            }
        }
        candidates
    }

    /// The client was connected to this target.
    pub fn connected(&self, client: IpAddr, target: SocketAddr) {
        if let SessionAffinity::ClientIp { timeout } = self.rules().session_affinity {
            self.table().put(client, target, timeout, Instant::now());
        }
    }

    /// Whether the target is one of the listener's, healthy or not.
    pub fn has(&self, target: SocketAddr) -> bool {
        self.rules().targets.contains(&target)
    }

    /// Whether new traffic may go to the target.
    pub fn serves(&self, target: SocketAddr) -> bool {
        self.serving(&self.rules()).contains(&target)
    }

    /// Ends when the target is none of the listener's any more.
    pub async fn left(&self, target: SocketAddr) {
        let mut rules = self.rules.subscribe();
        // The sender lives in self, so this ends only by the condition.
        drop(rules.wait_for(|rules| !rules.targets.contains(&target)).await);
    }

    /// Those of which this is found now.
    pub fn targets(&self, verdict: Verdict) -> Vec<SocketAddr> {
        let rules = self.rules();
        rules.targets.iter().copied().filter(|target| self.health.verdict(*target) == verdict).collect()
    }

    fn serving(&self, rules: &Rules) -> Vec<SocketAddr> {
        let all = || rules.targets.iter().copied();
        let healthy: Vec<SocketAddr> =
            all().filter(|target| self.health.verdict(*target) == Verdict::Healthy).collect();
        if healthy.is_empty() { all().collect() } else { healthy }
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    fn table(&self) -> MutexGuard<'_, AffinityTable> {
        // A panic elsewhere leaves the table whole: every change of it is one insertion.
        self.affinity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
