//! The userspace dataplane: the kernel redirects clients to a socket of this process, which connects to an
//! endpoint and relays the bytes.
//!
//! ```text
//!   Transaction ──► desired (State) ──► translate ──┬─► pools: sockets, tcp, udp ──► endpoints
//!                                                  └─► elements that lead to the sockets ──► nftables dataplane ──► kernel
//! ```
//!
//! docs/userspace.md lists its properties. This file owns the order: sockets open before the kernel redirects
//! to them, and close after it has stopped. The kernel only has these redirects; the lists of endpoints are in
//! this process. A new process finds the ports of the sockets and nothing else, and makes the sync loop write
//! everything again.
//!
//! Invariants: every redirected packet meets an open socket while this process lives. The kernel refuses
//! frontends without a socket. The proxy's own packets are marked, and the kernel does not redirect them.

pub mod clients;
pub mod counters;
pub mod dial;
pub mod faults;
pub mod files;
pub mod flows;
pub mod localhost;
pub mod pool;
pub mod pools;
pub mod proxy;
pub mod relay;
pub mod tcp;
pub mod udp;

mod desired;
mod here;
mod translate;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use portico_proxy_core::{
    input::Lack,
    plan::{State, Transaction, diff},
    table::{Backend, Family, Frontend, Key, Value},
};
use tokio::time::Instant;

use self::{
    desired::Desired,
    pool::PoolKey,
    pools::{Open, Place, Pools, Sockets},
    proxy::Proxy,
    translate::{Listening, PoolUse},
};
use super::{Applied, Capabilities, Dataplane, DataplaneError, Observed};
pub use here::{Addresses, Here, kernel_addresses};

#[cfg(test)]
mod tests;

/// The desired state and the kernel's.
#[derive(Debug, Default)]
struct Tables {
    desired: Desired,
    standing: State,
}

/// Sockets, and the dataplane that redirects to them.
pub struct Userspace {
    kernel: Box<dyn Dataplane>,
    here: Here,
    pools: Pools,
    tables: Arc<Mutex<Tables>>,
    /// Addresses and ports of all sockets, with their protocol.
    own: BTreeSet<Frontend>,
    /// Whether `standing` is the kernel's state, and no call has failed since.
    trusted: bool,
    /// Whether the next transaction covers everything.
    whole: bool,
}

/// The sockets, for `translate`.
struct Asked<'a> {
    sockets: &'a Sockets,
    own: &'a BTreeSet<Frontend>,
}

impl Listening for Asked<'_> {
    fn address(&self, key: &PoolKey) -> Option<SocketAddr> {
        self.sockets.address(key)
    }

    fn is_socket(&self, frontend: &Frontend) -> bool {
        self.own.contains(frontend)
    }
}

impl Userspace {
    /// The proxy, with a dataplane of the kernel for redirects.
    pub fn new(kernel: Box<dyn Dataplane>, proxy: Arc<Proxy>, addresses: Addresses) -> Self {
        Self {
            kernel,
            here: Here::new(addresses),
            pools: Pools::new(proxy),
            tables: Arc::default(),
            own: BTreeSet::new(),
            trusted: false,
            whole: true,
        }
    }

    /// A shared view of the sockets.
    pub fn sockets(&self) -> Sockets {
        self.pools.sockets()
    }

    /// A reader of the programmed state; `read` reads the kernel's part.
    pub fn reader(
        &self,
        read: impl Fn() -> Result<Observed, DataplaneError> + Send + Sync + 'static,
    ) -> impl Fn() -> Result<Observed, DataplaneError> + Send + Sync + 'static {
        let tables = self.tables.clone();
        move || {
            let found = read()?;
            let tables = lock(&tables);
            Ok(tables.observe(&found).unwrap_or_else(rebuild))
        }
    }

    /// The address for a pool's socket.
    fn place(&self, tables: &Tables, key: &PoolKey) -> Place {
        let frontend = key.frontend;
        if frontend.address.is_loopback() {
            return Place::Frontend;
        }
        let Some(address) = self.here.address(Family::of(frontend.address)) else { return Place::Nowhere };
        let redirect = tables.standing.elements.get(&Key::Endpoint(frontend, translate::slot(key.list)));
        match redirect {
            Some(Value::Backend(Backend { address: before, port })) if *before == address => {
                Place::Redirected(address, Some(*port))
            }
            _ => Place::Redirected(address, None),
        }
    }

    /// Opens and updates the sockets of these frontends; returns those to close.
    fn listen(&mut self, tables: &Tables, frontends: &BTreeSet<Frontend>) -> Vec<Open> {
        let mut closing = Vec::new();
        for frontend in frontends {
            let wanted = translate::pools(tables.desired.state(), *frontend);
            let is_wanted = |key: &PoolKey| wanted.iter().any(|(wanted, _)| wanted == key);
            closing.extend(pools::keys(*frontend).into_iter().filter(|key| !is_wanted(key)));
            for (key, wanted) in &wanted {
                if let PoolUse::Serve(rules) = wanted {
                    let place = self.place(tables, key);
                    self.pools.serve(*key, rules.clone(), place);
                }
            }
        }
        self.pools.take(&closing)
    }

    /// Updates the sockets of these frontends, and these keys in the kernel, to the desired state.
    fn program(
        &mut self,
        frontends: &BTreeSet<Frontend>,
        mut keys: BTreeSet<Key>,
    ) -> Result<Applied, DataplaneError> {
        self.trusted = false;
        let shared = self.tables.clone();
        let mut tables = lock(&shared);
        let sockets = self.pools.sockets();
        let before = own(&sockets, frontends);
        let closing = self.listen(&tables, frontends);
        let after = own(&sockets, frontends);
        for address in &before {
            self.own.remove(address);
        }
        self.own.extend(&after);
        keys.extend(before.union(&after).map(|address| Key::Firewalled(*address)));
        keys.extend(frontends.iter().flat_map(|frontend| translate::keys(*frontend)));
        let asked = Asked { sockets: &sockets, own: &self.own };
        let (standing, wanted) = tables.around(&keys, &asked);
        let plan = diff(&standing, &wanted);
        let mut applied = self.kernel.apply(&plan.additive)?;
        tables.standing.apply(&plan.additive);
        if !plan.destructive.is_empty() {
            let removed = self.kernel.apply(&plan.destructive)?;
            tables.standing.apply(&plan.destructive);
            applied.transactions += removed.transactions;
            applied.bytes += removed.bytes;
            applied.took += removed.took;
        }
        drop(closing);
        self.trusted = true;
        Ok(applied)
    }

    /// Retries ports that were taken, and moves redirects to another address if the node has lost theirs.
    fn mend(&mut self) -> Result<(), DataplaneError> {
        if !self.trusted {
            return Ok(());
        }
        let moved = self.here.refresh();
        let mut frontends = self.pools.due(Instant::now());
        if !moved.is_empty() {
            let concerned = |f: &Frontend| moved.contains(&Family::of(f.address)) && !f.address.is_loopback();
            frontends.extend(self.pools.frontends().into_iter().filter(concerned));
        }
        if frontends.is_empty() {
            return Ok(());
        }
        self.program(&frontends, BTreeSet::new()).map(drop)
    }
}

