//! The suite, judged: a true fake passes, and each promise has a fake that breaks it and is found out.

mod fake;

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fake::{Bug, Cloud, Fake, Observed};

use super::{CloudFixture, Registered, Variation, Violation, run};
use crate::*;

/// Fakes never wait, so polling once is enough.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a fake waited"),
    }
}

fn mk_port(number: u16) -> Port {
    Port::try_from(number).unwrap()
}

fn mk_listener(protocol: Protocol, port: u16) -> Listener {
    Listener { protocol, port: mk_port(port), name: String::new(), node_port: Some(mk_port(30_000 + port)) }
}

fn mk_nodes(names: &[&str]) -> Targets {
    let node = |name: &&str| NodeTarget {
        name: NodeName((*name).to_owned()),
        addresses: ["10.0.0.1".parse().unwrap()].into(),
        external_addresses: BTreeSet::new(),
        provider_id: None,
        zone: None,
        has_ready_endpoints: true,
    };
    Targets::Nodes(names.iter().map(node).collect())
}

struct InMemory(Cloud);

impl CloudFixture for InMemory {
    type Provider = Fake;

    fn provider(&self, cluster: &ClusterUid) -> Fake {
        self.0.provider(cluster)
    }

    fn base(&self, owner: Owner) -> LoadBalancer {
        LoadBalancer::plain(owner, [mk_listener(Protocol::Tcp, 80)].into(), mk_nodes(&["a"]))
    }

    fn variations(&self, base: &LoadBalancer) -> Vec<Variation> {
        let ranges = ["10.0.0.0/8".parse().unwrap()].into();
        let listeners = [mk_listener(Protocol::Tcp, 81)].into();
        let variation = |field, desired| Variation { field, desired };
        vec![
            variation(Field::Listeners, LoadBalancer { listeners, ..base.clone() }),
            variation(Field::Targets, LoadBalancer { targets: mk_nodes(&["a", "b"]), ..base.clone() }),
            variation(Field::SourceRanges, LoadBalancer { source_ranges: ranges, ..base.clone() }),
            variation(Field::Scheme, LoadBalancer { scheme: Scheme::Internal, ..base.clone() }),
        ]
    }

    fn unsupported(&self, base: &LoadBalancer) -> Vec<Variation> {
        let listeners = [mk_listener(Protocol::Udp, 53)].into();
        let desired = LoadBalancer { listeners, scheme: Scheme::Internal, ..base.clone() };
        vec![Variation { field: Field::Scheme, desired }]
    }

    fn count(&self, observed: &Observed) -> usize {
        observed.balancers.len()
    }

    async fn pause(&self, duration: Duration) {
        self.0.pass(duration);
    }

    fn left_in_the_cloud(&self, owner: &Owner) -> Vec<String> {
        self.0.left(owner)
    }

    async fn registered(&self, owner: &Owner) -> Registered {
        self.0.registered(owner)
    }

    fn lose_reply_of_write(&self, n: u32) -> bool {
        self.0.lose_reply_in(n);
        true
    }
}

fn judge(bug: Bug) -> Result<(), Violation> {
    now(run(&InMemory(Cloud::new(bug))))
}

#[test]
fn a_true_fake_keeps_the_contract() {
    judge(Bug::None).unwrap();
}

#[test]
fn every_broken_promise_is_found_and_named() {
    let found = [
        (Bug::RandomNames, "a step executed again changes nothing"),
        (Bug::DeletingTheAbsentFails, "deleting the absent is done"),
        (Bug::ShowsAllClusters, "another cluster's things are neither shown nor touched"),
        (Bug::DeletesAcrossClusters, "another cluster's things are neither shown nor touched"),
        (Bug::LeaksTheAddress, "deleting ends with an empty listing, and takes nothing else"),
        (Bug::HiddenFromInventory, "what was created is in the inventory, with its owner"),
        (Bug::IgnoresSourceRanges, "a change of each field converges, and has an effect"),
        (Bug::NeverSettles, "a plan carried out leaves nothing to do"),
        (Bug::DestructiveFirst, "a plan widens before it narrows"),
        (Bug::AcceptsInternalUdp, "what cannot be done is blocked with its field, before anything is made"),
        (Bug::ForgetsPublished, "a published address is claimed before another is allocated"),
        (Bug::ReplacesWithoutConsent, "a replacement needs consent"),
        (Bug::FreezesTargets, "targets depend on nothing but targets"),
        (Bug::TargetsNeedTheRest, "targets depend on nothing but targets"),
        (Bug::KeepsLostPorts, "a target is a machine and a port: a lost port goes in the first pass"),
        (Bug::Nondeterministic, "a plan is deterministic"),
        (Bug::ReportsNoAddress, "what converged is reported ready, with its address"),
    ];
    let wrong: Vec<_> = found
        .into_iter()
        .map(|(bug, promise)| (bug, promise, judge(bug)))
        .filter(
            |(_bug, promise, verdict)| !matches!(verdict, Err(violation) if violation.promise == *promise),
        )
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
