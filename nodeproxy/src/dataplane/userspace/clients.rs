//! Affinity entries: the last endpoint of each client of a Service port with `ClientIP` affinity.
//!
//! Owns the table, keyed like the kernel's `affinity-…` maps: by pool, Service port and client. Leaves to the
//! pool whether that endpoint still serves.
//!
//! Invariants: an entry counts until its timeout. Each pool's table is swept before it grows past twice the
//! number of live entries, and holds at most [`MOST`]. Beyond that a new client is balanced and gets no entry.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use portico_proxy_core::{
    affinity::MOST,
    table::{Alias, Backend},
};
use tokio::time::Instant;

/// Size below which a table is not swept.
const SMALL: usize = 1024;

/// Key and timeout of affinity entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Alias of the Service port.
    pub port: Alias,
    /// Pool of the namespace, which bounds the number of entries.
    pub pool: u32,
    /// Lifetime of an entry after the client's last connection.
    pub timeout: Duration,
}

/// Clients of all Service ports, shared by their pools.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    by_pool: BTreeMap<u32, Table>,
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<(Alias, IpAddr), Entry>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    backend: Backend,
    until: Instant,
}

impl Clients {
    /// The client's endpoint, before its timeout.
    pub fn get(&self, affinity: &Affinity, client: IpAddr, now: Instant) -> Option<Backend> {
        let tables = self.tables();
        let entry = tables.by_pool.get(&affinity.pool)?.entries.get(&(affinity.port, client))?;
        (now < entry.until).then_some(entry.backend)
    }

    /// Adds or renews a client's entry.
    pub fn put(&self, affinity: &Affinity, client: IpAddr, backend: Backend, now: Instant) {
        let Affinity { port, pool, timeout } = *affinity;
        self.tables().table(pool, now).put((port, client), Entry { backend, until: now + timeout }, now);
    }

    /// Deletes a client's entry, if it names this endpoint.
    pub fn forget(&self, affinity: &Affinity, client: IpAddr, backend: Backend) {
        let mut tables = self.tables();
        let Some(table) = tables.by_pool.get_mut(&affinity.pool) else { return };
        let key = (affinity.port, client);
        if table.entries.get(&key).is_some_and(|entry| entry.backend == backend) {
            table.entries.remove(&key);
        }
    }

    /// Number of entries in each pool, expired ones that were not swept yet included.
    pub fn counts(&self) -> Vec<(u32, usize)> {
        self.tables().by_pool.iter().map(|(pool, table)| (*pool, table.entries.len())).collect()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic elsewhere leaves the tables whole: every change of them is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn table(&mut self, pool: u32, now: Instant) -> &mut Table {
        if self.by_pool.len() >= self.sweep_at.max(SMALL) {
            self.by_pool.retain(|_pool, table| table.entries.values().any(|entry| now < entry.until));
            self.sweep_at = self.by_pool.len() * 2;
        }
        self.by_pool.entry(pool).or_default()
    }
}

impl Table {
    fn put(&mut self, key: (Alias, IpAddr), entry: Entry, now: Instant) {
        if self.entries.len() >= self.sweep_at.max(SMALL) {
            self.entries.retain(|_client, entry| now < entry.until);
            self.sweep_at = (self.entries.len() * 2).min(MOST);
        }
        if self.entries.len() < MOST || self.entries.contains_key(&key) {
            self.entries.insert(key, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::pool::tests::mk_affinity, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn mk_backend() -> Backend {
        Backend { address: [10, 244, 0, 2].into(), port: 8080 }
    }

    fn fill(clients: &Clients, affinity: &Affinity, count: usize, now: Instant) {
        for n in 0..u32::try_from(count).expect("fits") {
            clients.put(affinity, n.to_be_bytes().into(), mk_backend(), now);
        }
    }

    #[test]
    fn a_client_keeps_its_endpoint_until_the_timeout_after_its_last_connection() {
        let (clients, start, affinity) = (Clients::default(), Instant::now(), mk_affinity(10 * SECOND));
        let client = [192, 0, 2, 1].into();
        clients.put(&affinity, client, mk_backend(), start);
        assert_eq!(clients.get(&affinity, client, start + 9 * SECOND), Some(mk_backend()));
        clients.put(&affinity, client, mk_backend(), start + 9 * SECOND);
        assert_eq!(clients.get(&affinity, client, start + 18 * SECOND), Some(mk_backend()));
        assert_eq!(clients.get(&affinity, client, start + 19 * SECOND), None);
    }

    #[test]
    fn only_the_endpoint_that_failed_is_forgotten() {
        let (clients, now, affinity) = (Clients::default(), Instant::now(), mk_affinity(SECOND));
        let client = [192, 0, 2, 1].into();
        clients.put(&affinity, client, mk_backend(), now);
        clients.forget(&affinity, client, Backend { port: 1, ..mk_backend() });
        assert_eq!(clients.get(&affinity, client, now), Some(mk_backend()));
        clients.forget(&affinity, client, mk_backend());
        assert_eq!(clients.get(&affinity, client, now), None);
    }

    #[test]
    fn clients_of_the_past_do_not_stay_and_there_is_a_most() {
        let (clients, start, affinity) = (Clients::default(), Instant::now(), mk_affinity(SECOND));
        for n in 0..100_000u32 {
            let now = start + Duration::from_millis(u64::from(n) * 10);
            clients.put(&affinity, n.to_be_bytes().into(), mk_backend(), now);
        }
        assert!(clients.counts()[0].1 <= SMALL);
        fill(&clients, &affinity, MOST + 10, start);
        assert_eq!(clients.counts(), [(1, MOST)]);
    }

    #[test]
    fn a_flood_at_one_pool_takes_nothing_from_another() {
        let (clients, now, flooded) = (Clients::default(), Instant::now(), mk_affinity(SECOND));
        fill(&clients, &flooded, MOST + 10, now);
        let other = Affinity { pool: 2, ..flooded };
        let client = [192, 0, 2, 1].into();
        clients.put(&other, client, mk_backend(), now);
        assert_eq!(clients.get(&other, client, now), Some(mk_backend()));
    }

    #[test]
    fn pools_of_the_past_do_not_stay() {
        let (clients, start, affinity) = (Clients::default(), Instant::now(), mk_affinity(SECOND));
        for pool in 0..10_000u32 {
            let now = start + SECOND * pool;
            clients.put(&Affinity { pool, ..affinity }, [192, 0, 2, 1].into(), mk_backend(), now);
        }
        assert!(clients.counts().len() <= SMALL);
    }
}
