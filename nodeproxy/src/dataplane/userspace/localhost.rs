//! NodePorts on localhost, beside another dataplane.
//!
//! The kernel never routes packets from 127.0.0.1 to another host, unless `route_localnet` opens the node's
//! loopback to its neighbours (CVE-2020-8558). So this dataplane takes frontends on loopback addresses out of
//! each transaction and serves them by sockets on those addresses. All other frontends are left to the
//! dataplane behind it.
//!
//! Invariant: no element with a loopback address reaches the kernel's tables.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use portico_proxy_core::{
    plan::Transaction,
    table::{Frontend, Key},
};
use tokio::time::Instant;

use super::{
    super::{Applied, Capabilities, Dataplane, DataplaneError, Observed},
    desired::Desired,
    pool::PoolKey,
    pools::{self, Place, Pools, Sockets},
    proxy::Proxy,
    translate::{self, PoolUse},
};

#[cfg(test)]
mod tests;

/// A dataplane, and localhost beside it.
pub struct Localhost {
    kernel: Box<dyn Dataplane>,
    pools: Pools,
    desired: Arc<Mutex<Desired>>,
    whole: bool,
}

fn is_here(key: &Key) -> bool {
    key.frontend().is_some_and(|frontend| frontend.address.is_loopback())
}

/// A transaction's elements for loopback, and those for the kernel; `None` without any for loopback. Endpoints
/// of a Service port with session affinity are in both.
fn split(transaction: &Transaction) -> Option<(Transaction, Transaction)> {
    let concerns_here = |key: &Key| is_here(key) || key.alias().is_some();
    if !transaction.keys().any(concerns_here) {
        return None;
    }
    let Transaction { removals, puts, .. } = transaction;
    let here = Transaction {
        removals: removals.iter().filter(|key| concerns_here(key)).copied().collect(),
        puts: puts.iter().filter(|put| concerns_here(&put.key)).copied().collect(),
        ..Transaction::default()
    };
    let rest = Transaction {
        removals: removals.iter().filter(|key| !is_here(key)).copied().collect(),
        puts: puts.iter().filter(|put| !is_here(&put.key)).copied().collect(),
        ..transaction.clone()
    };
    Some((here, rest))
}

impl Localhost {
    /// Localhost beside a dataplane.
    pub fn new(kernel: Box<dyn Dataplane>, proxy: Arc<Proxy>) -> Self {
        Self { kernel, pools: Pools::new(proxy), desired: Arc::default(), whole: true }
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
        let desired = self.desired.clone();
        move || Ok(join(read()?, &lock(&desired)))
    }

    fn serve(&mut self, frontends: &BTreeSet<Frontend>) {
        let desired = self.desired.clone();
        let desired = lock(&desired);
        for frontend in frontends {
            let wanted = translate::pools(desired.state(), *frontend);
            let is_wanted = |key: &PoolKey| wanted.iter().any(|(wanted, _)| wanted == key);
            let surplus: Vec<_> = pools::keys(*frontend).into_iter().filter(|key| !is_wanted(key)).collect();
            drop(self.pools.take(&surplus));
            for (key, wanted) in wanted {
                if let PoolUse::Serve(rules) = wanted {
                    self.pools.serve(key, rules, Place::Frontend);
                }
            }
        }
    }
}

fn lock(desired: &Mutex<Desired>) -> MutexGuard<'_, Desired> {
    desired.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds localhost's elements to the state of a dataplane.
fn join(mut found: Observed, desired: &Desired) -> Observed {
    if found.rebuild.is_none() {
        let here = desired.state().elements.iter().filter(|(key, _)| is_here(key));
        found.state.elements.extend(here);
    }
    found
}

impl Dataplane for Localhost {
    fn probe(&mut self) -> Result<Capabilities, DataplaneError> {
        self.kernel.probe()
    }

    fn is_absent(&mut self) -> Result<bool, DataplaneError> {
        self.kernel.is_absent()
    }

    fn read(&mut self) -> Result<Observed, DataplaneError> {
        let found = self.kernel.read()?;
        let mut desired = lock(&self.desired);
        if found.rebuild.is_some() {
            // The next transaction writes everything again, these frontends included. Until then the sockets stay.
            *desired = Desired::default();
            self.whole = true;
        }
        Ok(join(found, &desired))
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        let parts = split(transaction);
        let (here, rest) = match &parts {
            Some((here, rest)) => (Some(here), rest),
            None => (None, transaction),
        };
        let applied = self.kernel.apply(rest)?;
        let mut frontends = BTreeSet::new();
        if let Some(here) = here {
            let concerned = lock(&self.desired).apply(here);
            frontends.extend(concerned.into_iter().filter(|frontend| frontend.address.is_loopback()));
        }
        if self.whole {
            frontends.extend(self.pools.frontends());
            self.whole = false;
        }
        self.serve(&frontends);
        Ok(applied)
    }

    fn generation(&mut self) -> Result<u32, DataplaneError> {
        let due = self.pools.due(Instant::now());
        self.serve(&due);
        self.kernel.generation()
    }

    fn cleanup(&mut self) -> Result<(), DataplaneError> {
        self.kernel.cleanup()
    }
}
