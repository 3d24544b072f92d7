//! The endpoints behind one socket of the proxy, and the choice among them.
//!
//! Owns the order: affinity first, then random or round robin. An endpoint that just failed is not chosen again
//! while there is another. Leaves dialling to `dial` and `udp`. Invariant: only endpoints of the present list
//! are chosen.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use clap::ValueEnum;
use portico_proxy_core::{
    affinity,
    table::{Backend, Frontend, List},
};
use tokio::time::Instant;

use super::clients::{Affinity, Clients};

/// Key of a pool: a frontend and one of its lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// Address that clients dial.
    pub frontend: Frontend,
    /// Endpoint list of the frontend.
    pub list: List,
}

/// Endpoints and affinity of a pool at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Endpoints that take new connections.
    pub backends: Box<[Backend]>,
    /// `ClientIP` affinity.
    pub affinity: Option<Affinity>,
}

/// Choice of an endpoint for a client without an affinity entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Each endpoint with the same probability.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
}

/// A list of endpoints with its choice.
#[derive(Debug)]
pub struct Pool {
    key: PoolKey,
    rules: Mutex<Arc<Rules>>,
    choice: Choice,
    turn: AtomicUsize,
    clients: Arc<Clients>,
}

impl Pool {
    /// A pool under these rules.
    pub fn new(key: PoolKey, rules: Rules, choice: Choice, clients: Arc<Clients>) -> Self {
        Self { key, rules: Mutex::new(Arc::new(rules)), choice, turn: AtomicUsize::new(0), clients }
    }

    /// Frontend and list.
    pub fn key(&self) -> PoolKey {
        self.key
    }

    /// Replaces the rules. Existing connections stay.
    pub fn update(&self, rules: Rules) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An endpoint for a new connection of this client that is none of `tried`; `None` if there is no such.
    pub fn choose(&self, client: IpAddr, tried: &[Backend]) -> Option<Backend> {
        let (rules, now) = (self.rules(), Instant::now());
        let backends = &rules.backends;
        let is_new = |backend: &Backend| !tried.contains(backend);
        let Some(affinity) = rules.affinity else { return self.pick(backends, is_new) };
        let kept = affinity::kept(backends, self.clients.get(&affinity, client, now)).filter(is_new);
        let chosen = kept.or_else(|| self.pick(backends, is_new))?;
        self.clients.put(&affinity, client, chosen, now);
        Some(chosen)
    }

    /// Records that a connection to this endpoint failed: the client's affinity entry is deleted.
    pub fn failed(&self, client: IpAddr, backend: Backend) {
        if let Some(affinity) = self.rules().affinity {
            self.clients.forget(&affinity, client, backend);
        }
    }

    fn pick(&self, backends: &[Backend], wanted: impl Fn(&Backend) -> bool) -> Option<Backend> {
        if backends.is_empty() {
            return None;
        }
        let first = match self.choice {
            Choice::Random => fastrand::usize(..backends.len()),
            Choice::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % backends.len(),
        };
        let (before, from) = backends.split_at(first);
        from.iter().chain(before).copied().find(wanted)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use portico_proxy_core::table::{Alias, Protocol};

    use super::*;

    pub(crate) fn mk_backend(number: u8) -> Backend {
        Backend { address: [10, 244, 0, number].into(), port: 8080 }
    }

    pub(crate) fn mk_key() -> PoolKey {
        let frontend = Frontend { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80 };
        PoolKey { frontend, list: List::Cluster }
    }

    pub(crate) fn mk_rules(numbers: impl IntoIterator<Item = u8>, affinity: Option<u64>) -> Rules {
        Rules {
            backends: numbers.into_iter().map(mk_backend).collect(),
            affinity: affinity.map(Duration::from_secs).map(mk_affinity),
        }
    }

    pub(crate) fn mk_affinity(timeout: Duration) -> Affinity {
        Affinity { port: Alias { address: [240, 0, 0, 1].into(), protocol: Protocol::Tcp }, pool: 1, timeout }
    }

    pub(crate) fn mk_pool(choice: Choice, rules: Rules) -> Pool {
        Pool::new(mk_key(), rules, choice, Arc::default())
    }

    fn client(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn round_robin_takes_turns_and_random_finds_all() {
        let pool = mk_pool(Choice::RoundRobin, mk_rules(1..=3, None));
        let chosen: Vec<_> = (0..6).filter_map(|_| pool.choose(client(1), &[])).collect();
        assert_eq!(chosen, [1, 2, 3, 1, 2, 3].map(mk_backend));
        let pool = mk_pool(Choice::Random, mk_rules(1..=3, None));
        let chosen: BTreeSet<_> = (0..200).filter_map(|_| pool.choose(client(1), &[])).collect();
        assert_eq!(chosen.len(), 3);
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        for choice in [Choice::Random, Choice::RoundRobin] {
            let pool = mk_pool(choice, mk_rules(1..=3, None));
            let mut tried = Vec::new();
            while let Some(backend) = pool.choose(client(1), &tried) {
                tried.push(backend);
            }
            let all: BTreeSet<_> = tried.iter().copied().collect();
            assert_eq!((tried.len(), all.len()), (3, 3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_keeps_its_endpoint_until_its_time_is_up_or_the_endpoint_goes() {
        let pool = mk_pool(Choice::RoundRobin, mk_rules(1..=3, Some(60)));
        let first = pool.choose(client(1), &[]);
        assert_ne!(pool.choose(client(2), &[]), first, "others take their turn");
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(59)).await;
            assert_eq!(pool.choose(client(1), &[]), first, "each connection renews its time");
        }
        pool.update(mk_rules(2..=3, Some(60)));
        let second = pool.choose(client(1), &[]);
        assert_ne!(second, first);
        pool.update(mk_rules(1..=3, Some(60)));
        assert_eq!(pool.choose(client(1), &[]), second, "the new choice has an entry");
        tokio::time::advance(Duration::from_mins(1)).await;
        let later: BTreeSet<_> = (0..3)
            .filter_map(|_| {
                pool.failed(client(1), second.expect("chosen"));
                let chosen = pool.choose(client(1), &[]);
                pool.failed(client(1), chosen.expect("chosen"));
                chosen
            })
            .collect();
        assert!(later.len() > 1, "after its time, and after a failure, it is balanced like anybody");
    }

    #[test]
    fn an_affinity_endpoint_that_failed_is_replaced() {
        let pool = mk_pool(Choice::RoundRobin, mk_rules(1..=2, Some(60)));
        let dead = pool.choose(client(1), &[]).expect("one");
        pool.failed(client(1), dead);
        let other = pool.choose(client(1), &[dead]).expect("the other");
        assert_ne!(other, dead);
        assert_eq!(pool.choose(client(1), &[]), Some(other));
        assert_eq!(
            pool.choose(client(1), &[other]),
            Some(dead),
            "what was tried is tried no more, kept or not"
        );
    }
}
