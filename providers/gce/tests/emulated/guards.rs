//! What is asked before something is taken away: an answer that does not come means no.
//!
//! Owns: each read of each step that narrows or deletes, failed. Leaves to others: what happens then (the operator retries).
//! Invariant: a step whose read failed writes nothing; with every read answered it writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portico_provider::{Desired, Effect, LoadBalancer, LoadBalancerProvider, Plan, ReadMode};
use portico_provider_gce::Step;

use crate::emulator::{Emulator, is_write};
use crate::fixture::{GceFixture, Provider, mk_listener, mk_nodes, settle};
use crate::watched::Watched;

/// Fails each read of each narrowing step of a plan; how many that were.
async fn fail_each_read(fixture: &GceFixture, plan: &Plan<Step>) -> usize {
    let mut failed = 0;
    let narrowing = plan.steps().iter().filter(|planned| planned.effect == Effect::Destructive);
    for step in narrowing.map(|planned| &planned.step) {
        for reads in 0.. {
            let left = Arc::new(AtomicUsize::new(reads));
            let cloud = Watched::failing_after(Arc::clone(&fixture.cloud), Arc::clone(&left));
            let provider = fixture.on(cloud, &step.owner.cluster);
            fixture.emulator.news();
            let answer = provider.execute(step).await;
            let writes = fixture.emulator.news().iter().filter(|line| is_write(line)).count();
            if left.load(Ordering::Relaxed) != usize::MAX {
                assert!(answer.is_ok() && writes == 1, "{step}: {writes} writes, {answer:?}");
                break;
            }
            assert!(answer.is_err() && writes == 0, "{step}, read {reads}: {writes} writes, {answer:?}");
            failed += 1;
        }
        fixture.emulator.settle();
    }
    failed
}

async fn settled(fixture: &GceFixture, desired: &LoadBalancer) -> Provider {
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(desired)).await.unwrap();
    provider
}

async fn guards_fail_closed(fixture: &GceFixture) {
    fixture.emulator.hook("polls", Some("1"));
    let mut desired = fixture.desired("guarded");
    desired.options = [("portico.dev/gce-deny-firewall".to_owned(), "true".to_owned())].into_iter().collect();
    let provider = settled(fixture, &desired).await;
    // Nodes leave, and a port is shut.
    let mut fewer = desired.clone();
    fewer.targets = mk_nodes(&[1, 2]);
    fewer.listeners = [mk_listener(portico_provider::Protocol::Tcp, 80)].into();
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap().unwrap();
    let failed = fail_each_read(fixture, &provider.plan_targets(&fewer.backends(), &observed)).await;
    assert!(failed >= 2, "{failed} reads of targets");
    let mut failed = 0;
    for _ in 0..30 {
        let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
        let plan = provider.plan(Desired::Present(&fewer), observed.as_ref());
        if plan.steps().is_empty() {
            break;
        }
        if plan.is_destructive() {
            failed += fail_each_read(fixture, &plan).await;
        } else {
            settle(&provider, Desired::Present(&fewer)).await.unwrap();
        }
    }
    for _ in 0..30 {
        let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
        let plan = provider.plan(Desired::Absent(&desired.owner), observed.as_ref());
        failed += fail_each_read(fixture, &plan).await;
        fixture.emulator.settle();
    }
    assert!(failed >= 8, "{failed} reads before narrowing and deletion");
    assert_eq!(fixture.emulator.ours(""), Vec::<String>::new());
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_read_that_fails_before_something_is_taken_away_takes_nothing_away() {
    let Some(emulator) = Emulator::start() else { return };
    guards_fail_closed(&GceFixture::new(emulator).await).await;
}

#[tokio::test]
async fn with_instance_groups_a_read_that_fails_takes_nothing_away_either() {
    let Some(emulator) = Emulator::start() else { return };
    guards_fail_closed(&GceFixture::sharing(emulator).await).await;
}
