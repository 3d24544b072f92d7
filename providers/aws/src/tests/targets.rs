//! Plans about many targets: which are chosen, and how whole fleets change within AWS's limits.
//!
//! Owns: lives of fleets larger than there is room for. Leaves to others: the choice's own properties
//! (`portico_provider::subset`). Invariant: AWS's limit holds after each call.

use std::collections::BTreeSet;

use portico_provider::{LoadBalancer, Protocol};

use super::plans::{mk_base, mk_view, planned};
use super::{mk_listener, mk_nodes, mk_options};
use crate::Quotas;
use crate::capabilities as key;
use crate::cloud::resources::{Health, Target};
use crate::observed::View;
use crate::step::Action;
use crate::translate::translate;

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
            Action::Register { group, targets } => {
                let there = &mut view.groups.get_mut(&group.name).unwrap().targets;
                there.extend(targets.iter().map(|target| (target.clone(), Health::Healthy)));
                assert!(there.len() <= 500, "{} targets: {plan}", there.len());
                changed = true;
            }
            Action::Deregister { group, targets } => {
                let there = &mut view.groups.get_mut(&group.name).unwrap().targets;
                there.retain(|target, _| !targets.contains(target));
                assert!(there.len() >= 450, "only {} are left: {plan}", there.len());
                changed = true;
            }
            Action::Unseal { .. } | Action::Seal { .. } => {}
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
    let there: BTreeSet<Target> = view.groups.into_values().next().unwrap().targets.into_keys().collect();
    assert_eq!(there, chosen(&desired));
}
