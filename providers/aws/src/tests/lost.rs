//! Things of ours that lost their tags, or whose tags somebody edited: found by name, restored with proof, else reported.
//!
//! Owns: whatever is stripped of whatever, in a process that knows it and in one that does not, alive and while it is deleted.
//! Leaves to others: what others put on ours (`foreign`). Invariants: at most two load balancers are requested, and there is one.
//! After a deletion the account is as it was, or the error names the missing tags and the remedy.

use portico_provider::{LoadBalancer, LoadBalancerProvider, Owner, ServiceName};
use serde_json::Value;

use super::crash::{Status, attempt};
use super::emulator::Emulator;
use super::{mk_load_balancer, mk_options};
use crate::cloud::Sdk;
use crate::cloud::resources::{Id, Kind, Tags};
use crate::{AwsProvider, capabilities, tags};

fn mk_owner() -> Owner {
    Owner {
        cluster: "lost".parse().unwrap(),
        service: "uid-lost".parse().unwrap(),
        name: ServiceName::new("lost", "web").unwrap(),
    }
}

fn mk_provider(emulator: &Emulator) -> AwsProvider {
    AwsProvider::new(emulator.sdk.clone(), emulator.config(&mk_owner().cluster)).unwrap()
}

/// As an operator goes that has just read the listing.
async fn settle(
    provider: &AwsProvider,
    to: Option<&LoadBalancer>,
    status: &mut Status,
) -> Result<(), String> {
    let mut services = provider.inventory().await.unwrap().services;
    let mut observed = services.remove(&mk_owner().service).map(|owned| owned.observed);
    Box::pin(attempt(provider, &mk_owner(), to, &mut observed, status)).await
}

async fn own(sdk: &Sdk) -> Vec<Id> {
    let found = sdk.tagged(&tags::of_any(&[mk_owner()])).await.unwrap();
    found.into_iter().map(|(id, _)| id).collect()
}

fn untag(emulator: &Emulator, ids: &[Id], kinds: &[Kind]) {
    let stripped = ids.iter().filter(|id| id.kind().is_some_and(|kind| kinds.contains(&kind)));
    emulator.untag(stripped, "portico.dev/,elbv2.k8s.aws/cluster");
}

const ALL: [Kind; 4] = [Kind::LoadBalancer, Kind::TargetGroup, Kind::Listener, Kind::SecurityGroup];

