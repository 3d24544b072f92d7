//! The operator's metrics: counters, gauges and histograms.
//!
//! Owns: names, labels and buckets. Leaves to others: serving them (`admin`).
//! Invariant: no label carries a name that users choose, so series do not grow with the cluster.

pub(crate) mod limiters;

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use portico_provider::Field;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::provision::permits::AttemptPriority;
use crate::provision::trigger::Trigger;

/// Seconds; a cloud takes minutes.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Label values: words in snake case, as Prometheus' naming conventions have them.
macro_rules! label_values {
    ($type:ident { $($variant:ident => $word:literal,)+ }) => {
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }
    };
}

label_values!(Reconciled {
    Settled => "settled",
    Progress => "progress",
    UserError => "user_error",
    Error => "error",
    Panic => "panic",
});
label_values!(CallResult { Ok => "ok", Error => "error", Timeout => "timeout", });
label_values!(Collected { Suspected => "suspected", Deleted => "deleted", Held => "held", });
label_values!(ServiceState {
    Settled => "settled",
    Progress => "progress",
    Refused => "refused",
    Failed => "failed",
    Drifted => "drifted",
    Releasing => "releasing",
});
label_values!(Trigger { Change => "change", Restart => "restart", Resync => "resync", Audit => "audit", });
label_values!(AttemptPriority {
    Serving => "serving",
    Creating => "creating",
    CatchingUp => "catching_up",
    Auditing => "auditing",
});

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reconciled {
    /// As desired, or nothing to do.
    Settled,
    /// Something is under way.
    Progress,
    /// The user has to change something.
    UserError,
    /// Something failed that may pass.
    Error,
    /// A fault of ours.
    Panic,
}

/// How a provider call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CallResult {
    Ok,
    /// The provider answered with an error.
    Error,
    /// No answer within the time limit.
    Timeout,
}

/// The collector's action on a load balancer that no Service claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Collected {
    /// The collector saw it for the first time.
    Suspected,
    /// Its deletion began.
    Deleted,
    /// The deletion limit held it back.
    Held,
}

