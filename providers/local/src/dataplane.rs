//! Carrying traffic: from an address and port of a load balancer to a target that can take it.
//!
//! ```text
//! client ─▶ tcp | udp frontend ─▶ pool.pick (source range, affinity, health, round robin) ─▶ target
//!                                   ▲
//!                                health probes
//! ```
//! Owns: [`LiveBalancer`], one load balancer's sockets, and what they share. Leaves to others: which load
//! balancers there are and their addresses (`daemon::registry`).
//! Invariant: applying a new spec touches only what differs. A connection ends when its client or target ends
//! it, or when its target or listener left and the drain timeout has passed.

pub mod affinity;
pub mod health;
pub mod metrics;
pub mod pool;
pub mod proxy_header;
pub mod source_ranges;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portico_provider::{ListenerKey, Protocol};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Spec;
use health::HealthTable;
use metrics::Metrics;
use pool::Pool;

/// Times that hold for every load balancer of a daemon.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a connection may go on after its target or listener left.
    pub drain: Duration,
    /// How long a UDP flow lives without a packet.
    pub udp_idle: Duration,
    /// How long a target may take to accept.
    pub connect: Duration,
}

/// The state that all frontends of a daemon share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Timeouts of connections and health checks.
    pub timing: Timing,
    /// The counters of `/metrics`.
    pub metrics: Arc<Metrics>,
}

/// One load balancer's sockets, connections and probes. Dropping it stops them; [`LiveBalancer::retire`] drains.
#[derive(Debug)]
pub struct LiveBalancer {
    shared: Shared,
    health: Arc<HealthTable>,
    pools: BTreeMap<ListenerKey, Arc<Pool>>,
    frontends: BTreeMap<(IpAddr, ListenerKey), Frontend>,
    /// Connections and flows, also those of frontends that are gone.
    connections: TaskTracker,
    /// Ends every connection at once.
    kill: CancellationToken,
}

/// An open socket; accepting ends when this is dropped.
#[derive(Debug)]
struct Frontend {
    stop: CancellationToken,
    /// Ends when the listener leaves: its connections then have the drain timeout.
    leaving: CancellationToken,
    /// Done when the socket is closed, so that the same address can be bound again.
    closed: TaskTracker,
}

impl LiveBalancer {
    /// One with nothing open.
    pub fn new(shared: Shared) -> Self {
        Self {
            health: Arc::new(HealthTable::new()),
            shared,
            pools: BTreeMap::new(),
            frontends: BTreeMap::new(),
            connections: TaskTracker::new(),
            kill: CancellationToken::new(),
        }
    }

    /// Makes the sockets what `spec` asks on `addresses`; what could not be opened is returned, and tried again
    /// by the next call.
    pub async fn apply(
        &mut self,
        spec: &Spec,
        addresses: &BTreeSet<IpAddr>,
    ) -> BTreeMap<ListenerKey, String> {
        self.health.watch(spec);
        self.pools.retain(|key, _pool| spec.listeners.contains_key(key));
        for (key, targets) in &spec.listeners {
            let health = Arc::clone(&self.health);
            let pool = self.pools.entry(*key).or_insert_with(|| Arc::new(Pool::new(health)));
            pool.update(spec, targets);
        }
        self.close_others(spec, addresses).await;
        let mut errors = BTreeMap::new();
        for address in addresses {
            for key in spec.listeners.keys() {
                if let Err(error) = self.open(*address, *key) {
                    errors.insert(*key, format!("cannot listen on {address} {key}: {error}"));
                }
            }
        }
        errors
    }

    async fn close_others(&mut self, spec: &Spec, addresses: &BTreeSet<IpAddr>) {
        let gone: Vec<_> = self
            .frontends
            .extract_if(.., |(address, key), _frontend| {
                !addresses.contains(address) || !spec.listeners.contains_key(key)
            })
            .collect();
        for (_place, frontend) in gone {
            frontend.close().await;
        }
    }

    fn open(&mut self, address: IpAddr, key: ListenerKey) -> io::Result<()> {
        let place = (address, key);
        let Some(pool) = self.pools.get(&key).filter(|_pool| !self.frontends.contains_key(&place)) else {
            return Ok(());
        };
        let frontend = Frontend {
            stop: CancellationToken::new(),
            leaving: CancellationToken::new(),
            closed: TaskTracker::new(),
        };
        let wiring = Wiring {
            shared: self.shared.clone(),
            pool: Arc::clone(pool),
            connections: self.connections.clone(),
            kill: self.kill.clone(),
            stop: frontend.stop.clone(),
            leaving: frontend.leaving.clone(),
        };
        let socket = SocketAddr::new(address, key.port.get());
        match key.protocol {
            Protocol::Tcp => {
                let listener = tcp::listen(socket)?;
                frontend.closed.spawn(tcp::accept(listener, wiring));
            }
            Protocol::Udp => {
                let listener = udp::listen(socket)?;
                frontend.closed.spawn(udp::forward(listener, wiring));
            }
            Protocol::Sctp => return Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
        frontend.closed.close();
        self.frontends.insert(place, frontend);
        Ok(())
    }

    /// The results of the probes.
    pub fn health(&self) -> &Arc<HealthTable> {
        &self.health
    }

    /// Accepts nothing new, lets connections end by themselves until the drain timeout, then ends them.
    pub async fn retire(mut self) {
        for (_place, frontend) in std::mem::take(&mut self.frontends) {
            frontend.close().await;
        }
        self.connections.close();
        let drained = tokio::time::timeout(self.shared.timing.drain, self.connections.wait()).await;
        if drained.is_err() {
            tracing::info!(connections = self.connections.len(), "drain timeout passed, closing the rest");
            self.kill.cancel();
            self.connections.wait().await;
        }
    }
}

impl Drop for LiveBalancer {
    fn drop(&mut self) {
        self.kill.cancel();
        for frontend in self.frontends.values() {
            frontend.stop.cancel();
        }
    }
}

impl Frontend {
    async fn close(self) {
        self.stop.cancel();
        self.leaving.cancel();
        self.closed.wait().await;
    }
}

/// The arguments of a frontend's tasks.
#[derive(Clone, Debug)]
pub struct Wiring {
    shared: Shared,
    pool: Arc<Pool>,
    connections: TaskTracker,
    kill: CancellationToken,
    stop: CancellationToken,
    leaving: CancellationToken,
}
