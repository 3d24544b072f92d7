//! Services through their lives, against a cloud and a cluster in memory, on a paused clock.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Service};
use portico_provider::ProviderError;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::fence::{FenceKeeper, fence};
use crate::gc::Suspects;
use crate::metrics::Metrics;
use crate::testing::{CLUSTER, FakeCloud, FakeCluster, mk_node, mk_service, with};
use crate::watch::Router;
use crate::world::Change;

const GRACE: Duration = Duration::from_mins(1);

/// A running operator; dropping it is `kill -9`.
struct Running {
    operator: Arc<Operator<FakeCloud, FakeCluster>>,
    router: Router,
    _keeper: FenceKeeper,
    _workers: JoinSet<()>,
}

struct Stage {
    cloud: FakeCloud,
    cluster: FakeCluster,
}

impl Stage {
    fn new() -> Self {
        Self { cloud: FakeCloud::default(), cluster: FakeCluster::default() }
    }

    async fn start(&self) -> Running {
        let (keeper, fence) = fence();
        keeper.open(Instant::now() + Duration::from_secs(1_000_000));
        let (world, queue, router) = self.cluster.watch();
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let (provider, cluster) = (self.cloud.connect(), self.cluster.clone());
        let settings = Settings {
            classes: ClassRule { class: "portico.dev/fake".to_owned(), default: true },
            cluster: CLUSTER.parse().unwrap(),
            resync: Duration::from_mins(10),
        };
        let operator = Operator::new(Parts { provider, cluster, world, queue, fence, metrics }, settings);
        let first = operator.list().await;
        let mut workers = JoinSet::new();
        workers.spawn(Arc::clone(&operator).keep_listing(router.clone(), first, operator.settings.resync));
        workers.spawn(router.clone().fan_out(operator.settings.classes.clone()));
        for _ in 0..2 {
            workers.spawn(Arc::clone(&operator).work());
        }
        Running { operator, router, _keeper: keeper, _workers: workers }
    }

    fn existing(&self) -> Vec<String> {
        self.cloud.with(|cloud| {
            cloud.existing.values().map(|(spec, _)| spec.owner.name.name().to_owned()).collect()
        })
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let service = self.cluster.get(name).unwrap();
        service::ingress(&service).iter().map(|entry| entry.ip.clone().unwrap()).collect()
    }

