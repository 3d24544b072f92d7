//! The sockets of the userspace proxy: one for each frontend and list.
//!
//! Owns the set of open sockets, and retries for those that could not be opened. Leaves their endpoints to
//! `translate`, and connections to `tcp` and `udp`.
//!
//! Invariants: a pool whose rules change keeps its socket. Closing a socket ends no TCP connection. A fault is
//! reported once until it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use portico_proxy_core::table::{Backend, Frontend, List, Protocol};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    faults::{Fault, Why},
    files::Share,
    pool::{Pool, PoolKey, Rules},
    proxy::{self, Proxy},
    tcp,
    udp::UdpFlows,
};

/// Interval of retries for sockets that could not be opened.
pub const RETRY: Duration = Duration::from_secs(5);
/// Files of a listening socket: itself, and one for a client that waits for a file for its endpoint.
const FILES: u32 = 2;

/// Address of a pool's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the frontend itself.
    Frontend,
    /// On a port of this address, to which the ruleset redirects: preferably this one, otherwise any.
    Redirected(IpAddr, Option<u16>),
    /// None: the node has no address of the family.
    Nowhere,
}

/// A socket that listens for a pool.
#[derive(Debug)]
pub struct Open {
    pool: Arc<Pool>,
    address: SocketAddr,
    flows: Option<Arc<UdpFlows>>,
    _stop: DropGuard,
    _share: Share,
}

/// All sockets. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Sockets(Arc<Mutex<BTreeMap<PoolKey, Open>>>);

/// Opens and closes sockets.
#[derive(Debug)]
pub struct Pools {
    proxy: Arc<Proxy>,
    sockets: Sockets,
    unserved: BTreeMap<PoolKey, Why>,
    retry_at: Instant,
}

impl Sockets {
    fn open(&self) -> MutexGuard<'_, BTreeMap<PoolKey, Open>> {
        // A panic elsewhere leaves the map whole: every change of it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Address of a pool's socket.
    pub fn address(&self, key: &PoolKey) -> Option<SocketAddr> {
        self.open().get(key).map(|open| open.address)
    }

    /// The sockets of a frontend, as endpoints of the ruleset.
    pub fn of(&self, frontend: Frontend) -> BTreeSet<Backend> {
        let addresses = keys(frontend).into_iter().filter_map(|key| self.address(&key));
        addresses.map(|address| Backend { address: address.ip(), port: address.port() }).collect()
    }

    /// Ends a frontend's UDP flows to all other endpoints, and returns their number.
    pub fn keep_flows(&self, frontend: Frontend, backends: &BTreeSet<Backend>) -> usize {
        let open = self.open();
        let flows = keys(frontend).into_iter().filter_map(|key| open.get(&key)?.flows.clone());
        flows.map(|flows| flows.keep(backends)).sum()
    }
}

/// The pools that a frontend may have.
pub fn keys(frontend: Frontend) -> [PoolKey; 2] {
    [List::Cluster, List::Local].map(|list| PoolKey { frontend, list })
}

impl Pools {
    /// Without any socket.
    pub fn new(proxy: Arc<Proxy>) -> Self {
        Self { proxy, sockets: Sockets::default(), unserved: BTreeMap::new(), retry_at: Instant::now() }
    }

    /// A shared view of the sockets.
    pub fn sockets(&self) -> Sockets {
        self.sockets.clone()
    }

