//! What is said, for each port of two.

use portico_provider::{Desired, Listener, Port, Protocol, Targets};
use proptest::prelude::*;

use super::*;

fn mk_port(number: u16) -> Port {
    Port::try_from(number).unwrap()
}

fn mk_desired() -> LoadBalancer {
    let owner = portico_provider::Owner {
        cluster: "c".parse().unwrap(),
        service: "s".parse().unwrap(),
        name: portico_provider::ServiceName::new("default", "web").unwrap(),
    };
    let listener = |port: u16| Listener {
        protocol: Protocol::Tcp,
        port: mk_port(port),
        name: format!("p{port}"),
        node_port: Some(mk_port(30_000 + port)),
    };
    LoadBalancer::plain(owner, [listener(80), listener(81)].into(), Targets::Nodes(BTreeSet::new()))
}

fn mk_target(port: u16, n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 30_000 + port))
}

/// How a port fares: its targets' verdicts (`None`: not known), or no such listener.
type Lot = Option<Vec<Option<bool>>>;

fn mk_view(lots: [&Lot; 2]) -> View {
    let desired = mk_desired();
    let crate::Step::Put { owner, put } =
        crate::plan::plan(Desired::Present(&desired), None).steps()[0].step.clone()
    else {
        panic!("not a PUT");
    };
    let mut view = View {
        owner,
        spec: put.spec,
        state: State::Active,
        addresses: ["192.0.2.1".parse().unwrap()].into(),
        retained: BTreeSet::new(),
        listener_errors: BTreeMap::new(),
        healthy_targets: BTreeSet::new(),
        unknown_targets: BTreeSet::new(),
    };
    view.spec.listeners.clear();
    for (listener, lot) in desired.listeners.iter().zip(lots) {
        let Some(verdicts) = lot else { continue };
        let port = listener.port.get();
        let target = |n: usize| mk_target(port, u8::try_from(n).unwrap());
        view.spec.listeners.insert(listener.key(), (0..verdicts.len()).map(target).collect());
        for (n, verdict) in verdicts.iter().enumerate() {
            match verdict {
                Some(true) => drop(view.healthy_targets.insert(target(n))),
                None => drop(view.unknown_targets.insert(target(n))),
                Some(false) => {}
            }
        }
    }
    view
}

fn said(view: &View, topic: Topic) -> Fact {
    let facts = report(&mk_desired(), Some(view)).facts;
    facts.into_iter().find(|fact| fact.topic == topic).unwrap()
}

#[test]
fn targets_that_have_not_answered_yet_are_no_reason_to_warn() {
    let healthy = |lot: Vec<Option<bool>>| {
        let lot = Some(lot);
        let fact = said(&mk_view([&lot, &lot]), Topic::TargetsHealthy);
        (fact.holds, fact.reason)
    };
    assert_eq!(healthy(vec![None, None]).0, Truth::Unknown);
    assert_eq!(healthy(vec![Some(false), None]).0, Truth::Unknown);
    assert_eq!(healthy(vec![Some(false), Some(false)]), (Truth::False, "AllUnhealthy".to_owned()));
    assert_eq!(healthy(vec![Some(true), None]).0, Truth::True);
    assert_eq!(healthy(vec![]), (Truth::False, "NoTargets".to_owned()));
}

#[test]
fn a_port_that_cannot_be_opened_is_named_with_the_others_that_are_not_there() {
    let good = Some(vec![Some(true)]);
    let mut view = mk_view([&good, &None]);
    let key = *view.spec.listeners.keys().next().unwrap();
    view.listener_errors.insert(key, format!("cannot listen on 192.0.2.1 {key}: taken"));
    let fact = said(&view, Topic::Provisioned);
    assert_eq!((fact.holds, fact.reason.as_str()), (Truth::False, "ListenFailed"));
    assert!(fact.message.contains("80") && fact.message.contains("81"), "{}", fact.message);
    let errors: Vec<_> =
        report(&mk_desired(), Some(&view)).ingress[0].ports.iter().map(|port| port.error.clone()).collect();
    let expected = ["portico.dev/ListenFailed", "portico.dev/ListenerMissing"];
    assert_eq!(errors, expected.map(|error| Some(error.to_owned())));
}

fn mk_lot() -> impl Strategy<Value = Lot> {
    let verdict = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    proptest::option::of(proptest::collection::vec(verdict, 0..3))
}

proptest! {
    /// Whatever becomes of either port: no word covers a port for which it does not hold, and such a port is named.
    #[test]
    fn what_is_said_holds_for_each_port(first in mk_lot(), second in mk_lot()) {
        let view = mk_view([&first, &second]);
        let said = report(&mk_desired(), Some(&view));
        let of = |topic| said.facts.iter().find(|fact| fact.topic == topic).unwrap().clone();
        let (provisioned, healthy) = (of(Topic::Provisioned), of(Topic::TargetsHealthy));
        for (port, lot) in [(80, &first), (81, &second)] {
            let key = ListenerKey { protocol: Protocol::Tcp, port: mk_port(port) };
            let status = said.ingress[0].ports.iter().find(|status| status.listener == key).unwrap();
            prop_assert_eq!(status.error.is_some(), lot.is_none());
            let Some(verdicts) = lot else {
                prop_assert!(!said.ready && provisioned.holds == Truth::False);
                prop_assert!(provisioned.message.contains(&key.to_string()), "{}", provisioned.message);
                continue;
            };
            if !verdicts.contains(&Some(true)) {
                prop_assert_ne!(healthy.holds, Truth::True, "{}", healthy.message);
                prop_assert!(healthy.message.contains(&key.to_string()), "{}", healthy.message);
            }
        }
        prop_assert_eq!(said.ready, first.is_some() && second.is_some());
    }
}
