//! Which endpoint a client of a frontend with `ClientIP` affinity had last.
//!
//! Owns the table, keyed as the kernel's `affinity-…` maps are: by frontend and client. Leaves to the pool whether that
//! endpoint still serves. Invariants: an entry counts only until its time is up; the table is swept before it grows past twice
//! what lives, and holds at most [`MOST`].

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use portico_proxy_core::table::{Backend, Frontend};
use tokio::time::Instant;

/// Most clients that are remembered, as in the kernel's maps. Beyond, a new client is balanced without being remembered.
pub const MOST: usize = 1 << 18;
/// Below this size it is not worth sweeping.
const SMALL: usize = 1024;

/// Clients of all frontends, shared by their pools.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<(Frontend, IpAddr), Entry>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    backend: Backend,
    until: Instant,
}

impl Clients {
    /// The client's endpoint, if its time is not up.
    pub fn get(&self, frontend: Frontend, client: IpAddr, now: Instant) -> Option<Backend> {
        let entry = *self.table().entries.get(&(frontend, client))?;
        (now < entry.until).then_some(entry.backend)
    }

    /// The client uses this endpoint now, and keeps it for `timeout`.
    pub fn put(&self, frontend: Frontend, client: IpAddr, backend: Backend, timeout: Duration, now: Instant) {
        let mut table = self.table();
        if table.entries.len() >= table.sweep_at.max(SMALL) {
            table.entries.retain(|_client, entry| now < entry.until);
            table.sweep_at = (table.entries.len() * 2).min(MOST);
        }
        if table.entries.len() < MOST || table.entries.contains_key(&(frontend, client)) {
            table.entries.insert((frontend, client), Entry { backend, until: now + timeout });
        }
    }

    /// The client does not keep this endpoint.
    pub fn forget(&self, frontend: Frontend, client: IpAddr, backend: Backend) {
        let mut table = self.table();
        if table.entries.get(&(frontend, client)).is_some_and(|entry| entry.backend == backend) {
            table.entries.remove(&(frontend, client));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: every change of it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use portico_proxy_core::table::Protocol;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn mk_frontend() -> Frontend {
        Frontend { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80 }
    }

    fn mk_backend() -> Backend {
        Backend { address: [10, 244, 0, 2].into(), port: 8080 }
    }

    #[test]
    fn a_client_keeps_its_endpoint_until_the_timeout_after_its_last_connection() {
        let (clients, start, f) = (Clients::default(), Instant::now(), mk_frontend());
        let client = [192, 0, 2, 1].into();
        clients.put(f, client, mk_backend(), 10 * SECOND, start);
        assert_eq!(clients.get(f, client, start + 9 * SECOND), Some(mk_backend()));
        clients.put(f, client, mk_backend(), 10 * SECOND, start + 9 * SECOND);
        assert_eq!(clients.get(f, client, start + 18 * SECOND), Some(mk_backend()));
        assert_eq!(clients.get(f, client, start + 19 * SECOND), None);
    }

    #[test]
    fn only_the_endpoint_that_failed_is_forgotten() {
        let (clients, now, f) = (Clients::default(), Instant::now(), mk_frontend());
        let client = [192, 0, 2, 1].into();
        clients.put(f, client, mk_backend(), SECOND, now);
        clients.forget(f, client, Backend { port: 1, ..mk_backend() });
        assert_eq!(clients.get(f, client, now), Some(mk_backend()));
        clients.forget(f, client, mk_backend());
        assert_eq!(clients.get(f, client, now), None);
    }

    #[test]
    fn clients_of_the_past_do_not_stay_and_there_is_a_most() {
        let (clients, start, f) = (Clients::default(), Instant::now(), mk_frontend());
        for n in 0..100_000u32 {
            let now = start + Duration::from_millis(u64::from(n) * 10);
            clients.put(f, n.to_be_bytes().into(), mk_backend(), SECOND, now);
        }
        assert!(clients.table().entries.len() <= SMALL);
        for n in 0..u32::try_from(MOST + 10).expect("fits") {
            clients.put(f, n.to_be_bytes().into(), mk_backend(), SECOND, start);
        }
        assert_eq!(clients.table().entries.len(), MOST);
    }
}
