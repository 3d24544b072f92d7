//! Plans about targets: which are chosen, how whole fleets change within AWS's limits, and ports that move.
//!
//! Owns: lives of fleets larger than there is room for, and any change of ports while no health is known. Leaves to others:
//! the choice's own properties (`portico_provider::subset`), the same on the emulator (`contract`).
//! Invariant: AWS's limit holds after each call.

use std::collections::BTreeSet;

use portico_provider::{
    HealthCheck, Listener, ListenerKey, LoadBalancer, Plan, PodTarget, Port, Protocol, TargetKind, Targets,
};
use proptest::prelude::*;

use super::plans::{mk_base, mk_site, mk_view, planned};
use super::{mk_listener, mk_nodes, mk_options, mk_port};
use crate::Quotas;
use crate::capabilities as key;
use crate::cloud::resources::{Health, Target};
use crate::observed::{Observed, Snapshot, SyncedHash, View};
use crate::plan::plan_targets;
use crate::step::{Action, Mark, Step};
use crate::wanted::translate;

const CROSS_ZONE: (&str, &str) = (key::CROSS_ZONE, "true");

fn mk_fleet(numbers: std::ops::Range<usize>) -> LoadBalancer {
    let ids: Vec<String> = numbers.map(|number| format!("i-{number:04}")).collect();
    LoadBalancer { targets: mk_nodes(&ids), options: mk_options(&[CROSS_ZONE]), ..mk_base() }
}

fn chosen(desired: &LoadBalancer) -> BTreeSet<Target> {
    translate(desired, &Quotas::default()).unwrap().listeners.into_values().next().unwrap().targets
}

#[test]
fn more_nodes_than_there_is_room_for_are_a_stable_subset() {
    assert_eq!(chosen(&mk_fleet(0..450)).len(), 450);
    let (before, after) = (chosen(&mk_fleet(0..800)), chosen(&mk_fleet(0..801)));
    assert_eq!((before.len(), after.len()), (450, 450));
    assert!(before.difference(&after).count() <= 1, "one joined, and one other leaves at most");
    let mut ports = mk_fleet(0..800);
    ports.listeners = (80..85).map(|port| mk_listener(Protocol::Tcp, port)).collect();
    let targets = translate(&ports, &Quotas::default())
        .unwrap()
        .listeners
        .into_values()
        .map(|listener| listener.targets.len());
    assert_eq!(targets.sum::<usize>(), 450, "each target counts for each port");
}

