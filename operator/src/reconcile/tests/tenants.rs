//! Endpoints that the author of a Service in one namespace can reach through it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use portico_provider::Targets;
use proptest::prelude::*;

use super::super::*;
use super::fixture::*;
use crate::cache::pods::PodState;
use crate::cache::store::Change;
use crate::testing::{mk_pod, mk_service, mk_slice};

/// Addresses of pods, of both families and in spellings that resolve to them, and of what no tenant may publish.
const ADDRESSES: [&str; 8] = [
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.3",
    "::ffff:10.1.0.1",
    "fd00::1",
    "169.254.169.254",
    "127.0.0.1",
    "10.96.0.1",
];
const NAMESPACES: [&str; 2] = ["default", "other"];

/// An action of a tenant, or of another namespace.
#[derive(Clone, Debug)]
enum Turn {
    /// A slice of the tenant's: endpoints by address, whether a `targetRef` says that it is a pod, and whether it is ready.
    Slice(usize, Vec<(usize, bool, bool)>),
    SliceGone(usize),
    /// A pod of a namespace gets addresses and a phase.
    Pod(usize, usize, Vec<usize>, &'static str),
    PodGone(usize, usize),
    /// The watch of pods is restarted with the pods of that moment.
    Relist,
}

fn turn() -> impl Strategy<Value = Turn> {
    let address = 0..ADDRESSES.len();
    let endpoints = prop::collection::vec((address.clone(), any::<bool>(), any::<bool>()), 0..4);
    let phase = prop::sample::select(vec!["Pending", "Running", "Running", "Succeeded", "Failed"]);
    prop_oneof![
        3 => (0..2usize, endpoints).prop_map(|(slice, endpoints)| Turn::Slice(slice, endpoints)),
        1 => (0..2usize).prop_map(Turn::SliceGone),
        4 => (0..2usize, 0..3usize, prop::collection::vec(address, 0..3), phase)
            .prop_map(|(namespace, pod, addresses, phase)| Turn::Pod(namespace, pod, addresses, phase)),
        1 => (0..2usize, 0..3usize).prop_map(|(namespace, pod)| Turn::PodGone(namespace, pod)),
        1 => Just(Turn::Relist),
    ]
}

fn slice_of(name: usize, endpoints: &[(usize, bool, bool)]) -> EndpointSlice {
    let listed: Vec<_> =
        endpoints.iter().map(|(address, _, ready)| (ADDRESSES[*address], "node-1", *ready)).collect();
    let mut slice = mk_slice("web", &format!("web-{name}"), &listed);
    for (endpoint, (_, claimed, _)) in slice.endpoints.iter_mut().flatten().zip(endpoints) {
        let pod = ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("default".to_owned()),
            name: Some("pod-0".to_owned()),
            ..ObjectReference::default()
        };
        endpoint.target_ref = claimed.then_some(pod);
    }
    slice
}

/// The state of the cluster, by the actions.
#[derive(Default)]
struct Model {
    slices: BTreeMap<usize, Vec<(usize, bool, bool)>>,
    pods: BTreeMap<(usize, usize), (Vec<usize>, &'static str)>,
}

impl Model {
    fn take(&mut self, turn: &Turn, running: &Running) {
        let router = &running.router;
        let pod = |(namespace, pod): (usize, usize), addresses: &[usize], phase| {
            let addresses: Vec<&str> = addresses.iter().map(|it| ADDRESSES[*it]).collect();
            mk_pod(NAMESPACES[namespace], &format!("pod-{pod}"), &addresses, phase)
        };
        match turn {
            Turn::Slice(name, endpoints) => {
                self.slices.insert(*name, endpoints.clone());
                router.take(Change::Put(slice_of(*name, endpoints)), Duration::ZERO);
            }
            Turn::SliceGone(name) => {
                self.slices.remove(name);
                router.take(Change::Remove(slice_of(*name, &[])), Duration::ZERO);
            }
            Turn::Pod(namespace, name, addresses, phase) => {
                let key = (*namespace, *name);
                self.pods.insert(key, (addresses.clone(), phase));
                router.take(Change::Put(pod(key, addresses, phase)), Duration::ZERO);
            }
            Turn::PodGone(namespace, name) => {
                let key = (*namespace, *name);
                if let Some((addresses, phase)) = self.pods.remove(&key) {
                    router.take(Change::Remove(pod(key, &addresses, phase)), Duration::ZERO);
                }
            }
            Turn::Relist => {
                router.take(Change::<PodState>::Begin, Duration::ZERO);
                for (key, (addresses, phase)) in &self.pods {
                    router.take(Change::Stage(pod(*key, addresses, phase)), Duration::ZERO);
                }
                router.take(Change::<PodState>::Finish, Duration::ZERO);
            }
        }
    }

