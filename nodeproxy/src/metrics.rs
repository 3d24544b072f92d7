//! Metrics under kube-proxy's names, so that its dashboards and alerts keep working, and a few of our own.
//!
//! Owns names, labels and buckets (`pkg/proxy/metrics/metrics.go`). A transaction covers both families; it is counted under
//! each family that it changes.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use portico_proxy_core::table::Family as IpFamily;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use crate::{
    dataplane::{nftables::invalid::DroppedInvalid, userspace::counters::Counters},
    health::family_name,
};

/// Label `ip_family`, as kube-proxy's metrics have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FamilyLabel {
    ip_family: &'static str,
}

/// Labels of `no_local_endpoints_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyLabel {
    traffic_policy: &'static str,
}

/// Label `code` of an HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    code: u16,
}

/// Label `reason` of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// Label `kind` of an object with a field that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    kind: &'static str,
}

/// Labels of a kernel feature that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FeatureLabel {
    feature: &'static str,
    ip_family: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;
type ByFamily<M> = Family<FamilyLabel, M, fn() -> M>;

/// Every metric of the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync: ByFamily<Histogram>,
    sync_full: ByFamily<Histogram>,
    sync_partial: ByFamily<Histogram>,
    programming: ByFamily<Histogram>,
    last_synced: ByFamily<Seconds>,
    last_queued: ByFamily<Seconds>,
    sync_failures: Family<FamilyLabel, Counter>,
    no_local_endpoints: Family<PolicyLabel, Gauge>,
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
    conntrack_deleted: Family<FamilyLabel, Counter>,
    /// Changes of `EndpointSlice`s.
    pub endpoint_changes: Changes,
    /// Changes of Services.
    pub service_changes: Changes,
    failures: Family<ReasonLabel, Counter>,
    bad_fields: Family<KindLabel, Counter>,
    missing_features: Family<FeatureLabel, Gauge>,
    /// 1 once the kernel has every object of the first lists.
    pub has_synced: Gauge,
    /// Elements, chains and maps that were written or removed.
    pub changes: Counter,
    /// Time from a watch's event to the kernel's answer, of each change after the first sync.
    pub own_share: Histogram,
    /// Services that are served.
    pub services: Gauge,
    /// Conflicts and refusals.
    pub problems: Gauge,
    /// Elements of the desired state.
    pub elements: Gauge,
    /// Clients with session affinity: all, and those of the fullest map.
    affinity_clients: [Gauge; 2],
    /// Metrics of the userspace proxy.
    pub userspace: Counters,
}

/// Changes of one kind of object.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    total: Counter,
    pending: Gauge,
}

impl Changes {
    /// Counts one change that the kernel does not have yet.
    pub fn came(&self) {
        self.total.inc();
        self.pending.inc();
    }

    /// Records that the kernel has every change.
    pub fn done(&self) {
        self.pending.set(0);
    }
}

fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// 0.25 s, 0.5 s, every second to 59 s, every 5 s to 115 s, every 30 s to 5 min.
fn programming_histogram() -> Histogram {
    let quarters = [0.25, 0.5].into_iter();
    let seconds = (1..60u16).map(f64::from);
    let fives = (0..12u16).map(|n| f64::from(60 + 5 * n));
    let thirties = (0..7u16).map(|n| f64::from(120 + 30 * n));
    Histogram::new(quarters.chain(seconds).chain(fives).chain(thirties))
}