/// Carries out what is planned for targets; new ones are healthy by the next look.
fn step(desired: &LoadBalancer, view: &mut View) -> bool {
    let plan = planned(desired, view);
    let mut changed = false;
    for planned in plan.steps() {
        match &planned.step.action {
            Action::Register { target_group: group, targets } => {
                let there = &mut view.target_groups.get_mut(&group.name).unwrap().targets;
                there.extend(targets.iter().map(|target| (target.clone(), Health::Healthy)));
                assert!(there.len() <= 500, "{} targets: {plan}", there.len());
                changed = true;
            }
            Action::Deregister { target_group: group, targets } => {
                let there = &mut view.target_groups.get_mut(&group.name).unwrap().targets;
                there.retain(|target, _| !targets.contains(target));
                assert!(there.len() >= 450, "only {} are left: {plan}", there.len());
                changed = true;
            }
            Action::Tag { mark: Mark::Dirty | Mark::Synced, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    changed
}

#[test]
fn a_whole_fleet_is_exchanged_in_turns_within_the_limit() {
    let mut view = mk_view(&mk_fleet(0..450));
    let desired = mk_fleet(1000..1450);
    let mut rounds = 0;
    while step(&desired, &mut view) {
        rounds += 1;
        assert!(rounds < 100, "it does not converge");
    }
    let there: BTreeSet<Target> =
        view.target_groups.into_values().next().unwrap().targets.into_keys().collect();
    assert_eq!(there, chosen(&desired));
}

/// What a Service has at one moment: node ports of three listeners, nodes, and where each of some pods listens.
#[derive(Clone, Debug)]
struct Moment {
    node_ports: [Option<u16>; 3],
    nodes: BTreeSet<u8>,
    pods: Vec<[Option<u16>; 3]>,
}

const PORTS: [u16; 3] = [80, 81, 82];

/// Kubernetes gives a node port to one listener at a time; a named target port is where each pod says.
fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let node_ports = Just([31_000, 31_001, 31_002, 31_003]).prop_shuffle();
    let is_there = proptest::array::uniform3(proptest::bool::weighted(0.8));
    let nodes = proptest::collection::btree_set(0u8..5, 0..4);
    let pod = proptest::array::uniform3(proptest::option::weighted(0.8, 8_080u16..8_082));
    let pods = proptest::collection::vec(pod, 0..4);
    let moment = (node_ports, is_there, nodes, pods).prop_map(|(node_ports, is_there, nodes, pods)| {
        let of = |n: usize| is_there[n].then_some(node_ports[n]);
        Moment { node_ports: [of(0), of(1), of(2)], nodes, pods }
    });
    proptest::collection::vec(moment, 1..6)
}

impl Moment {
    fn service(&self, kind: TargetKind) -> LoadBalancer {
        let listeners: BTreeSet<Listener> = PORTS
            .iter()
            .zip(self.node_ports)
            .filter_map(|(port, node_port)| {
                let node_port = Some(mk_port(node_port?));
                Some(Listener { node_port, ..mk_listener(Protocol::Tcp, *port) })
            })
            .collect();
        let ids: Vec<String> = self.nodes.iter().map(|n| format!("i-{n}")).collect();
        let pods = (1u8..).zip(&self.pods).map(|(n, ports)| PodTarget {
            address: [10, 0, 0, n].into(),
            ports: PORTS
                .iter()
                .zip(ports)
                .filter_map(|(port, at)| Some((key_of(*port), mk_port((*at)?))))
                .collect(),
            node: None,
            zone: None,
        });
        let targets = match kind {
            TargetKind::Node => mk_nodes(&ids),
            TargetKind::Pod => Targets::Pods(pods.collect()),
        };
        let health_check = Some(HealthCheck::tcp_traffic());
        LoadBalancer { listeners, targets, health_check, ..mk_base() }
    }
}

fn key_of(port: u16) -> ListenerKey {
    mk_listener(Protocol::Tcp, port).key()
}

/// Carries out a plan of targets alone: new ones are not asked for their health.
fn retarget(plan: &Plan<Step>, view: &mut View) {
    for planned in plan.steps() {
        match &planned.step.action {
            Action::Register { target_group: group, targets } => {
                let there = &mut view.target_groups.get_mut(&group.name).unwrap().targets;
                there.extend(targets.iter().map(|target| (target.clone(), Health::Initial)));
            }
            Action::Deregister { target_group: group, targets } => {
                let there = &mut view.target_groups.get_mut(&group.name).unwrap().targets;
                there.retain(|target, _| !targets.contains(target));
            }
            Action::Tag { mark: Mark::Dirty, load_balancer, tags, .. } => {
                let balancer = view.load_balancers.get_mut(&load_balancer.name).unwrap();
                balancer.synced = SyncedHash::after(balancer.synced.as_ref(), tags);
            }
            other => panic!("not of targets: {other:?}"),
        }
    }
}

/// Where the listener on `port` may send: nowhere, if the Service has none there.
fn at(service: &LoadBalancer, port: u16) -> BTreeSet<u16> {
    let key = key_of(port);
    match &service.targets {
        Targets::Nodes(_) => {
            service.listener(key).and_then(|it| it.node_port).map(Port::get).into_iter().collect()
        }
        Targets::Pods(_) if service.listener(key).is_none() => BTreeSet::new(),
        Targets::Pods(pods) => pods.iter().filter_map(|pod| pod.ports.get(&key)).map(|it| it.get()).collect(),
    }
}

/// A port that its listener lost, with what still sends there.
fn lost(service: &LoadBalancer, view: &View) -> Option<String> {
    let mut all = view.load_balancers.values().flat_map(|it| &it.listeners);
    all.find_map(|(port, listener)| {
        let group =
            view.target_groups.values().find(|it| Some(&it.described.id) == listener.group.as_ref())?;
        let ports = at(service, *port);
        let moved = |target: &&Target| match &service.targets {
            Targets::Nodes(_) => false,
            Targets::Pods(pods) => pods.iter().any(|pod| {
                let there = pod.ports.get(&key_of(*port)).map(|it| it.get());
                pod.address.to_string() == target.id && there != Some(target.port) && there.is_some()
            }),
        };
        let outside = group.targets.keys().find(|it| !ports.contains(&it.port) || moved(it))?;
        Some(format!("{port} sends to {outside}"))
    })
}

/// The same, of which no more is known than a listing and what this process registered.
fn by_tags(view: &View, hash: &SyncedHash) -> Observed {
    let targets =
        view.target_groups.iter().map(|(name, group)| (name.clone(), group.targets.clone())).collect();
    Observed::Snapshot(Snapshot { targets: Some(targets), synced: Some(hash.clone()), ..view.snapshot() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn after_one_pass_no_target_has_a_port_that_its_listener_lost(
        history in moments(), pods in any::<bool>(), tags_only in any::<bool>(), refused in any::<bool>(),
    ) {
        let kind = if pods { TargetKind::Pod } else { TargetKind::Node };
        let full = Moment { node_ports: [31_000, 31_001, 31_002].map(Some), ..history[0].clone() };
        let mut view = mk_view(&full.service(kind));
        let hash = view.load_balancers.values().next().unwrap().synced.clone().unwrap();
        for moment in &history {
            let service = moment.service(kind);
            let mut backends = service.backends();
            if refused {
                backends.options = mk_options(&[(key::SCHEME, "sideways"), (key::CROSS_ZONE, "maybe")]);
            }
            let observed = if tags_only { by_tags(&view, &hash) } else { Observed::Full(view.clone()) };
            let plan = plan_targets(&mk_site(), &backends, &observed);
            prop_assert!(plan.additive_first(), "{plan}");
            retarget(&plan, &mut view);
            prop_assert_eq!(lost(&service, &view), None, "after {}", plan);
        }
        let service = history.last().unwrap().service(kind);
        for _ in 0..3 {
            for health in view.target_groups.values_mut().flat_map(|group| group.targets.values_mut()) {
                *health = Health::Healthy;
            }
            retarget(&plan_targets(&mk_site(), &service.backends(), &Observed::Full(view.clone())), &mut view);
        }
        let left = plan_targets(&mk_site(), &service.backends(), &Observed::Full(view.clone()));
        prop_assert!(left.is_settled(), "{left}");
        if !service.listeners.is_empty() {
            let plan = planned(&service, &view);
            let targets = |action: &Action| matches!(action, Action::Register { .. } | Action::Deregister { .. });
            prop_assert!(!plan.steps().iter().any(|it| targets(&it.step.action)), "they disagree: {plan}");
        }
    }
}

/// After a restart only tags are known: whether ports moved while nobody ran is told from them, for whoever is refused too.
#[test]
fn tags_tell_whether_targets_are_those_that_were_finished() {
    let before = mk_base();
    let snapshot = Observed::Snapshot(mk_view(&before).snapshot());
    let planned =
        |service: &LoadBalancer| plan_targets(&mk_site(), &service.backends(), &snapshot).to_string();
    let refused = LoadBalancer { options: mk_options(&[(key::SCHEME, "sideways")]), ..before.clone() };
    assert!(planned(&refused).starts_with("nothing to do"), "{}", planned(&refused));
    let moved = Listener { node_port: Some(mk_port(31_111)), ..mk_listener(Protocol::Tcp, 80) };
    let moved = LoadBalancer { listeners: [moved].into(), ..refused.clone() };
    assert!(planned(&moved).contains("read all that belongs to"), "{}", planned(&moved));
    let joined = LoadBalancer { targets: mk_nodes(&["i-1".to_owned(), "i-7".to_owned()]), ..refused };
    assert!(planned(&joined).contains("read all that belongs to"), "{}", planned(&joined));
}

/// Old and new find room in turns where every port moves at once, and none keeps the old port for it.
#[test]
fn a_whole_fleet_whose_port_moves_never_keeps_the_old_one_beside_the_new() {
    let mut view = mk_view(&mk_fleet(0..450));
    let mut moved = mk_fleet(0..450);
    moved.listeners =
        [Listener { node_port: Some(mk_port(31_111)), ..mk_listener(Protocol::Tcp, 80) }].into();
    for _ in 0..2 {
        let plan = plan_targets(&mk_site(), &moved.backends(), &Observed::Full(view.clone()));
        retarget(&plan, &mut view);
        let there = &view.target_groups.values().next().unwrap().targets;
        assert!(there.keys().all(|target| target.port == 31_111) && there.len() <= 500, "{plan}");
    }
    assert_eq!(view.target_groups.values().next().unwrap().targets.len(), 450);
}

/// AWS sends both protocols of a `TCP_UDP` listener to one port of a target: where they have two, neither may go to the other's.
#[test]
fn tcp_and_udp_on_one_port_never_share_a_target_that_is_not_both_theirs() {
    let dns = |tcp: u16, udp: u16| {
        let on = |protocol, port| Listener { node_port: Some(mk_port(port)), ..mk_listener(protocol, 53) };
        LoadBalancer { listeners: [on(Protocol::Tcp, tcp), on(Protocol::Udp, udp)].into(), ..mk_base() }
    };
    let pods = |ports: &[(u16, u16)]| {
        let both = dns(31_053, 31_053);
        let pod = |(n, (tcp, udp)): (u8, &(u16, u16))| {
            let keys = both.listeners.iter().map(Listener::key);
            let at = |key: ListenerKey| if key.protocol == Protocol::Tcp { *tcp } else { *udp };
            let ports = keys.map(|key| (key, mk_port(at(key)))).collect();
            PodTarget { address: [10, 0, 0, n].into(), ports, node: None, zone: None }
        };
        LoadBalancer { targets: Targets::Pods((1..).zip(ports).map(pod).collect()), ..both.clone() }
    };
    let table = [
        (dns(31_053, 31_053), dns(31_053, 31_054), vec![]),
        (dns(31_053, 31_053), dns(31_054, 31_053), vec![]),
        (dns(31_053, 31_053), dns(31_054, 31_054), vec!["i-1:31054", "i-2:31054"]),
        (pods(&[(53, 53), (53, 53)]), pods(&[(53, 53), (53, 54)]), vec!["10.0.0.1:53"]),
    ];
    for (before, after, expected) in table {
        let mut view = mk_view(&before);
        let hash = view.load_balancers.values().next().unwrap().synced.clone().unwrap();
        for observed in [by_tags(&view, &hash), Observed::Full(view.clone())] {
            let plan = plan_targets(&mk_site(), &after.backends(), &observed);
            retarget(&plan, &mut view);
            let there: Vec<String> = view
                .target_groups
                .values()
                .flat_map(|it| it.targets.keys().map(ToString::to_string))
                .collect();
            assert_eq!(there, expected, "after {plan}");
        }
        let plan = planned(&after, &view).to_string();
        let differ = expected.len() < 2;
        assert_eq!(
            plan.contains("TCP and UDP on port 53 share one target group: give both the same"),
            differ,
            "{plan}"
        );
    }
}
