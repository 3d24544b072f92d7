//! Any order of events ends in the same state as from scratch.

use super::super::*;
use super::fixture::*;
use crate::cache::service::ClassRule;
use std::collections::{BTreeMap, BTreeSet};

use portico_provider::ProviderError;
use proptest::prelude::*;
use tokio::time::sleep;

use crate::testing::{mk_node, with};

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
    let fixture = Fixture::new();
    fixture.cloud.with(|cloud| cloud.provisioning = Duration::from_secs(3));
    let mut running = fixture.start().await;
    for event in events {
        match event {
            Event::Apply { name, type_, foreign, port } => {
                fixture.cluster.apply(with(typed(name, type_), |spec| {
                    spec.load_balancer_class = foreign.then(|| "other/nlb".to_owned());
                    spec.ports.as_mut().unwrap()[0].port = port;
                }));
            }
            Event::Delete(name) => fixture.cluster.delete(name),
            Event::Fail => {
                fixture.cloud.with(|cloud| cloud.failures.push(ProviderError::unavailable("execute", "x")));
            }
            Event::FailWrites(count) => fixture.cluster.with(|cluster| cluster.failing = count),
            Event::Node(index, ready) => {
                running.node(mk_node(&format!("n{index}"), &format!("10.0.0.{index}"), ready));
            }
            Event::Restart => {
                drop(running);
                running = fixture.start().await;
            }
            Event::Pass(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
        }
    }
    sleep(Duration::from_secs(2_000)).await;
    check(&fixture);
    let costs = fixture.costs();
    running.requeue_all();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.costs(), costs, "all is quiet");
}

fn check(fixture: &Fixture) {
    let services = fixture.cluster.with(|cluster| cluster.services.clone());
    let classes = ClassRule::one("portico.dev/fake", true);
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
    let existing: Vec<(String, Vec<i32>)> = fixture.cloud.with(|cloud| {
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
