//! Counters of the dataplane, as Prometheus text.
//!
//! Owns: the counters and their text form. Leaves to others: serving them.
//! Invariant: fixed labels, so their number never grows with traffic.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of `/metrics`.
#[derive(Debug, Default)]
pub struct Metrics {
    /// TCP connections accepted and admitted.
    pub tcp_connections: AtomicU64,
    /// UDP flows begun.
    pub udp_flows: AtomicU64,
    /// Datagrams that a socket's buffer had no room for.
    pub udp_dropped: AtomicU64,
    /// Clients outside the source ranges.
    pub source_rejected: AtomicU64,
    /// Connections and flows for which no target answered.
    pub no_target: AtomicU64,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// Prometheus text, with the number of load balancers.
    pub fn text(&self, load_balancers: usize) -> String {
        let Self { tcp_connections, udp_flows, udp_dropped, source_rejected, no_target } = self;
        let mut text = String::new();
        let counters = [
            ("tcp_connections_total", "TCP connections admitted.", tcp_connections),
            ("udp_flows_total", "UDP flows begun.", udp_flows),
            (
                "udp_dropped_datagrams_total",
                "Datagrams dropped because a socket's buffer had no room.",
                udp_dropped,
            ),
            ("source_rejected_total", "Clients outside the source ranges.", source_rejected),
            ("no_target_total", "Connections and flows for which no target answered.", no_target),
        ];
        for (name, help, counter) in counters {
            let value = counter.load(Ordering::Relaxed);
            text.push_str(&sample(name, help, "counter", value));
        }
        text.push_str(&sample(
            "load_balancers",
            "Load balancers that exist.",
            "gauge",
            load_balancers as u64,
        ));
        text
    }
}

fn sample(name: &str, help: &str, kind: &str, value: u64) -> String {
    let name = format!("portico_lb_{name}");
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
}