/// The state of a Service with a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ServiceState {
    /// The load balancer is as desired.
    Settled,
    /// Being made or changed.
    Progress,
    /// The user has to change something.
    Refused,
    /// A call failed.
    Failed,
    /// It differs, and that is only reported.
    Drifted,
    /// Being taken down.
    Releasing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Reconciled,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    operation: &'static str,
    result: CallResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: ServiceState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TriggerLabel {
    trigger: Trigger,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DriftLabels {
    trigger: Trigger,
    field: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PriorityLabel {
    priority: AttemptPriority,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CollectedLabel {
    what: Collected,
}

type Times<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of the operator's metrics; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    reconciles: Family<OutcomeLabel, Counter>,
    reconcile_duration: Times<OutcomeLabel>,
    queue_depth: Gauge,
    calls: Family<CallLabels, Counter>,
    call_duration: Times<OperationLabel>,
    services: Family<StateLabel, Gauge>,
    leader: Gauge,
    collected: Family<CollectedLabel, Counter>,
    events_dropped: Counter,
    inventory_list_duration: Gauge<f64, AtomicU64>,
    attempts: Family<TriggerLabel, Counter>,
    unexpected: Family<TriggerLabel, Counter>,
    drift: Family<DriftLabels, Counter>,
    attempts_waiting: Family<PriorityLabel, Gauge>,
    nodes_held: Gauge,
}

fn times<L: Clone + std::hash::Hash + Eq>() -> Times<L> {
    Family::new_with_constructor(|| Histogram::new(BUCKETS))
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_duration: times(),
            queue_depth: Gauge::default(),
            calls: Family::default(),
            call_duration: times(),
            services: Family::default(),
            leader: Gauge::default(),
            collected: Family::default(),
            events_dropped: Counter::default(),
            inventory_list_duration: Gauge::default(),
            attempts: Family::default(),
            unexpected: Family::default(),
            drift: Family::default(),
            attempts_waiting: Family::default(),
            nodes_held: Gauge::default(),
        };
        let it = metrics.clone();
        let registry = registry.sub_registry_with_prefix("portico_operator");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this program", version);
        registry.register("reconciles", "Reconciles of a Service, by outcome", it.reconciles);
        registry.register(
            "reconcile_duration_seconds",
            "Duration of a reconcile, without provider calls",
            it.reconcile_duration,
        );
        registry.register("queue_depth", "Services that wait for a worker", it.queue_depth);
        registry.register("provider_calls", "Calls to the provider, by result", it.calls);
        registry.register("provider_call_duration_seconds", "Duration of a provider call", it.call_duration);
        registry.register("services", "Services with a load balancer, by state", it.services);
        registry.register("leader", "1 while this process leads", it.leader);
        registry.register("orphans", "Load balancers that no Service claims", it.collected);
        registry.register("events_dropped", "Events that could not be delivered", it.events_dropped);
        registry.register(
            "inventory_list_duration_seconds",
            "Duration of the last complete listing",
            it.inventory_list_duration,
        );
        registry.register("provisioning_attempts", "Provisioning attempts, by trigger", it.attempts);
        registry.register(
            "unexpected_changes",
            "Provisioning attempts that changed something although neither Service nor targets had changed: drift, or a bug",
            it.unexpected,
        );
        registry.register(
            "drift",
            "Differences between an unchanged Service and its load balancer, by field and trigger",
            it.drift,
        );
        registry.register(
            "provisioning_attempts_waiting",
            "Provisioning attempts that wait for --provider-concurrency",
            it.attempts_waiting,
        );
        registry.register(
            "nodes_held",
            "Nodes that stay targets as too many vanished at once",
            it.nodes_held,
        );
        metrics
    }

    /// Counts a provisioning attempt.
    pub(crate) fn attempt_started(&self, trigger: Trigger) {
        self.attempts.get_or_create(&TriggerLabel { trigger }).inc();
    }

    /// Counts drift: an attempt found a difference in `fields` that no change explains. `changed`: it changed the load balancer.
    pub(crate) fn drifted(&self, trigger: Trigger, fields: &BTreeSet<Field>, changed: bool) {
        if changed {
            self.unexpected.get_or_create(&TriggerLabel { trigger }).inc();
        }
        let names: BTreeSet<&'static str> = fields.iter().map(|field| field.name()).collect();
        let names = if names.is_empty() { BTreeSet::from(["load_balancer"]) } else { names };
        for field in names {
            self.drift.get_or_create(&DriftLabels { trigger, field }).inc();
        }
    }

    /// Provisioning attempts that wait for a permit.
    pub(crate) fn attempts_waiting(&self, priority: AttemptPriority, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.attempts_waiting.get_or_create(&PriorityLabel { priority }).set(count);
    }

    /// Nodes that the node-removal limiter holds.
    pub(crate) fn nodes_held(&self, count: usize) {
        self.nodes_held.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A reconcile ended.
    pub(crate) fn reconciled(&self, outcome: Reconciled, took: Duration) {
        let label = OutcomeLabel { outcome };
        self.reconciles.get_or_create(&label).inc();
        self.reconcile_duration.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// A provider call ended.
    pub(crate) fn provider_call(&self, operation: &'static str, result: CallResult, took: Duration) {
        self.calls.get_or_create(&CallLabels { operation, result }).inc();
        self.call_duration.get_or_create(&OperationLabel { operation }).observe(took.as_secs_f64());
    }

    /// A complete listing was read.
    pub(crate) fn listed(&self, took: Duration) {
        self.inventory_list_duration.set(took.as_secs_f64());
    }

    /// A Service changes its state. `None`: it is not, or no longer, ours.
    pub(crate) fn service_state(&self, from: Option<ServiceState>, to: Option<ServiceState>) {
        if let Some(state) = from {
            self.services.get_or_create(&StateLabel { state }).dec();
        }
        if let Some(state) = to {
            self.services.get_or_create(&StateLabel { state }).inc();
        }
    }

    /// How many Services wait for a worker.
    pub(crate) fn queue_depth(&self, depth: usize) {
        self.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Whether this process leads.
    pub(crate) fn leading(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Counts a load balancer that no Service claims.
    pub(crate) fn collected(&self, what: Collected) {
        self.collected.get_or_create(&CollectedLabel { what }).inc();
    }

    /// Counts an Event that was not delivered.
    pub(crate) fn event_dropped(&self) {
        self.events_dropped.inc();
    }
}
