//! Under a storm of connections, endpoints come and go and no connection is lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use portico_nodeproxy::dataplane::Dataplane;
use portico_proxy_core::{
    plan::{State, diff},
    table::{Backend, Key, Recall, Value},
};

use crate::{
    netns::note,
    test_network::{
        Addresses, Got, PLAIN, STICKY, TestNetwork, addresses, alias_of, dial_here, endpoints, sticky,
    },
};

/// How often the number of endpoints changes.
const CHANGES: usize = 300;

fn mk_state(a: Addresses, backends: &[Backend], affinity: Option<u32>) -> State {
    let f = a.frontend(1);
    let mut state = a.base();
    let verdict = match affinity {
        None => endpoints(&mut state, f, PLAIN, backends),
        Some(seconds) => sticky(&mut state, f, alias_of(f), Recall { seconds, ..STICKY }, backends),
    };
    state.insert(Key::Service(f), verdict);
    state.insert(Key::ClusterIp(f.address), Value::Present);
    state
}

/// Dials from the client without pause while the endpoints change between the lists, and counts what got no answer.
fn storm(network: &mut TestNetwork, states: [&State; 2]) -> (usize, Vec<Got>) {
    let f = addresses(false).frontend(1);
    network.sync(states[0]);
    let (stop, dialled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = {
        let (end, count) = (stop.clone(), dialled.clone());
        // A thread lives in the namespace of the one that starts it.
        network.client.run(move || {
            std::thread::spawn(move || {
                let mut lost = Vec::new();
                while !end.load(Ordering::Relaxed) {
                    lost.extend(Some(dial_here(f)).filter(|got| !matches!(got, Got::Pod(..))));
                    count.fetch_add(1, Ordering::Relaxed);
                }
                lost
            })
        })
    };
    for change in 0..CHANGES {
        let plan = diff(states[change % 2], states[(change + 1) % 2]);
        network.tables.apply(&plan.additive).expect("commits");
        // The daemon waits longer than a packet takes; here, until some more packets have gone through.
        let so_far = dialled.load(Ordering::Relaxed);
        while dialled.load(Ordering::Relaxed) < so_far + 2 && !client.is_finished() {
            std::thread::yield_now();
        }
        network.tables.apply(&plan.destructive).expect("commits");
    }
    stop.store(true, Ordering::Relaxed);
    let lost = client.join().expect("no panic");
    (dialled.load(Ordering::Relaxed), lost)
}

#[test]
fn scaling_up_and_down_loses_no_connection() {
    let Some(mut network) = TestNetwork::new() else { return };
    let a = addresses(false);
    let (two, one) = (mk_state(a, &[a.pod(0), a.pod(1)], None), mk_state(a, &[a.pod(1)], None));
    let (dialled, lost) = storm(&mut network, [&two, &one]);
    note(&format!("{dialled} connections during {CHANGES} changes of the number of endpoints"));
    assert_eq!(lost, []);
}

#[test]
fn scaling_with_session_affinity_loses_no_connection() {
    let Some(mut network) = TestNetwork::new() else { return };
    let a = addresses(false);
    let (two, one) = (mk_state(a, &[a.pod(0), a.pod(1)], Some(60)), mk_state(a, &[a.pod(1)], Some(60)));
    let (_, lost) = storm(&mut network, [&two, &one]);
    assert_eq!(lost, []);
}

#[test]
fn replacing_every_endpoint_loses_no_connection() {
    let Some(mut network) = TestNetwork::new() else { return };
    let a = addresses(false);
    let (before, after) = (mk_state(a, &[a.pod(0)], None), mk_state(a, &[a.pod(1)], None));
    let (_, lost) = storm(&mut network, [&before, &after]);
    assert_eq!(lost, []);
}