    /// Addresses that may, and so shall, get traffic.
    fn admitted(&self) -> BTreeSet<IpAddr> {
        let alive = self.pods.iter().filter(|((namespace, _), (_, phase))| {
            *namespace == 0 && matches!(*phase, "Pending" | "Running")
        });
        let pods: BTreeSet<usize> = alive.flat_map(|(_, (addresses, _))| addresses).copied().collect();
        let ready =
            self.slices.values().flatten().filter(|(address, _, ready)| *ready && pods.contains(address));
        ready.map(|(address, _, _)| ADDRESSES[*address].parse().unwrap()).collect()
    }
}

fn to_pods(name: &str) -> Service {
    let mut service = mk_service(name);
    let annotations = service.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/target-kind".to_owned(), "pod".to_owned());
    service
}

fn published(fixture: &Fixture) -> BTreeSet<IpAddr> {
    let targets = |spec: &LoadBalancer| match &spec.targets {
        Targets::Pods(pods) => pods.iter().map(|pod| pod.address).collect::<Vec<_>>(),
        Targets::Nodes(_) => Vec::new(),
    };
    fixture.cloud.with(|cloud| cloud.existing.values().flat_map(|(spec, _)| targets(spec)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn no_slice_publishes_what_is_not_a_pod_of_its_namespace(turns in prop::collection::vec(turn(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new();
            let running = fixture.start().await;
            fixture.cluster.apply(to_pods("web"));
            let mut model = Model::default();
            for turn in &turns {
                model.take(turn, &running);
                settle().await;
                assert_eq!(published(&fixture), model.admitted(), "after {turn:?} of {turns:#?}");
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_endpoint_is_named_with_what_to_do_and_the_others_serve() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    running.router.take(Change::Put(mk_pod("default", "pod-0", &["10.1.0.1"], "Running")), Duration::ZERO);
    running
        .router
        .take(Change::Put(mk_pod("kube-system", "operator", &["10.1.0.9"], "Running")), Duration::ZERO);
    let slice = mk_slice("web", "web-1", &[("10.1.0.1", "a", true), ("10.1.0.9", "a", true)]);
    running.router.take(Change::Put(slice), Duration::ZERO);
    fixture.cluster.apply(to_pods("web"));
    settle().await;
    assert_eq!(published(&fixture), BTreeSet::from(["10.1.0.1".parse().unwrap()]));
    assert_eq!(fixture.conditions("web")["Accepted"], "True/EndpointsRefused");
    let reported = fixture.cluster.with(|cluster| {
        cluster.events.iter().find(|(_, it)| it.reason == "EndpointsRefused").map(|(_, it)| it.note.clone())
    });
    let reported = reported.unwrap();
    assert!(
        reported.contains("10.1.0.9") && reported.contains("--allow-endpoints-without-pods"),
        "{reported}"
    );
    assert!(!reported.contains("10.1.0.1,"), "{reported}");
}

#[tokio::test(start_paused = true)]
async fn with_the_flag_any_endpoint_is_a_target_and_no_pod_is_waited_for() {
    let mut fixture = Fixture::new();
    fixture.settings.scope.endpoints = EndpointScope::Any;
    let running = fixture.start().await;
    running.router.take(Change::Put(mk_slice("web", "web-1", &[("192.0.2.7", "a", true)])), Duration::ZERO);
    fixture.cluster.apply(to_pods("web"));
    settle().await;
    assert_eq!(published(&fixture), BTreeSet::from(["192.0.2.7".parse().unwrap()]));
    assert_eq!(fixture.conditions("web")["Accepted"], "True/Accepted");
}

#[test]
fn nothing_is_decided_before_the_pods_are_listed_where_they_decide() {
    let cache = Arc::new(Cache::default());
    cache.follow_pods();
    let router = crate::cache::watch::Router::new(Arc::clone(&cache), Arc::default());
    router.take(Change::<Service>::Finish, Duration::ZERO);
    router.take(Change::<k8s_openapi::api::core::v1::Node>::Finish, Duration::ZERO);
    router.take(Change::<EndpointSlice>::Finish, Duration::ZERO);
    router
        .take(Change::<crate::cache::class_parameters::LoadBalancerClassParameters>::Finish, Duration::ZERO);
    assert!(!cache.is_synced());
    router.take(Change::<PodState>::Finish, Duration::ZERO);
    assert!(cache.is_synced());
}