fn by_family<M: Clone>(mk: fn() -> M) -> ByFamily<M> {
    Family::new_with_constructor(mk)
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sync: by_family(sync_histogram),
            sync_full: by_family(sync_histogram),
            sync_partial: by_family(sync_histogram),
            programming: by_family(programming_histogram),
            last_synced: by_family(Seconds::default),
            last_queued: by_family(Seconds::default),
            sync_failures: Family::default(),
            no_local_endpoints: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            conntrack_deleted: Family::default(),
            endpoint_changes: Changes::default(),
            service_changes: Changes::default(),
            failures: Family::default(),
            bad_fields: Family::default(),
            missing_features: Family::default(),
            has_synced: Gauge::default(),
            changes: Counter::default(),
            own_share: Histogram::new(exponential_buckets(25e-6, 1.25, 45)),
            services: Gauge::default(),
            problems: Gauge::default(),
            elements: Gauge::default(),
            affinity_clients: <[Gauge; 2]>::default(),
            userspace: Counters::default(),
        }
    }
}

impl Metrics {
    /// Registers everything. Counters get their suffix `_total` from the encoder.
    pub fn register(&self, registry: &mut Registry) {
        self.register_kube_proxy(registry.sub_registry_with_prefix("kubeproxy"));
        self.register_own(registry.sub_registry_with_prefix("portico_nodeproxy"));
    }

