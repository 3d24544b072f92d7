//! What stands under one of our names and is not ours: made by hand, another cluster's, another Service's.
//!
//! Owns: every kind of thing, and every call that could change one. Leaves to others: one that is met on the way (`main`),
//! a whole twin of another cluster (the contract suite). Invariant: it is not shown, each call on it is refused by its
//! name, and nothing in the project changes.

use portico_provider::{Desired, LoadBalancerProvider, ReadMode};
use portico_provider_gce::resource::{Endpoint, Id, Kind, Resource};
use portico_provider_gce::{Call, Observed, Step};

use crate::emulator::Emulator;
use crate::fixture::{GceFixture, mk_nodes, settle};

/// Whose it may be instead: nobody's who says so, another cluster's, another Service's. Instance groups are all
/// Services'.
fn strangers(kind: Kind, own: &str) -> Vec<Option<String>> {
    let mut all = vec![None, Some("by hand".to_owned()), Some(own.replace("cluster-1", "cluster-2"))];
    if kind != Kind::InstanceGroup {
        all.push(Some(own.replace("uid-robbed", "uid-another")));
    }
    all
}

/// Every call that changes this.
fn calls(whole: &Observed, id: &Id, resource: &Resource) -> Vec<Call> {
    let mut all = vec![
        Call::Insert { resource: resource.clone(), otherwise: None },
        Call::Patch(resource.clone()),
        Call::Delete(id.clone()),
    ];
    if let Some(nodes) = whole.endpoints.get(id) {
        let present: Vec<Endpoint> = nodes.keys().cloned().collect();
        let another = |it: &Endpoint| Endpoint { instance: "node-1".to_owned(), ip: it.ip };
        all.push(Call::Attach { group: id.clone(), endpoints: present.iter().map(another).collect() });
        all.push(Call::Detach { group: id.clone(), endpoints: present });
    }
    all
}

/// Takes one thing after the other away from a load balancer that has one of every kind.
async fn is_left_alone(fixture: &GceFixture) {
    let mut desired = fixture.desired("robbed");
    desired.targets = mk_nodes(&[0, 2]);
    desired.options = [("portico.dev/gce-deny-firewall".to_owned(), "true".to_owned())].into_iter().collect();
    let owner = &desired.owner;
    let provider = fixture.one(&owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let whole = provider.observe(owner, ReadMode::Full).await.unwrap().unwrap();
    for (id, resource) in &whole.resources {
        let own = fixture.emulator.describe(id, None).unwrap();
        for stranger in strangers(id.kind, &own) {
            let reported = format!("{id}, {stranger:?}");
            fixture.emulator.describe(id, stranger.as_deref());
            let before = fixture.emulator.everything();
            for call in calls(&whole, id, resource) {
                let step = Step { owner: owner.clone(), call, after: None, waits: false };
                let error = provider.execute(&step).await.expect_err(&format!("{reported}: {step}"));
                assert_eq!(error.reason(), "Conflict", "{reported}: {step}: {error}");
                assert!(error.to_string().contains(&id.name), "{reported}: {step}: {error}");
            }
            let seen = provider.observe(owner, ReadMode::Full).await.unwrap().unwrap();
            assert!(!seen.resources.contains_key(id), "{reported} is shown");
            let listed = provider.inventory().await.unwrap();
            let listed = &listed.services[&owner.service].observed;
            assert!(!listed.resources.contains_key(id), "{reported} is listed");
            assert_eq!(fixture.emulator.everything(), before, "{reported}");
        }
        fixture.emulator.describe(id, Some(&own));
    }
    // All of it at once: a deletion finds nothing to take.
    for stranger in [None, Some(r#"{"owner": "by hand"}"#)] {
        for id in whole.resources.keys() {
            fixture.emulator.describe(id, stranger);
        }
        let before = fixture.emulator.everything();
        settle(&provider, Desired::Absent(owner)).await.unwrap();
        assert!(provider.inventory().await.unwrap().services.is_empty());
        assert_eq!(fixture.emulator.everything(), before);
    }
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn what_is_not_ours_is_neither_shown_nor_touched_by_whatever_name() {
    let Some(emulator) = Emulator::start() else { return };
    is_left_alone(&GceFixture::new(emulator).await).await;
}

#[tokio::test]
async fn with_instance_groups_what_is_not_ours_is_neither_shown_nor_touched() {
    let Some(emulator) = Emulator::start() else { return };
    is_left_alone(&GceFixture::sharing(emulator).await).await;
}

#[tokio::test]
async fn a_provider_answers_for_its_own_cluster_only() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut theirs = fixture.desired("theirs");
    theirs.owner.cluster = "cluster-2".parse().unwrap();
    let owner = &theirs.owner;
    let provider = fixture.one(&owner.cluster);
    settle(&provider, Desired::Present(&theirs)).await.unwrap();
    let whole = provider.observe(owner, ReadMode::Full).await.unwrap().unwrap();
    let before = fixture.emulator.everything();
    let other = fixture.one(&fixture.desired("ours").owner.cluster);
    let error = other.observe(owner, ReadMode::Full).await.unwrap_err();
    assert_eq!(error.reason(), "Conflict", "{error}");
    for (id, resource) in &whole.resources {
        for call in calls(&whole, id, resource) {
            let step = Step { owner: owner.clone(), call, after: None, waits: false };
            let error = other.execute(&step).await.expect_err(&step.to_string());
            assert_eq!(error.reason(), "Conflict", "{step}: {error}");
        }
    }
    assert_eq!(fixture.emulator.everything(), before);
}