    /// Metrics of the proxy.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> &super::counters::Counters {
        &self.proxy.counters
    }

    /// Every frontend that has, or should have, a socket.
    pub fn frontends(&self) -> BTreeSet<Frontend> {
        self.sockets.open().keys().chain(self.unserved.keys()).map(|key| key.frontend).collect()
    }

    /// Frontends that should have a socket and have none, if it is time to try again.
    pub fn due(&mut self, now: Instant) -> BTreeSet<Frontend> {
        if now < self.retry_at {
            return BTreeSet::new();
        }
        self.retry_at = now + RETRY;
        let due = self.unserved.iter().filter(|(_, why)| why.retry());
        due.map(|(key, _)| key.frontend).collect()
    }

    /// Opens or updates the socket of a pool.
    pub fn serve(&mut self, key: PoolKey, rules: Rules, place: Place) {
        if let Some(open) = self.sockets.open().get(&key)
            && stays(open.address, place)
        {
            open.pool.update(rules);
            return;
        }
        match self.open(key, rules, place) {
            Ok(open) => {
                self.unserved.remove(&key);
                self.sockets.open().insert(key, open);
            }
            Err(why) => self.refuse(key, why),
        }
        self.count();
    }

    /// Removes pools. Their sockets close when the result is dropped.
    pub fn take(&mut self, keys: &[PoolKey]) -> Vec<Open> {
        let mut sockets = self.sockets.open();
        let taken = keys.iter().filter_map(|key| sockets.remove(key)).collect();
        drop(sockets);
        self.unserved.retain(|key, _why| !keys.contains(key));
        self.count();
        taken
    }

    fn count(&self) {
        self.proxy.counters.unserved.set(i64::try_from(self.unserved.len()).unwrap_or(i64::MAX));
    }

    fn refuse(&mut self, key: PoolKey, why: Why) {
        self.sockets.open().remove(&key);
        if self.unserved.get(&key) == Some(&why) {
            return;
        }
        let fault = Fault { frontend: key.frontend, why: why.clone() };
        if why == Why::NoFiles {
            // Which may be thousands of ports: said once for all.
            self.proxy.files.exhausted();
            tracing::debug!(%fault, "a port is not served");
        } else {
            tracing::warn!(%fault, "a port is not served");
        }
        if self.proxy.faults.try_send(fault).is_err() {
            tracing::debug!("no room for an Event");
        }
        self.unserved.insert(key, why);
    }

    fn open(&self, key: PoolKey, rules: Rules, place: Place) -> Result<Open, Why> {
        let proxy = &self.proxy;
        let share = proxy.files.try_take(FILES).ok_or(Why::NoFiles)?;
        let pool = Pool::new(key, rules, proxy.options.choice, proxy.clients.clone());
        let (pool, stop) = (Arc::new(pool), CancellationToken::new());
        let _context = proxy.runtime.enter();
        let (address, flows) = match key.frontend.protocol {
            Protocol::Tcp => {
                let listener = bind(key.frontend, place, proxy::listen)?;
                let listener = TcpListener::from_std(listener).map_err(|error| Why::of(&error))?;
                let address = listener.local_addr().map_err(|error| Why::of(&error))?;
                proxy.runtime.spawn(tcp::accept(listener, pool.clone(), proxy.clone(), stop.clone()));
                (address, None)
            }
            Protocol::Udp => {
                let socket = bind(key.frontend, place, proxy::receive)?;
                let socket = UdpSocket::from_std(socket).map_err(|error| Why::of(&error))?;
                let address = socket.local_addr().map_err(|error| Why::of(&error))?;
                let flows = UdpFlows::new(socket, pool.clone(), proxy.clone(), stop.clone());
                proxy.runtime.spawn(flows.clone().forward());
                (address, Some(flows))
            }
            Protocol::Sctp => return Err(Why::Protocol),
        };
        Ok(Open { pool, address, flows, _stop: stop.drop_guard(), _share: share })
    }
}

fn stays(address: SocketAddr, place: Place) -> bool {
    match place {
        Place::Frontend => true,
        Place::Redirected(wanted, _port) => address.ip() == wanted,
        Place::Nowhere => false,
    }
}

fn bind<S>(
    frontend: Frontend,
    place: Place,
    open: impl Fn(SocketAddr) -> std::io::Result<S>,
) -> Result<S, Why> {
    let opened = match place {
        Place::Frontend => open(SocketAddr::new(frontend.address, frontend.port)),
        // What a predecessor had is still what the kernel redirects to.
        Place::Redirected(address, Some(port)) => {
            open(SocketAddr::new(address, port)).or_else(|_taken| open(SocketAddr::new(address, 0)))
        }
        Place::Redirected(address, None) => open(SocketAddr::new(address, 0)),
        Place::Nowhere => return Err(Why::NoAddress),
    };
    opened.map_err(|error| Why::of(&error))
}
