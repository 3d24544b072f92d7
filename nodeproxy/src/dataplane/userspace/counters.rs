//! Metrics of the userspace proxy.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Label `reason` of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// Counters and gauges; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// TCP connections that were accepted.
    pub connections: Counter,
    /// TCP connections that are open.
    pub open_connections: Gauge,
    /// UDP flows that were begun.
    pub flows: Counter,
    /// UDP flows that exist.
    pub open_flows: Gauge,
    /// Frontends that have no socket.
    pub unserved: Gauge,
    failures: Family<ReasonLabel, Counter>,
}

impl Counters {
    /// Registers everything. Counters get their suffix `_total` from the encoder.
    pub fn register(&self, r: &mut Registry) {
        let Self { connections, open_connections, flows, open_flows, unserved, failures } = self;
        r.register("userspace_connections", "TCP connections accepted", connections.clone());
        r.register("userspace_open_connections", "TCP connections now", open_connections.clone());
        r.register("userspace_udp_flows", "UDP flows begun", flows.clone());
        r.register("userspace_open_udp_flows", "UDP flows now", open_flows.clone());
        r.register(
            "userspace_unserved_ports",
            "Frontends whose socket could not be opened",
            unserved.clone(),
        );
        r.register("userspace_failures", "Attempts to reach an endpoint that failed", failures.clone());
    }

    /// Counts a failed attempt to reach an endpoint.
    pub fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabel { reason }).inc();
    }
    /// Number of failed attempts for a reason.
    #[cfg(test)]
    pub(super) fn failures(&self, reason: &'static str) -> u64 {
        self.failures.get_or_create(&ReasonLabel { reason }).get()
    }
}
