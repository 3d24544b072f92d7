//! The operator stops before and after each single call, reads included, and starts again.
//!
//! Owns: law 5 at every call of every kind of change. Leaves to others: lost replies (the contract suite).
//! Invariants: a point is proven by a new process that begins with the very state of the project at that point, and ends
//! with an empty one. Points that leave the same state behind (those around reads) are proven by the same restart.

use std::collections::BTreeSet;
use std::sync::Arc;

use portico_provider::contract::tally;
use portico_provider::{
    Desired, IpFamily, LoadBalancer, LoadBalancerProvider, Owner, Protocol, ReadMode, Replacement, Scheme,
};

use portico_provider_gce::Backends;

use crate::emulator::Emulator;
use crate::fixture::{GceFixture, frontends, mk_listener, mk_nodes, settle};
use crate::watched::{Point, Watched};

/// From where to where; `None`: none is wanted.
struct Change {
    name: &'static str,
    from: Option<LoadBalancer>,
    to: Option<LoadBalancer>,
}

impl Change {
    /// Where groups are shared, another who has them; not always, as whoever is alone takes them along.
    fn neighbour(&self, fixture: &GceFixture) -> Option<LoadBalancer> {
        let alone = matches!(self.name, "create" | "replacement" | "delete");
        (fixture.backends == Backends::InstanceGroups && !alone).then(|| fixture.desired("neighbour"))
    }

    fn owner(&self) -> Owner {
        self.from.as_ref().or(self.to.as_ref()).map(|it| it.owner.clone()).unwrap()
    }
}

fn changes(fixture: &GceFixture) -> Vec<Change> {
    let base = fixture.desired("crash");
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
    let mut dual = base.clone();
    dual.ip_families = vec![IpFamily::IPv4, IpFamily::IPv6];
    let second = Change { name: "second family", from: Some(base.clone()), to: Some(dual) };
    let replace = Change { name: "replacement", from: Some(base.clone()), to: Some(internal) };
    // Down in type: to the provider a deletion like any other, of whatever stands.
    let down = Change { name: "type change", from: Some(updated), to: None };
    let delete = Change { name: "delete", from: Some(base), to: None };
    vec![up, update, second, replace, down, delete]
}

#[tokio::test]
async fn a_crash_at_any_call_converges_and_leaves_nothing() {
    let Some(emulator) = Emulator::start() else { return };
    println!("{}", survive(&GceFixture::new(emulator).await, "endpoint-groups").await);
}

#[tokio::test]
async fn with_instance_groups_a_crash_at_any_call_converges_too_and_harms_no_neighbour() {
    let Some(emulator) = Emulator::start() else { return };
    println!("{}", survive(&GceFixture::sharing(emulator).await, "instance-groups").await);
}

/// How many states each change has.
async fn survive(fixture: &GceFixture, what: &str) -> String {
    let (mut total, mut survived, mut reported) = (0, 0, Vec::new());
    for change in changes(fixture) {
        let points = points(fixture, &change).await;
        total += points.len();
        assert!(points.len() > 20, "{}: {} points", change.name, points.len());
        let mut proven = BTreeSet::new();
        for Point { at, state } in points {
            if !proven.contains(&state) {
                let at = format!("{}, stopped {at}", change.name);
                restart_from(fixture, &state, &change, &at).await;
                proven.insert(state);
            }
            survived += 1;
        }
        reported.push(format!("{}: {} states", change.name, proven.len()));
    }
    assert_eq!(survived, total);
    tally("gce", what, survived, total).unwrap();
    reported.join("\n")
}

/// Makes the change once, and answers with every point before and after one of its calls.
async fn points(fixture: &GceFixture, change: &Change) -> Vec<Point> {
    let Change { name, from, to } = change;
    let owner = change.owner();
    fixture.emulator.reset();
    if let Some(neighbour) = change.neighbour(fixture) {
        settle(&fixture.one(&owner.cluster), Desired::Present(&neighbour)).await.unwrap();
    }
    if let Some(from) = from {
        settle(&fixture.one(&owner.cluster), Desired::Present(from)).await.unwrap();
    }
    let keep = fixture.emulator.keeper();
    let cloud = Watched::keeping(Arc::clone(&fixture.cloud), keep);
    let wanted = to.as_ref().map_or(Desired::Absent(&owner), Desired::Present);
    settle(&fixture.on(cloud.clone(), &owner.cluster), wanted)
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    cloud.points()
}

/// A new process, from what the crash left.
async fn restart_from(fixture: &GceFixture, state: &str, change: &Change, at: &str) {
    let owner = change.owner();
    let wanted = change.to.as_ref().map_or(Desired::Absent(&owner), Desired::Present);
    fixture.emulator.hook("restore", Some(&format!("{state:?}")));
    let foreign = fixture.emulator.foreign();
    let provider = fixture.one(&owner.cluster);
    settle(&provider, wanted).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    if let Some(to) = &change.to {
        let observed = provider.observe(&owner, ReadMode::Full).await.unwrap();
        let report = provider.report(to, observed.as_ref());
        assert!(report.ready && report.ingress.len() == to.ip_families.len(), "{at}: {report:?}");
        assert_eq!(observed.as_ref().map(frontends), Some(to.ip_families.len()), "{at}");
        settle(&provider, Desired::Absent(&owner)).await.unwrap();
    }
    assert_eq!(provider.observe(&owner, ReadMode::Full).await.unwrap(), None, "{at}");
    if let Some(neighbour) = change.neighbour(fixture) {
        let observed = provider.observe(&neighbour.owner, ReadMode::Full).await.unwrap();
        let report = provider.report(&neighbour, observed.as_ref());
        let nodes = observed.iter().flat_map(|it| it.endpoints.values()).map(|group| group.len());
        assert!(report.ready && nodes.sum::<usize>() > 0, "{at}: {report:?}");
        settle(&provider, Desired::Absent(&neighbour.owner)).await.unwrap();
    }
    assert_eq!(fixture.emulator.ours(""), Vec::<String>::new(), "{at}");
    assert_eq!(fixture.emulator.foreign(), foreign, "{at}");
    fixture.emulator.assert_no_violations();
}
