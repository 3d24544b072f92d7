//! ClientIP affinity: which target a client had last.
//!
//! Owns: the table. Leaves to others: whether that target can still take traffic.
//! Invariant: an entry is used only within its timeout; the table is swept before it grows past twice what lives.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Below this size it is not worth sweeping.
const SMALL: usize = 1024;

/// Clients and their targets.
#[derive(Debug, Default)]
pub struct AffinityTable {
    entries: HashMap<IpAddr, (SocketAddr, Instant)>,
    sweep_at: usize,
}

impl AffinityTable {
    /// The client's target, if it was used less than `timeout` ago.
    pub fn get(&self, client: IpAddr, timeout: Duration, now: Instant) -> Option<SocketAddr> {
        let (target, used) = self.entries.get(&client)?;
        (now.saturating_duration_since(*used) < timeout).then_some(*target)
    }

    /// The client uses this target now.
    pub fn put(&mut self, client: IpAddr, target: SocketAddr, timeout: Duration, now: Instant) {
        if self.entries.len() >= self.sweep_at.max(SMALL) {
            self.entries.retain(|_client, (_target, used)| now.saturating_duration_since(*used) < timeout);
            self.sweep_at = self.entries.len() * 2;
        }
        self.entries.insert(client, (target, now));
    }

    /// Forgets every client's endpoint.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_its_target_until_the_timeout_after_its_last_use() {
        let mut table = AffinityTable::default();
        let (client, target) = ("10.0.0.1".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let (start, timeout) = (Instant::now(), Duration::from_secs(10));
        table.put(client, target, timeout, start);
        assert_eq!(table.get(client, timeout, start + Duration::from_secs(9)), Some(target));
        table.put(client, target, timeout, start + Duration::from_secs(9));
        assert_eq!(table.get(client, timeout, start + Duration::from_secs(18)), Some(target));
        assert_eq!(table.get(client, timeout, start + Duration::from_secs(19)), None);
    }

    #[test]
    fn a_million_clients_of_the_past_do_not_stay() {
        let mut table = AffinityTable::default();
        let (target, timeout, start) =
            ("10.0.0.2:80".parse().unwrap(), Duration::from_secs(1), Instant::now());
        for n in 0..100_000u32 {
            let now = start + Duration::from_millis(u64::from(n) * 10);
            table.put(IpAddr::from(n.to_be_bytes()), target, timeout, now);
        }
        assert!(table.entries.len() <= SMALL, "{}", table.entries.len());
    }
}
