//! Which target takes a new connection.
//!
//! Owns: the targets of one listener and the choice among them. Leaves to others: probing them, carrying bytes.
//! Invariant: source range first, then affinity, then round robin over the healthy. With none healthy, it goes over
//! all (fail open, as an NLB does: a wrong probe must not be an outage).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portico_provider::{ProxyProtocol, SessionAffinity};
use tokio::sync::watch;

use super::affinity::AffinityTable;
use super::health::{HealthTable, Verdict};
use super::source_ranges::SourceRanges;
use crate::api::Spec;

/// The targets of one listener.
#[derive(Debug)]
pub struct Pool {
    health: Arc<HealthTable>,
    rules: watch::Sender<Arc<Rules>>,
    choice: Mutex<Arc<Choice>>,
    affinity: Mutex<AffinityTable>,
    turn: AtomicUsize,
}

/// The rules of one listener at a moment.
#[derive(Debug)]
struct Rules {
    targets: BTreeSet<SocketAddr>,
    source_ranges: SourceRanges,
    session_affinity: SessionAffinity,
    proxy_protocol: ProxyProtocol,
}

/// Who may connect and where new traffic may go: computed once for each change of the rules or of a verdict.
#[derive(Debug)]
pub struct Choice {
    rules: Arc<Rules>,
    health_version: u64,
    generation: u64,
    /// In their order: the healthy targets, or all when none is.
    targets: Vec<SocketAddr>,
}

impl Choice {
    /// Another one of the same pool has another number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this client may connect at all.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.rules.source_ranges.admit(client)
    }

    /// Whether new traffic may go to the target.
    pub fn serves(&self, target: SocketAddr) -> bool {
        self.targets.binary_search(&target).is_ok()
    }
}

impl Pool {
    /// One without targets.
    pub fn new(health: Arc<HealthTable>) -> Self {
        let nobody = Arc::new(Rules {
            targets: BTreeSet::new(),
            source_ranges: SourceRanges::default(),
            session_affinity: SessionAffinity::None,
            proxy_protocol: ProxyProtocol::Off,
        });
        let choice =
            Choice { rules: Arc::clone(&nobody), health_version: 0, generation: 0, targets: Vec::new() };
        Self {
            health,
            rules: watch::Sender::new(nobody),
            choice: Mutex::new(Arc::new(choice)),
            affinity: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// From now on these.
    pub fn update(&self, spec: &Spec, targets: &BTreeSet<SocketAddr>) {
        if spec.session_affinity == SessionAffinity::None {
            self.table().clear();
        }
        self.rules.send_replace(Arc::new(Rules {
            targets: targets.clone(),
            source_ranges: spec.source_ranges.iter().collect(),
            session_affinity: spec.session_affinity,
            proxy_protocol: spec.proxy_protocol,
        }));
    }

    /// What holds now. Its cost does not depend on how many targets there are, unless something changed since it was
    /// last asked for.
    pub fn choice(&self) -> Arc<Choice> {
        let mut choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = self.rules();
        if !Arc::ptr_eq(&choice.rules, &rules) || choice.health_version != self.health.version() {
            *choice = Arc::new(self.choose(rules, choice.generation + 1));
        }
        Arc::clone(&choice)
    }

    fn choose(&self, rules: Arc<Rules>, generation: u64) -> Choice {
        let verdicts = self.health.verdicts(rules.targets.iter().copied());
        let healthy = |(target, verdict): &(SocketAddr, _)| (*verdict == Verdict::Healthy).then_some(*target);
        let mut targets: Vec<SocketAddr> = verdicts.targets.iter().filter_map(healthy).collect();
        if targets.is_empty() {
            targets.extend(&rules.targets);
        }
        Choice { rules, health_version: verdicts.version, generation, targets }
    }

    /// Whether TCP targets get a PROXY header.
    pub fn proxy_protocol(&self) -> ProxyProtocol {
        self.rules().proxy_protocol
    }

    /// Targets for a new connection of this client, the one to try first in front.
    pub fn candidates(&self, client: IpAddr) -> impl Iterator<Item = SocketAddr> + use<> {
        let choice = self.choice();
        let count = choice.targets.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let had = match choice.rules.session_affinity {
            SessionAffinity::ClientIp { timeout } => self.table().get(client, timeout, Instant::now()),
            SessionAffinity::None => None,
        };
        let had = had.filter(|had| choice.serves(*had));
        let around = (turn..count).chain(0..turn).filter_map(move |place| choice.targets.get(place).copied());
        had.into_iter().chain(around.filter(move |target| Some(*target) != had))
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

    /// Ends when the target is none of the listener's any more.
    pub async fn left(&self, target: SocketAddr) {
        let mut rules = self.rules.subscribe();
        // The sender lives in self, so this ends only by the condition.
        drop(rules.wait_for(|rules| !rules.targets.contains(&target)).await);
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    fn table(&self) -> MutexGuard<'_, AffinityTable> {
        // A panic elsewhere leaves the table whole: every change of it is one insertion.
        self.affinity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_computed_again_while_nothing_changes() {
        let pool = Pool::new(Arc::default());
        let (client, first) = ("10.0.0.1".parse().unwrap(), pool.choice().generation());
        for _ in 0..100 {
            assert_eq!((pool.choice().generation(), pool.candidates(client).count()), (first, 0));
        }
    }
}