    fn register_kube_proxy(&self, r: &mut Registry) {
        let Self { sync, sync_full, sync_partial, programming, last_synced, last_queued, .. } = self;
        r.register("sync_proxy_rules_duration_seconds", "Time to program the kernel", sync.clone());
        r.register("sync_full_proxy_rules_duration_seconds", "The same, all rules", sync_full.clone());
        r.register(
            "sync_partial_proxy_rules_duration_seconds",
            "The same, changes only",
            sync_partial.clone(),
        );
        r.register(
            "network_programming_duration_seconds",
            "Time from a pod's or Service's change to the rules that follow from it",
            programming.clone(),
        );
        r.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When the kernel was last right",
            last_synced.clone(),
        );
        r.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change last came in",
            last_queued.clone(),
        );
        for (changes, kind) in [(&self.endpoint_changes, "endpoint"), (&self.service_changes, "service")] {
            let name = format!("sync_proxy_rules_{kind}_changes");
            r.register(&name, "Changes that came in", changes.total.clone());
            r.register(format!("{name}_pending"), "Changes that the kernel lacks", changes.pending.clone());
        }
        r.register(
            "sync_proxy_rules_nftables_sync_failures",
            "Refused transactions",
            self.sync_failures.clone(),
        );
        r.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports under policy Local without an endpoint here though others have one",
            self.no_local_endpoints.clone(),
        );
        r.register("proxy_healthz", "Answers of /healthz", self.healthz.clone());
        r.register("proxy_livez", "Answers of /livez", self.livez.clone());
        r.register("conntrack_reconciler_deleted_entries", "Stale UDP flows", self.conntrack_deleted.clone());
    }

    fn register_own(&self, r: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The version of this program", version);
        r.register("dataplane_failures", "Failed calls to the dataplane", self.failures.clone());
        r.register("bad_fields", "Fields of API objects that could not be read", self.bad_fields.clone());
        r.register("synced", "1 once the kernel has all that the proxy began with", self.has_synced.clone());
        r.register("changes", "Elements, chains and maps written or removed", self.changes.clone());
        r.register(
            "event_duration_seconds",
            "Time from a watch's event to the kernel's answer to the change that it made",
            self.own_share.clone(),
        );
        r.register(
            "missing_kernel_feature",
            "1 for each feature that this kernel lacks and Services do without",
            self.missing_features.clone(),
        );
        r.register("services", "Services with a ClusterIP", self.services.clone());
        r.register("problems", "Conflicts between Services and fields not served", self.problems.clone());
        r.register("elements", "Elements of the desired state", self.elements.clone());
        let [all, most] = &self.affinity_clients;
        r.register("affinity_clients", "Clients with an affinity entry", all.clone());
        r.register(
            "affinity_clients_max",
            "Clients in the fullest affinity map; beyond 65535 a new one gets no entry",
            most.clone(),
        );
        self.userspace.register(r);
    }

    /// Records a committed sync.
    pub fn synced(&self, families: &[IpFamily], took: Duration, full: bool) {
        let part = if full { &self.sync_full } else { &self.sync_partial };
        for label in families.iter().copied().map(label) {
            self.sync.get_or_create(&label).observe(took.as_secs_f64());
            part.get_or_create(&label).observe(took.as_secs_f64());
            self.last_synced.get_or_create(&label).set(now());
        }
    }

    /// Records a new change.
    pub fn queued(&self, families: &[IpFamily]) {
        for label in families.iter().copied().map(label) {
            self.last_queued.get_or_create(&label).set(now());
        }
    }

    /// Records that a change with this trigger time has reached the kernel.
    pub fn programmed(&self, families: &[IpFamily], since: Timestamp) {
        let took = Timestamp::now().duration_since(since).as_secs_f64().max(0.0);
        for label in families.iter().copied().map(label) {
            self.programming.get_or_create(&label).observe(took);
        }
    }

    /// Counts a failed call to the dataplane.
    pub fn failed(&self, families: &[IpFamily], reason: &'static str) {
        self.failures.get_or_create(&ReasonLabel { reason }).inc();
        for label in families.iter().copied().map(label) {
            self.sync_failures.get_or_create(&label).inc();
        }
    }

    /// Service ports under policy `Local` without an endpoint here: (internal, external).
    pub fn set_no_local_endpoints(&self, (internal, external): (usize, usize)) {
        for (traffic_policy, count) in [("internal", internal), ("external", external)] {
            let gauge = self.no_local_endpoints.get_or_create(&PolicyLabel { traffic_policy });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts deleted stale flows.
    pub fn deleted_flows(&self, family: IpFamily, count: usize) {
        self.conntrack_deleted.get_or_create(&label(family)).inc_by(count as u64);
    }

    /// Sets the numbers of clients with session affinity, one for each affinity map.
    pub fn set_affinity_clients(&self, maps: impl Iterator<Item = usize>) {
        let (all, most) = maps.fold((0, 0), |(all, most), clients| (all + clients, clients.max(most)));
        for (gauge, count) in self.affinity_clients.iter().zip([all, most]) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts a field that could not be read.
    pub fn bad_field(&self, kind: &'static str) {
        self.bad_fields.get_or_create(&KindLabel { kind }).inc();
    }

    /// Records a missing feature of this kernel.
    pub fn lacks(&self, feature: &'static str, family: IpFamily) {
        let label = FeatureLabel { feature, ip_family: family_name(family) };
        self.missing_features.get_or_create(&label).set(1);
    }

    /// Counts an answer of /healthz.
    pub fn answered_healthz(&self, code: u16) {
        self.healthz.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts an answer of /livez.
    pub fn answered_livez(&self, code: u16) {
        self.livez.get_or_create(&CodeLabel { code }).inc();
    }
}

/// A registry with every metric, ready to be served.
pub fn registry(metrics: &Metrics) -> Arc<Registry> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.register_collector(Box::new(DroppedInvalid));
    Arc::new(registry)
}

fn label(family: IpFamily) -> FamilyLabel {
    FamilyLabel { ip_family: family_name(family) }
}

fn now() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashboards_for_kube_proxy_find_their_names() {
        let metrics = Metrics::default();
        let families = [IpFamily::V4];
        metrics.synced(&families, Duration::from_millis(3), false);
        metrics.queued(&families);
        metrics.programmed(&families, Timestamp::now());
        metrics.failed(&families, "Changed");
        metrics.set_no_local_endpoints((0, 1));
        metrics.answered_healthz(200);
        metrics.answered_livez(503);
        metrics.deleted_flows(IpFamily::V4, 2);
        metrics.endpoint_changes.came();
        metrics.lacks("Reject", IpFamily::V6);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry(&metrics)).expect("text");
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 0",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_livez_total{code=\"503\"} 1",
            concat!("portico_nodeproxy_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "portico_nodeproxy_missing_kernel_feature{feature=\"Reject\",ip_family=\"IPv6\"} 1",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 2",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
