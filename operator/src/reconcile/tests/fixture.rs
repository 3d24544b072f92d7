//! The fixture of the scenarios: a cloud, a cluster, and operators that start and die.
//!
//! Owns: starting, killing, and reading the result. Leaves to others: what happens on it.
//! Invariants: a running operator has every task of the real one, except leader election and the collector. Its watches are late,
//! out of order, repeat themselves and lose events, by a seed that `PORTICO_WATCH_SEED` overrides.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::*;
use crate::background::audit::Auditor;
use crate::background::gc::{Collector, limit};
use crate::background::resync::keep_listing;
use crate::cache::node_removal::NodeRemovalLimits;
use crate::cache::service::ClassRule;
use crate::cache::watch::Router;
use crate::desired::spec::GroupScope;
use crate::metrics::Metrics;
use crate::process::fence::Fence;
use crate::process::fence::{FenceKeeper, fence};
use crate::provision::Policy;
use crate::provision::trigger::Drift;
use crate::testing::{CLUSTER, FakeCloud, FakeCluster, WatchFaults, mk_service, with};

pub(super) const GRACE: Duration = Duration::from_mins(1);
/// Deletion limits for tests that are not about the limit.
pub(super) const MANY: limit::DeletionLimits =
    limit::DeletionLimits { count: 100, share: 100, window: GRACE };

/// A running operator; dropping it is `kill -9`.
pub(super) struct Running {
    pub(super) reconciler: Arc<Reconciler<FakeCloud, FakeCluster>>,
    cloud: FakeCloud,
    pub(super) router: Router,
    registry: Registry,
    metrics: Metrics,
    pub(super) keeper: FenceKeeper,
    pub(super) fence: Fence,
    _workers: JoinSet<()>,
}

pub(super) struct Fixture {
    pub(super) cloud: FakeCloud,
    pub(super) cluster: FakeCluster,
    /// The settings of the next operator.
    pub(super) settings: Settings,
    /// How long a round of the audit takes.
    pub(super) audit: Duration,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let policy = Policy {
            resync: Duration::from_mins(10),
            read_only: false,
            drift: Drift::Repair,
            concurrency: 16,
        };
        let scope = Scope {
            classes: ClassRule::one("portico.dev/fake", true),
            cluster: CLUSTER.parse().unwrap(),
            groups: GroupScope::Namespace,
            endpoints: EndpointScope::Pods,
        };
        let nodes = NodeRemovalLimits { unready: Duration::ZERO, share: 50, hold: Duration::from_mins(5) };
        let settings = Settings { scope, policy, nodes };
        let audit = Duration::ZERO;
        let cluster = FakeCluster::new(WatchFaults::of_this_test());
        Self { cloud: FakeCloud::default(), cluster, settings, audit }
    }

    /// One whose watches show everything at once, for what is about a certain moment.
    pub(super) fn calm() -> Self {
        Self { cluster: FakeCluster::new(WatchFaults::calm()), ..Self::new() }
    }

    pub(super) async fn start(&self) -> Running {
        let (keeper, fence) = fence();
        keeper.open(Instant::now() + Duration::from_secs(1_000_000));
        let open = fence.clone();
        let (cache, queue, router) = self.cluster.watch();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (cloud, api) = (self.cloud.connect(), self.cluster.clone());
        let parts = Parts { provider: cloud.clone(), api, cache, queue, fence, metrics: metrics.clone() };
        let reconciler = Reconciler::new(parts, self.settings.clone());
        let provisioner = Arc::clone(reconciler.provisioner());
        let listed = provisioner.list().await;
        let classes = &self.settings.scope.classes;
        let mut workers = JoinSet::new();
        workers.spawn(keep_listing(provisioner, router.clone(), classes.clone(), listed));
        workers.spawn(router.clone().fan_out(classes.clone()));
        workers.spawn(Auditor::new(&reconciler, self.audit).run());
        for _ in 0..2 {
            workers.spawn(worker::work(Arc::clone(&reconciler)));
        }
        Running { reconciler, cloud, router, registry, metrics, keeper, fence: open, _workers: workers }
    }

    pub(super) fn existing(&self) -> Vec<String> {
        self.cloud.with(|cloud| {
            cloud.existing.values().map(|(spec, _)| spec.owner.name.name().to_owned()).collect()
        })
    }

    pub(super) fn addresses(&self, name: &str) -> Vec<String> {
        let service = self.cluster.get(name).unwrap();
        service::ingress(&service).iter().map(|entry| entry.ip.clone().unwrap()).collect()
    }

    /// `type=status/reason` of our conditions.
    pub(super) fn conditions(&self, name: &str) -> BTreeMap<String, String> {
        let conditions = service::our_conditions(&self.cluster.get(name).unwrap()).into_iter();
        conditions
            .map(|it| {
                (
                    it.type_.trim_start_matches("portico.dev/").to_owned(),
                    format!("{}/{}", it.status, it.reason),
                )
            })
            .collect()
    }

    pub(super) fn reasons(&self, name: &str) -> Vec<String> {
        self.cluster.with(|cluster| {
            let events = cluster.events.iter().filter(|(about, _)| about == name);
            events.map(|(_, notice)| notice.reason.clone()).collect()
        })
    }

    pub(super) fn costs(&self) -> (u32, u32, u32) {
        let (reads, writes) = self.cloud.with(|cloud| (cloud.reads, cloud.writes));
        (reads, writes, self.cluster.with(|cluster| cluster.writes))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cloud.cut();
    }
}

impl Running {
    pub(super) fn collector(&self, limits: limit::DeletionLimits) -> Collector<FakeCloud, FakeCluster> {
        Collector::new(&self.reconciler, self.metrics.clone(), GRACE, limits)
    }

    /// Requeues every Service that is ours.
    pub(super) fn requeue_all(&self) {
        self.router.requeue_all(&self.reconciler.scope().classes);
    }

    /// The lines of a metric that counted anything.
    pub(super) fn metric(&self, name: &str) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&format!("portico_operator_{name}")));
        lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
    }

    pub(super) fn node_gone(&self, node: &Node) {
        self.reconciler.api().remove_node(node.metadata.name.as_deref().unwrap());
    }

    pub(super) fn node(&self, node: Node) {
        self.reconciler.api().put_node(node);
    }
}

/// Long enough for all that is due soon, short of a resync.
pub(super) async fn settle() {
    sleep(Duration::from_mins(1)).await;
}

pub(super) fn typed(name: &str, type_: &str) -> Service {
    with(mk_service(name), |spec| spec.type_ = Some(type_.to_owned()))
}