/// The addresses of the sockets of these frontends.
fn own(sockets: &Sockets, frontends: &BTreeSet<Frontend>) -> BTreeSet<Frontend> {
    let of = |frontend: &Frontend| {
        let protocol = frontend.protocol;
        let sockets = sockets.of(*frontend).into_iter();
        sockets.map(move |Backend { address, port }| Frontend { address, protocol, port })
    };
    frontends.iter().filter(|frontend| !frontend.address.is_loopback()).flat_map(of).collect()
}

fn lock(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
    // After a panic the loop ends, and a reader may still get the last consistent state.
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rebuild(reason: String) -> Observed {
    Observed { rebuild: Some(reason), ..Observed::default() }
}

impl Tables {
    /// Programmed and desired values of these keys. Chains are never removed: there are two for each family.
    fn around(&self, keys: &BTreeSet<Key>, sockets: &impl Listening) -> (State, State) {
        let (mut standing, mut wanted) = (State::default(), State::default());
        for key in keys {
            if let Some(value) = self.standing.elements.get(key) {
                standing.elements.insert(*key, *value);
            }
            if let Some(value) = translate::element(self.desired.state(), sockets, key) {
                wanted.insert(*key, value);
            }
        }
        standing.chains.clone_from(&self.standing.chains);
        wanted.chains.extend(&self.standing.chains);
        (standing, wanted)
    }

    /// The state that the sync loop gets, or the reason to write everything again.
    fn observe(&self, found: &Observed) -> Result<Observed, String> {
        match &found.rebuild {
            Some(reason) => Err(reason.clone()),
            None if found.state != self.standing => {
                Err("the elements that lead to the proxy's sockets are not what this process wrote"
                    .to_owned())
            }
            None => Ok(Observed { state: self.desired.state().clone(), rebuild: None }),
        }
    }
}

impl Dataplane for Userspace {
    fn probe(&mut self) -> Result<Capabilities, DataplaneError> {
        let mut found = self.kernel.probe()?;
        // Session affinity is this process's.
        found.degraded.retain(|degradation| degradation.lack != Some(Lack::SessionAffinity));
        Ok(found)
    }

    fn is_absent(&mut self) -> Result<bool, DataplaneError> {
        self.kernel.is_absent()
    }

    fn read(&mut self) -> Result<Observed, DataplaneError> {
        let found = self.kernel.read()?;
        let mut tables = lock(&self.tables);
        let reason = match tables.observe(&found) {
            Ok(observed) if self.trusted => return Ok(observed),
            Ok(_) => "something failed since it was last right".to_owned(),
            Err(reason) => reason,
        };
        // Sockets stay as they are until the next transaction says what should be behind them.
        *tables = Tables { desired: Desired::default(), standing: found.state };
        self.whole = true;
        Ok(rebuild(reason))
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        let mut keys: BTreeSet<_> = transaction.removals.iter().copied().collect();
        keys.extend(transaction.puts.iter().map(|put| put.key));
        let mut tables = lock(&self.tables);
        let mut frontends = tables.desired.apply(transaction);
        if self.whole {
            keys.extend(tables.standing.elements.keys());
            frontends.extend(tables.desired.state().elements.keys().filter_map(Key::frontend));
            frontends.extend(self.pools.frontends());
            self.here.refresh();
        }
        drop(tables);
        let applied = self.program(&frontends, keys)?;
        self.whole = false;
        Ok(applied)
    }

    fn generation(&mut self) -> Result<u32, DataplaneError> {
        self.mend()?;
        self.kernel.generation()
    }

    fn cleanup(&mut self) -> Result<(), DataplaneError> {
        self.trusted = false;
        self.kernel.cleanup()
    }
}
