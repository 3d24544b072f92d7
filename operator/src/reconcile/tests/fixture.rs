//! What the scenarios run on: a cloud, a cluster, and operators that start and die.
//!
//! Owns: starting, killing, and looking. Leaves to others: what happens on it.
//! Invariants: a running operator has every task that the real one has, but for leader election and the collector; its
//! watches are late, out of order, repeat themselves and lose events, by a seed that `PORTICO_WATCH_SEED` overrides.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::*;
use crate::background::gc::limit;
use crate::cache::node_removal::NodeRemovalLimits;
use crate::cache::watch::Router;
use crate::metrics::Metrics;
use crate::process::fence::{FenceKeeper, fence};
use crate::provision::trigger::Drift;
use crate::testing::{CLUSTER, FakeCloud, FakeCluster, WatchFaults, mk_service, with};

pub(super) const GRACE: Duration = Duration::from_mins(1);
/// What the collector may delete where its limit is not the matter.
pub(super) const MANY: limit::DeletionLimits =
    limit::DeletionLimits { count: 100, share: 100, window: GRACE };

/// A running operator; dropping it is `kill -9`.
pub(super) struct Running {
    pub(super) operator: Arc<Operator<FakeCloud, FakeCluster>>,
    pub(super) router: Router,
    registry: Registry,
    pub(super) keeper: FenceKeeper,
    _workers: JoinSet<()>,
}

pub(super) struct Fixture {
    pub(super) cloud: FakeCloud,
    pub(super) cluster: FakeCluster,
    /// What the next operator starts with.
    pub(super) settings: Settings,
    /// How long a round of the audit takes.
    pub(super) audit: Duration,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let settings = Settings {
            classes: ClassRule::one("portico.dev/fake", true),
            cluster: CLUSTER.parse().unwrap(),
            resync: Duration::from_mins(10),
            read_only: false,
            drift: Drift::Repair,
            groups: GroupScope::Namespace,
            endpoints: EndpointScope::Pods,
            concurrency: 16,
            nodes: NodeRemovalLimits { unready: Duration::ZERO, share: 50, hold: Duration::from_mins(5) },
        };
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
        let (cache, queue, router) = self.cluster.watch();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (provider, cluster) = (self.cloud.connect(), self.cluster.clone());
        let parts = Parts { provider, cluster, cache, queue, fence, metrics };
        let operator = Operator::new(parts, self.settings.clone());
        let first = operator.list().await;
        let mut workers = JoinSet::new();
        let listing = Arc::clone(&operator).keep_listing(router.clone(), first, operator.settings.resync);
        workers.spawn(listing);
        workers.spawn(router.clone().fan_out(operator.settings.classes.clone()));
        workers.spawn(Arc::clone(&operator).audit(self.audit));
        for _ in 0..2 {
            workers.spawn(Arc::clone(&operator).work());
        }
        Running { operator, router, registry, keeper, _workers: workers }
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
        self.operator.provider.cut();
    }
}

impl Running {
    /// The lines of a metric that counted anything.
    pub(super) fn metric(&self, name: &str) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&format!("portico_operator_{name}")));
        lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
    }

    pub(super) fn node_gone(&self, node: &Node) {
        self.operator.cluster.remove_node(node.metadata.name.as_deref().unwrap());
    }

    pub(super) fn node(&self, node: Node) {
        self.operator.cluster.put_node(node);
    }
}

/// Long enough for all that is due soon, short of a resync.
pub(super) async fn settle() {
    sleep(Duration::from_mins(1)).await;
}

pub(super) fn typed(name: &str, type_: &str) -> Service {
    with(mk_service(name), |spec| spec.type_ = Some(type_.to_owned()))
}