fn asked_for(calls: &std::collections::BTreeMap<String, usize>) -> usize {
    calls.get("CreateLoadBalancer").copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_loses_its_tags_is_found_by_name_and_taken_back() {
    let Some(emulator) = Emulator::start().await else { return };
    let before = emulator.account("list");
    let plain = mk_load_balancer(mk_owner(), &emulator.instances[..2]);
    let named = mk_options(&[(capabilities::NAME, "shop")]);
    let named = LoadBalancer { options: named, ..plain.clone() };
    let kinds: [&[Kind]; 4] = [&[Kind::LoadBalancer], &[Kind::TargetGroup], &[Kind::SecurityGroup], &ALL];
    let plainly = kinds.map(|kinds| (&plain, kinds));
    for (desired, stripped) in plainly.into_iter().chain([(&named, kinds[0]), (&named, kinds[3])]) {
        for (restarted, deleted) in [(false, false), (true, false), (false, true), (true, true)] {
            let message =
                format!("{stripped:?}, restarted {restarted}, deleted {deleted}, {:?}", desired.options);
            // By tags and digests nobody finds a name that a user chose, once all else is gone, too.
            if restarted && deleted && stripped == ALL && *desired == named {
                continue;
            }
            let (mut provider, mut status) = (mk_provider(&emulator), Status::new());
            settle(&provider, Some(desired), &mut status)
                .await
                .unwrap_or_else(|why| panic!("{message}: {why}"));
            let shown = status.clone();
            untag(&emulator, &own(&emulator.sdk).await, stripped);
            if restarted {
                provider = mk_provider(&emulator);
            }
            emulator.calls();
            let to = (!deleted).then_some(desired);
            settle(&provider, to, &mut status).await.unwrap_or_else(|why| panic!("{message}: {why}"));
            // As the audit does.
            settle(&mk_provider(&emulator), to, &mut status)
                .await
                .unwrap_or_else(|why| panic!("{message}: {why}"));
            let calls = emulator.calls();
            assert!(asked_for(&calls) <= 2, "{message}: {calls:?}");
            if !deleted {
                assert_eq!(status, shown, "{message}: its hostname stays");
                let all = own(&emulator.sdk).await;
                let balancers = all.iter().filter(|id| id.kind() == Some(Kind::LoadBalancer)).count();
                assert_eq!(balancers, 1, "{message}: {all:?}");
                settle(&mk_provider(&emulator), None, &mut status)
                    .await
                    .unwrap_or_else(|why| panic!("{message}: {why}"));
            }
            assert_eq!(names(&emulator.account("list")), names(&before), "{message}: nothing is left");
        }
    }
}

fn tags_of(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn names(account: &Value) -> Vec<String> {
    account.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_of_another_owner_are_reported_with_the_remedy_and_nothing_is_created_or_deleted() {
    let Some(emulator) = Emulator::start().await else { return };
    let desired = mk_load_balancer(mk_owner(), &emulator.instances[..2]);
    let table = [
        ("portico.dev/service-uid", false, false),
        ("portico.dev/service-uid", true, true),
        ("portico.dev/cluster-uid", true, false),
        ("portico.dev/cluster-uid", false, true),
        ("elbv2.k8s.aws/cluster", false, false),
    ];
    for (key, restarted, deleted) in table {
        let value = "another";
        let message = format!("{key}, restarted {restarted}, deleted {deleted}");
        let (mut provider, mut status) = (mk_provider(&emulator), Status::new());
        settle(&provider, Some(&desired), &mut status).await.unwrap_or_else(|why| panic!("{message}: {why}"));
        let all = own(&emulator.sdk).await;
        let balancer = all.iter().find(|id| id.kind() == Some(Kind::LoadBalancer)).unwrap();
        untag(&emulator, std::slice::from_ref(balancer), &ALL);
        let edited = tags_of(&[(key, value)]);
        emulator.sdk.add_tags(std::slice::from_ref(balancer), &edited).await.unwrap();
        let there = names(&emulator.account("list"));
        if restarted {
            provider = mk_provider(&emulator);
        }
        emulator.calls();
        let to = (!deleted).then_some(&desired);
        let mut refused = String::new();
        for _ in 0..3 {
            if let Err(why) = settle(&provider, to, &mut status).await {
                refused = why;
            }
        }
        for part in [key, value, "add-tags", &balancer.0] {
            assert!(refused.contains(part), "{message}: {part}: {refused}");
        }
        let calls = emulator.calls();
        assert!(asked_for(&calls) <= 2, "{message}: {calls:?}");
        let now = names(&emulator.account("list"));
        assert!(now.contains(&balancer.0), "{message}: it is left alone");
        assert!(now.iter().all(|id| there.contains(id)), "{message}: nothing is made beside it");
        // A person follows the remedy.
        untag(&emulator, std::slice::from_ref(balancer), &ALL);
        emulator.sdk.add_tags(std::slice::from_ref(balancer), &tags::of(&mk_owner())).await.unwrap();
        settle(&mk_provider(&emulator), None, &mut status)
            .await
            .unwrap_or_else(|why| panic!("{message}: {why}"));
        assert_eq!(own(&emulator.sdk).await, [], "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_that_are_removed_again_and_again_are_reported_and_no_longer_restored() {
    let Some(emulator) = Emulator::start().await else { return };
    let desired = mk_load_balancer(mk_owner(), &emulator.instances[..2]);
    let (provider, mut status) = (mk_provider(&emulator), Status::new());
    settle(&provider, Some(&desired), &mut status).await.unwrap();
    let all = own(&emulator.sdk).await;
    emulator.calls();
    let mut ended = Vec::new();
    for _ in 0..4 {
        untag(&emulator, &all, &[Kind::LoadBalancer]);
        ended.push(settle(&provider, Some(&desired), &mut status).await);
    }
    assert!(ended[0].is_ok() && ended[1].is_ok(), "{ended:?}");
    let message = ended[3].as_ref().unwrap_err();
    assert!(message.contains("again and again") && message.contains("tag policy"), "{message}");
    assert_eq!(asked_for(&emulator.calls()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_security_group_is_found_by_name_where_the_first_one_is_gone() {
    let Some(emulator) = Emulator::start().await else { return };
    let before = emulator.account("list");
    let of = |ranges: std::ops::Range<u8>| LoadBalancer {
        source_ranges: ranges.map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect(),
        ..mk_load_balancer(mk_owner(), &emulator.instances[..2])
    };
    let (provider, mut status) = (mk_provider(&emulator), Status::new());
    // The first security group is full, the second one holds the rest, and the first one goes.
    for ranges in [0..60, 0..61, 60..61] {
        settle(&provider, Some(&of(ranges)), &mut status).await.unwrap();
    }
    let all = own(&emulator.sdk).await;
    let security_groups: Vec<&Id> = all.iter().filter(|id| id.kind() == Some(Kind::SecurityGroup)).collect();
    assert_eq!(security_groups.len(), 1, "{all:?}");
    let name = emulator.account("list")[&security_groups[0].0].to_string();
    assert!(name.contains(&crate::names::security_group(&mk_owner(), 1)), "{name}");
    untag(&emulator, &all, &[Kind::SecurityGroup]);
    emulator.calls();
    settle(&mk_provider(&emulator), None, &mut status).await.unwrap();
    let reads = emulator.calls().get("DescribeSecurityGroups").copied();
    assert_eq!(names(&emulator.account("list")), names(&before), "{reads:?}");
}
