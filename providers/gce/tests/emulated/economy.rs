//! What the provider costs in calls.
//!
//! Owns: the ceilings of a restart, of a change of nodes, of a quiet look. Leaves to others: rates (the cloud's client).
//! Invariant: calls are counted by the emulator, not by the caller.

use std::collections::BTreeMap;

use portico_provider::{Desired, LoadBalancer, LoadBalancerProvider};

use crate::emulator::{Emulator, is_write};
use crate::fixture::{GceFixture, Provider, attempt, mk_nodes, settle};

/// As many Services, and on each page of a listing as many times fewer things, as the thousand below.
const SERVICES: usize = 40;
const THOUSAND: usize = 1000;
const PAGE: usize = 500;

/// Calls by method.
fn table(calls: &[String]) -> BTreeMap<String, usize> {
    let mut table = BTreeMap::new();
    for line in calls {
        *table.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    table
}

async fn made(fixture: &GceFixture) -> Vec<LoadBalancer> {
    let mut all = Vec::new();
    for number in 0..SERVICES {
        let desired = fixture.desired(&format!("service-{number}"));
        settle(&fixture.one(&desired.owner.cluster), Desired::Present(&desired)).await.unwrap();
        all.push(desired);
    }
    all
}

#[tokio::test]
async fn a_restart_with_a_thousand_unchanged_services_costs_forty_reads_and_no_write() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    fixture.emulator.hook("polls", Some("0"));
    let all = made(&fixture).await;
    fixture.emulator.hook("page", Some(&(PAGE * SERVICES / THOUSAND).to_string()));
    let before = fixture.emulator.log().len();
    let provider = fixture.one(&all[0].owner.cluster);
    let inventory = provider.inventory().await.unwrap();
    assert_eq!(inventory.services.len(), SERVICES);
    for desired in &all {
        let observed = &inventory.services[&desired.owner.service].observed;
        let plan = provider.plan(Desired::Present(desired), Some(observed));
        assert!(plan.is_settled(), "{plan}");
        let report = provider.report(desired, Some(observed));
        assert!(report.ready && report.ingress.len() == 1, "{report:?}");
    }
    let calls = fixture.emulator.log().split_off(before);
    println!(
        "gce restart, {SERVICES} Services at {} a page: {:?}",
        PAGE * SERVICES / THOUSAND,
        table(&calls)
    );
    assert!(calls.len() <= 40, "{calls:?}");
    assert!(!calls.iter().any(|line| is_write(line)), "{calls:?}");
}

#[tokio::test]
async fn nodes_that_came_while_nobody_watched_are_noticed_by_a_restart() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut desired = fixture.desired("asleep");
    desired.targets = mk_nodes(&[0, 2]);
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    // As many in each zone, and others.
    desired.targets = mk_nodes(&[1, 2]);
    let inventory = provider.inventory().await.unwrap();
    let observed = &inventory.services[&desired.owner.service].observed;
    let plan = provider.plan(Desired::Present(&desired), Some(observed));
    assert!(plan.waiting().is_some(), "{plan}");
}

/// What bringing one Service to its state costs: reads, writes by method, and waits.
#[derive(Debug)]
struct Cost {
    reads: usize,
    writes: Vec<String>,
    waits: usize,
}

async fn cost(fixture: &GceFixture, provider: &Provider, desired: &LoadBalancer) -> Cost {
    let before = fixture.emulator.log().len();
    let waits = attempt(provider, desired).await.unwrap();
    let calls = fixture.emulator.log().split_off(before);
    let (writes, reads): (Vec<_>, Vec<_>) = calls.into_iter().partition(|line| is_write(line));
    let writes = table(&writes).into_iter().map(|(method, count)| format!("{count} {method}")).collect();
    Cost { reads: reads.len(), writes, waits }
}

const MARK_SYNCED: &str = "1 compute.regionBackendServices.update";
const GROUP: &str = "compute.networkEndpointGroups";

#[tokio::test]
async fn a_node_that_joins_or_leaves_costs_one_call_on_its_group_one_to_write_it_down_and_few_reads() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut desired = fixture.desired("elastic");
    let provider = fixture.one(&desired.owner.cluster);
    desired.targets = mk_nodes(&[0]);
    let created = cost(&fixture, &provider, &desired).await;
    assert!(created.reads <= 40, "{}", created.reads);
    // A process that knows the Service, and one that has just started.
    for (provider, most) in [(provider, [8, 16]), (fixture.one(&desired.owner.cluster), [16, 16])] {
        for (nodes, verb, most) in [(&[0, 1][..], "attach", most[0]), (&[0], "detach", most[1])] {
            desired.targets = mk_nodes(nodes);
            let Cost { reads, writes, waits: _ } = cost(&fixture, &provider, &desired).await;
            assert_eq!(writes, [format!("1 {GROUP}.{verb}NetworkEndpoints"), MARK_SYNCED.to_owned()]);
            assert!(reads <= most, "{verb}: {reads}");
        }
    }
}

#[tokio::test]
async fn an_operation_that_takes_its_time_costs_one_read_each_time_it_is_asked_for() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut desired = fixture.desired("patient");
    let provider = fixture.one(&desired.owner.cluster);
    desired.targets = mk_nodes(&[0]);
    cost(&fixture, &provider, &desired).await;
    desired.targets = mk_nodes(&[0, 1]);
    fixture.emulator.hook("polls", Some("1"));
    let quick = cost(&fixture, &provider, &desired).await;
    desired.targets = mk_nodes(&[0]);
    cost(&fixture, &provider, &desired).await;
    desired.targets = mk_nodes(&[0, 1]);
    fixture.emulator.hook("polls", Some("30"));
    let slow = cost(&fixture, &provider, &desired).await;
    assert!(slow.waits > quick.waits + 50, "{} and {}", slow.waits, quick.waits);
    assert_eq!(slow.reads - quick.reads, slow.waits - quick.waits, "each wait costs one read");
}