    /// `type=status/reason` of our conditions.
    fn conditions(&self, name: &str) -> BTreeMap<String, String> {
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

    fn reasons(&self, name: &str) -> Vec<String> {
        self.cluster.with(|cluster| {
            let events = cluster.events.iter().filter(|(about, _)| about == name);
            events.map(|(_, notice)| notice.reason.clone()).collect()
        })
    }

    fn costs(&self) -> (u32, u32, u32) {
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
    fn node(&self, node: Node) {
        self.router.take(Change::Put(node), Duration::ZERO);
    }
}

/// Long enough for all that is due soon, short of a resync.
async fn settle() {
    sleep(Duration::from_mins(1)).await;
}

fn typed(name: &str, type_: &str) -> Service {
    with(mk_service(name), |spec| spec.type_ = Some(type_.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_service_goes_up_and_down_again_and_nothing_is_left() {
    let stage = Stage::new();
    let _running = stage.start().await;
    for type_ in ["ClusterIP", "NodePort"] {
        stage.cluster.apply(typed("web", type_));
        settle().await;
        assert_eq!(stage.costs(), (1, 0, 0), "{type_}: only the first listing");
    }
    stage.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(stage.existing(), ["web"]);
    assert_eq!(stage.addresses("web"), ["192.0.2.1"]);
    let conditions = stage.conditions("web");
    assert_eq!(conditions["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(conditions["Synced"], "True/AsDesired");
    assert_eq!(conditions["Accepted"], "True/Accepted");
    let service = stage.cluster.get("web").unwrap();
    assert!(service::has_finalizer(&service));
    let part = "cloud.test/load-balancer";
    assert_eq!(service.metadata.annotations.unwrap().get(part).map(String::as_str), Some("lb-1"));
    stage.cluster.apply(typed("web", "NodePort"));
    settle().await;
    assert_eq!(stage.existing(), [""; 0]);
    let service = stage.cluster.get("web").unwrap();
    assert!(service.metadata.annotations.iter().flatten().all(|(key, _)| key != part), "taken back");
    assert!(!service::has_finalizer(&service) && service::ingress(&service).is_empty());
    assert!(stage.conditions("web").is_empty());
    assert_eq!(stage.reasons("web").last().unwrap(), "Released");
}

#[tokio::test(start_paused = true)]
async fn the_finalizer_is_there_before_anything_exists_and_goes_after_it() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.with(|cluster| cluster.failing = 2);
    stage.cluster.apply(mk_service("web"));
    sleep(Duration::from_millis(10)).await;
    assert!(!service::has_finalizer(&stage.cluster.get("web").unwrap()));
    assert!(stage.existing().is_empty(), "no provider call without the finalizer");
    settle().await;
    assert_eq!(stage.existing(), ["web"]);
    let failure = || ProviderError::unavailable("delete", "x");
    stage.cloud.with(|cloud| cloud.failures = vec![failure(), failure()]);
    stage.cluster.delete("web");
    sleep(Duration::from_millis(200)).await;
    assert!(stage.cluster.get("web").is_some(), "held while something is left");
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "False/Releasing");
    settle().await;
    assert!(stage.cluster.get("web").is_none() && stage.existing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_stays_is_told_once_however_often_it_is_tried() {
    let stage = Stage::new();
    let _running = stage.start().await;
    let failure = || ProviderError::unavailable("create", "x");
    stage.cloud.with(|cloud| cloud.failures = (0..50).map(|_| failure()).collect());
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let (writes, told) = (stage.costs().2, stage.reasons("web"));
    sleep(Duration::from_mins(8)).await;
    assert_eq!((stage.costs().2, stage.reasons("web")), (writes, told));
    assert!(stage.cloud.with(|cloud| cloud.failures.len()) < 46, "it was tried again");
}

#[tokio::test(start_paused = true)]
async fn what_is_as_desired_costs_nothing_however_often_it_is_looked_at() {
    let stage = Stage::new();
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let (before, events) = (stage.costs(), stage.reasons("web").len());
    for _ in 0..10 {
        running.router.bring_back(&running.operator.settings.classes);
        settle().await;
    }
    assert_eq!(stage.costs().1, before.1);
    assert_eq!(stage.costs().2, before.2);
    assert_eq!(stage.reasons("web").len(), events);
}

#[tokio::test(start_paused = true)]
async fn a_provider_call_that_never_ends_holds_up_nobody_else() {
    let stage = Stage::new();
    let _running = stage.start().await;
    for name in ["slow-a", "slow-b", "slow-c"] {
        stage.cloud.with(|cloud| cloud.hanging.insert(format!("uid-{name}").parse().unwrap()));
        stage.cluster.apply(mk_service(name));
    }
    sleep(Duration::from_secs(1)).await;
    for index in 0..10 {
        stage.cluster.apply(mk_service(&format!("fast-{index}")));
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.existing().len(), 10);
    sleep(Duration::from_secs(70)).await;
    assert_eq!(stage.conditions("slow-a")["Synced"], "False/Timeout");
}

#[tokio::test(start_paused = true)]
async fn provisioning_that_takes_minutes_is_waited_for_and_survives_a_crash_without_a_second_one() {
    let stage = Stage::new();
    stage.cloud.with(|cloud| cloud.provisioning = Duration::from_mins(3));
    let first = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    sleep(Duration::from_secs(10)).await;
    let (writes, told) = (stage.costs().2, stage.reasons("web"));
    settle().await;
    assert_eq!((stage.costs().2, &stage.reasons("web")), (writes, &told), "waiting is told once");
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "False/Provisioning");
    assert!(stage.addresses("web").is_empty());
    drop(first);
    let _second = stage.start().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.conditions("web")["Synced"], "False/InProgress");
    sleep(Duration::from_secs(108)).await;
    assert!(stage.addresses("web").is_empty());
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.existing(), ["web"]);
    assert_eq!(stage.addresses("web"), ["192.0.2.1"]);
    assert_eq!(stage.conditions("web")["Synced"], "True/AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_deletion_leaves_nothing() {
    let stage = Stage::new();
    let first = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    stage.cloud.with(|cloud| cloud.hanging.insert("uid-web".parse().unwrap()));
    stage.cluster.delete("web");
    sleep(Duration::from_secs(1)).await;
    drop(first);
    stage.cloud.with(|cloud| cloud.hanging.clear());
    let _second = stage.start().await;
    settle().await;
    assert!(stage.cluster.get("web").is_none() && stage.existing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn user_errors_are_told_once_and_not_tried_again_and_take_nothing_away() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let mut wrong = mk_service("web");
    let annotations = wrong.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/scheme".to_owned(), "sideways".to_owned());
    stage.cluster.apply(wrong);
    settle().await;
    let (costs, events) = (stage.costs(), stage.reasons("web"));
    assert_eq!(events.iter().filter(|reason| *reason == "InvalidAnnotation").count(), 1);
    assert_eq!(stage.conditions("web")["Accepted"], "False/InvalidAnnotation");
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(stage.addresses("web"), ["192.0.2.1"], "what serves goes on serving");
    sleep(Duration::from_mins(5)).await;
    assert_eq!((stage.costs(), stage.reasons("web")), (costs, events));
    stage.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(stage.conditions("web")["Accepted"], "True/Accepted");
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_told_and_tried_again_only_when_the_service_changes() {
    let stage = Stage::new();
    let _running = stage.start().await;
    let full =
        || ProviderError::Exhausted { operation: "create", message: "0 of 5 addresses are free".to_owned() };
    stage.cloud.with(|cloud| cloud.failures = vec![full()]);
    stage.cluster.apply(mk_service("web"));
    sleep(Duration::from_mins(5)).await;
    assert_eq!(stage.conditions("web")["LoadBalancerProvisioned"], "False/QuotaExceeded");
    assert!(stage.existing().is_empty(), "not tried again by itself");
    assert_eq!(stage.reasons("web").iter().filter(|reason| *reason == "QuotaExceeded").count(), 1);
    stage.cluster.apply(with(mk_service("web"), |spec| {
        spec.load_balancer_source_ranges = Some(vec!["10.0.0.0/8".to_owned()]);
    }));
    settle().await;
    assert_eq!(stage.existing(), ["web"]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_clears_no_status_and_is_met_with_patience() {
    let stage = Stage::new();
    let first = stage.start().await;
    stage.cluster.apply(mk_service("old"));
    settle().await;
    drop(first);
    stage.cloud.with(|cloud| cloud.down = true);
    let _second = stage.start().await;
    stage.cluster.apply(mk_service("new"));
    let before = stage.costs().0;
    sleep(Duration::from_secs(100)).await;
    assert!(stage.costs().0 - before < 12, "{} reads in 100 s", stage.costs().0 - before);
    assert_eq!(stage.addresses("old"), ["192.0.2.1"]);
    assert_eq!(stage.conditions("old")["LoadBalancerProvisioned"], "True/Provisioned");
    assert_eq!(stage.conditions("new")["LoadBalancerProvisioned"], "False/ProviderUnavailable");
    stage.cloud.with(|cloud| cloud.down = false);
    sleep(Duration::from_secs(400)).await;
    assert_eq!(stage.conditions("new")["LoadBalancerProvisioned"], "True/Provisioned");
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_class_is_not_touched() {
    let stage = Stage::new();
    let _running = stage.start().await;
    let foreign = with(mk_service("web"), |spec| spec.load_balancer_class = Some("other/nlb".to_owned()));
    stage.cluster.apply(foreign);
    settle().await;
    assert_eq!(stage.costs(), (1, 0, 0));
    assert!(stage.reasons("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_another_portico_operator_holds_is_left_to_it() {
    let stage = Stage::new();
    let _running = stage.start().await;
    for type_ in ["LoadBalancer", "NodePort"] {
        let mut theirs = typed(type_, type_);
        theirs.metadata.finalizers = Some(vec![service::FINALIZER.to_owned()]);
        let held_by = (service::HELD_BY.to_owned(), "portico.dev/other".to_owned());
        theirs.metadata.annotations = Some(BTreeMap::from([held_by]));
        theirs.spec.as_mut().unwrap().load_balancer_class = Some("portico.dev/other".to_owned());
        stage.cluster.apply(theirs);
        settle().await;
        stage.cluster.delete(type_);
        settle().await;
        assert!(stage.cluster.get(type_).is_some(), "only its holder lets it go");
    }
    assert_eq!(stage.costs(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_said_of_a_refused_service_is_taken_back_when_it_goes_down() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(with(mk_service("web"), |spec| spec.ports = None));
    settle().await;
    assert_eq!(stage.conditions("web")["Accepted"], "False/InvalidField");
    assert!(!service::has_finalizer(&stage.cluster.get("web").unwrap()), "nothing to hold");
    stage.cluster.apply(typed("web", "ClusterIP"));
    settle().await;
    assert!(stage.conditions("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_no_longer_ours_is_released_to_whose_it_is() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    stage
        .cluster
        .apply(with(mk_service("web"), |spec| spec.load_balancer_class = Some("other/nlb".to_owned())));
    settle().await;
    let service = stage.cluster.get("web").unwrap();
    assert!(stage.existing().is_empty() && !service::has_finalizer(&service));
    assert!(service::ingress(&service).is_empty() && stage.conditions("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_reaches_every_load_balancer_in_one_update() {
    let stage = Stage::new();
    let running = stage.start().await;
    for name in ["a", "b"] {
        stage.cluster.apply(mk_service(name));
    }
    settle().await;
    let before = stage.costs();
    for index in 1..=5 {
        running.node(mk_node(&format!("node-{index}"), &format!("10.0.0.{index}"), true));
    }
    settle().await;
    let targets = stage
        .cloud
        .with(|cloud| cloud.existing.values().map(|(spec, _)| spec.targets.len()).collect::<Vec<_>>());
    assert_eq!(targets, [5, 5]);
    assert_eq!(stage.costs().1 - before.1, 2, "five nodes, one update each");
    assert_eq!(stage.costs().2, before.2, "and no status write");
    running.node(mk_node("node-1", "10.0.0.1", true));
    settle().await;
    assert_eq!(stage.costs().1 - before.1, 2, "a heartbeat is no change");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_wiped_is_written_again() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let seen = stage.cluster.get("web").unwrap();
    stage.cluster.apply_status(&seen, &StatusPatch::default()).await.unwrap();
    settle().await;
    assert_eq!(stage.addresses("web"), ["192.0.2.1"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_force_deleted_service_left_is_collected_and_nothing_else() {
    let stage = Stage::new();
    let running = stage.start().await;
    stage.cluster.apply(mk_service("kept"));
    stage.cluster.apply(mk_service("lost"));
    settle().await;
    stage.cluster.delete_by_force("lost");
    settle().await;
    let mut suspects = Suspects::default();
    running.operator.collect_once(&mut suspects, GRACE).await;
    settle().await;
    assert_eq!(stage.existing().len(), 2, "one look is not enough");
    running.operator.collect_once(&mut suspects, GRACE).await;
    settle().await;
    assert_eq!(stage.existing(), ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_made_again_under_its_name_gets_its_own() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    stage.cluster.delete("web");
    settle().await;
    let mut again = mk_service("web");
    again.metadata.uid = Some("uid-other".to_owned());
    stage.cluster.apply(again);
    settle().await;
    let owners = stage.cloud.with(|cloud| {
        cloud.existing.values().map(|(spec, _)| spec.owner.service.to_string()).collect::<Vec<_>>()
    });
    assert_eq!(owners, ["uid-other"]);
    assert_eq!(stage.addresses("web"), ["192.0.2.2"]);
}

#[derive(Clone, Debug)]
enum Event {
    Apply { name: &'static str, type_: &'static str, foreign: bool, port: i32 },
    Delete(&'static str),
    Fail,
    FailWrites(u32),
    Node(u8, bool),
    Restart,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let name = prop::sample::select(vec!["a", "b"]);
    let type_ =
        prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "ExternalName"]);
    prop_oneof![
        4 => (name.clone(), type_, prop::bool::weighted(0.2), 80..83).prop_map(|(name, type_, foreign, port)| {
            Event::Apply { name, type_, foreign, port }
        }),
        2 => name.prop_map(Event::Delete),
        1 => Just(Event::Fail),
        1 => (1u32..4).prop_map(Event::FailWrites),
        1 => (0u8..3, any::<bool>()).prop_map(|(index, ready)| Event::Node(index, ready)),
        1 => Just(Event::Restart),
        3 => (0u64..4_000).prop_map(Event::Pass),
    ]
}

/// Plays events, waits until all is quiet, and compares with what the final Services ask for from scratch.
async fn play(events: Vec<Event>) {
    let stage = Stage::new();
    stage.cloud.with(|cloud| cloud.provisioning = Duration::from_secs(3));
    let mut running = stage.start().await;
    for event in events {
        match event {
            Event::Apply { name, type_, foreign, port } => {
                stage.cluster.apply(with(typed(name, type_), |spec| {
                    spec.load_balancer_class = foreign.then(|| "other/nlb".to_owned());
                    spec.ports.as_mut().unwrap()[0].port = port;
                }));
            }
            Event::Delete(name) => stage.cluster.delete(name),
            Event::Fail => {
                stage.cloud.with(|cloud| cloud.failures.push(ProviderError::unavailable("execute", "x")));
            }
            Event::FailWrites(count) => stage.cluster.with(|cluster| cluster.failing = count),
            Event::Node(index, ready) => {
                running.node(mk_node(&format!("n{index}"), &format!("10.0.0.{index}"), ready));
            }
            Event::Restart => {
                drop(running);
                running = stage.start().await;
            }
            Event::Pass(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
        }
    }
    sleep(Duration::from_secs(2_000)).await;
    check(&stage);
    let costs = stage.costs();
    running.router.bring_back(&running.operator.settings.classes);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.costs(), costs, "all is quiet");
}

fn check(stage: &Stage) {
    let services = stage.cluster.with(|cluster| cluster.services.clone());
    let classes = ClassRule { class: "portico.dev/fake".to_owned(), default: true };
    let mut expected = BTreeMap::new();
    for service in services.values() {
        assert!(!service::is_deleting(service), "nothing is stuck in deletion");
        let ours = classes.owns(service);
        assert_eq!(service::has_finalizer(service), ours, "{service:?}");
        assert_eq!(service::ingress(service).len(), usize::from(ours), "{service:?}");
        if ours {
            let port = service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port;
            expected.insert(service.metadata.name.clone().unwrap(), vec![port]);
        }
    }
    let existing: Vec<(String, Vec<i32>)> = stage.cloud.with(|cloud| {
        let ports = |spec: &LoadBalancer| spec.listeners.iter().map(|it| it.port.get().into()).collect();
        cloud.existing.values().map(|(spec, _)| (spec.owner.name.name().to_owned(), ports(spec))).collect()
    });
    let names: BTreeSet<&String> = existing.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), existing.len(), "one load balancer for each: {existing:?}");
    assert_eq!(existing.into_iter().collect::<BTreeMap<_, _>>(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_ends_in_the_same_state(events in prop::collection::vec(event(), 0..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(events));
    }
}
