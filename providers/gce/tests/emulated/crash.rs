//! The operator stops before and after each single write, and starts again.
//!
//! Owns: law 5 at every call of every kind of change. Leaves to others: lost replies (the contract suite).
//! Invariant: each point begins with a fresh project, and ends with an empty one.

use std::sync::Arc;

use portico_provider::{Desired, LoadBalancer, LoadBalancerProvider, Look, Protocol, Replacement, Scheme};

use crate::emulator::Emulator;
use crate::stoppable::{Side, Stoppable};
use crate::world::{GceWorld, frontends, mk_listener, mk_nodes, settle};

/// From where to where; `None`: none is wanted.
struct Change {
    name: &'static str,
    from: Option<LoadBalancer>,
    to: Option<LoadBalancer>,
}

fn changes(world: &GceWorld) -> Vec<Change> {
    let base = world.desired("crash");
    let mut updated = base.clone();
    updated.listeners.insert(mk_listener(Protocol::Tcp, 443));
    updated.listeners.remove(&mk_listener(Protocol::Udp, 80));
    updated.source_ranges.insert("192.0.2.0/24".parse().unwrap());
    updated.targets = mk_nodes(&[1, 2]);
    updated.options = [("portico.dev/gce-deny-firewall".to_owned(), "true".to_owned())].into_iter().collect();
    let mut internal = base.clone();
    internal.scheme = Scheme::Internal;
    internal.replacement = Replacement::Allowed;
    let up = Change { name: "create", from: None, to: Some(base.clone()) };
    let update = Change { name: "update", from: Some(base.clone()), to: Some(updated.clone()) };
    let replace = Change { name: "replacement", from: Some(base.clone()), to: Some(internal) };
    // Down in type: to the provider a deletion like any other, of whatever stands.
    let down = Change { name: "type change", from: Some(updated), to: None };
    let delete = Change { name: "delete", from: Some(base), to: None };
    vec![up, update, replace, down, delete]
}

#[tokio::test]
async fn a_crash_at_any_call_converges_and_leaves_nothing() {
    let Some(emulator) = Emulator::start() else { return };
    let world = GceWorld::new(emulator).await;
    let mut survived = 0;
    for change in changes(&world) {
        let mut writes = 0;
        while stop_at(&world, &change, writes + 1, Side::Before).await {
            assert!(stop_at(&world, &change, writes + 1, Side::After).await, "{}", change.name);
            writes += 1;
        }
        assert!(writes > 1, "{} makes {writes} writes", change.name);
        survived += 2 * writes;
    }
    println!("crash points survived: gce {survived} of {survived}");
}

/// One point; `false`: the change needs fewer writes than that.
async fn stop_at(world: &GceWorld, change: &Change, write: usize, side: Side) -> bool {
    let Change { name, from, to } = change;
    let at = format!("{name}, stopped {side:?} write {write}");
    let owner = from.as_ref().or(to.as_ref()).map(|it| it.owner.clone()).unwrap();
    let wanted = to.as_ref().map_or(Desired::Absent(&owner), Desired::Present);
    world.emulator.reset();
    let foreign = world.emulator.foreign();
    if let Some(from) = from {
        settle(&world.one(&owner.cluster), Desired::Present(from)).await.unwrap();
    }
    let cloud = Stoppable::stopping(Arc::clone(&world.cloud), write, side);
    let ended = settle(&world.on(cloud.clone(), &owner.cluster), wanted).await;
    if !cloud.is_stopped() {
        assert!(ended.is_ok(), "{at}: {ended:?}");
        return false;
    }
    let provider = world.one(&owner.cluster);
    settle(&provider, wanted).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    if let Some(to) = to {
        let observed = provider.observe(&owner, Look::Fresh).await.unwrap();
        let report = provider.report(to, observed.as_ref());
        assert!(report.ready && report.ingress.len() == 1, "{at}: {report:?}");
        assert_eq!(observed.as_ref().map(frontends), Some(1), "{at}");
        settle(&provider, Desired::Absent(&owner)).await.unwrap();
    }
    assert_eq!(world.emulator.ours(""), Vec::<String>::new(), "{at}");
    assert_eq!(provider.observe(&owner, Look::Fresh).await.unwrap(), None, "{at}");
    assert_eq!(world.emulator.foreign(), foreign, "{at}");
    world.emulator.assert_no_violations();
    true
}
