//! Deletion protection that a process which knows tags only runs into.
//!
//! Owns: that nothing goes then, and everything once a person has switched it off. Leaves to others: the plan from a
//! full view (`plans`).

use std::collections::BTreeMap;

use portico_provider::{Desired, LoadBalancerProvider, Look, Outcome, Owner, Plan, ServiceName};

use super::emulator::Emulator;
use super::mk_load_balancer;
use crate::AwsProvider;
use crate::cloud::resources::{Id, Kind};
use crate::cloud::{Cloud, Sdk};
use crate::observed::Observed;
use crate::step::Step;
use crate::tags;
use crate::translate::DELETION_PROTECTION;

fn mk_owner() -> Owner {
    Owner {
        cluster: "protected".parse().unwrap(),
        service: "uid-protected".parse().unwrap(),
        name: ServiceName::new("protected", "web").unwrap(),
    }
}

fn mk_provider(emulator: &Emulator) -> AwsProvider<Sdk> {
    AwsProvider::new(emulator.sdk.clone(), emulator.config(&mk_owner().cluster)).unwrap()
}

/// As an operator goes that has just read the listing, until nothing is left to do but wait for somebody.
async fn go(provider: &AwsProvider<Sdk>, desired: Desired<'_>) -> (Plan<Step>, Option<Observed>) {
    let listed = provider.inventory().await.unwrap();
    let listed = listed.services.get(&desired.owner().service).map(|owned| owned.observed.clone());
    let mut look = Look::first(desired, &provider.plan(desired, listed.as_ref()));
    for _ in 0..40 {
        let observed = provider.observe_for(desired, look).await.unwrap();
        let plan = provider.plan(desired, observed.as_ref());
        if let Some(closer) = look.before(desired, observed.is_some(), &plan) {
            look = closer;
            continue;
        }
        let by_hand = plan.waiting().is_some_and(|waiting| waiting.what.contains("by hand"));
        if plan.steps().is_empty() && (plan.is_settled() || by_hand) {
            return (plan, observed);
        }
        look = if plan.steps().is_empty() { Look::Poll } else { Look::after(desired) };
        for planned in plan.steps() {
            if let Outcome::InProgress { .. } = provider.execute(&planned.step).await.unwrap() {
                look = Look::Confirm;
                break;
            }
        }
    }
    panic!("it does not come to rest");
}

async fn things(emulator: &Emulator) -> Vec<Id> {
    let found = emulator.sdk.tagged(&tags::of_cluster(&mk_owner().cluster)).await.unwrap();
    found.into_iter().map(|(id, _)| id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_knows_only_tags_deletes_nothing_that_is_protected() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes = emulator.instances.clone();
    let desired = mk_load_balancer(mk_owner(), &nodes[..1]);
    go(&mk_provider(&emulator), Desired::Present(&desired)).await;
    let made = things(&emulator).await;
    assert_eq!(made.len(), 3, "{made:?}");

    let load_balancer = made.iter().find(|id| id.kind() == Some(Kind::LoadBalancer)).unwrap();
    let protect = |value: &str| BTreeMap::from([(DELETION_PROTECTION.to_owned(), value.to_owned())]);
    emulator.sdk.modify_load_balancer_attributes(load_balancer, &protect("true")).await.unwrap();
    let provider = mk_provider(&emulator);
    let owner = mk_owner();
    let (plan, observed) = go(&provider, Desired::Absent(&owner)).await;
    assert!(plan.waiting().is_some_and(|it| it.what.contains("by hand")), "{plan}");
    assert!(matches!(observed, Some(Observed::Full(_))), "it had to be read to be told");
    assert_eq!(things(&emulator).await, made, "nothing goes");

    emulator.sdk.modify_load_balancer_attributes(load_balancer, &protect("false")).await.unwrap();
    let (plan, observed) = go(&mk_provider(&emulator), Desired::Absent(&owner)).await;
    assert!(plan.is_settled() && observed.is_none(), "{plan}");
    assert_eq!(things(&emulator).await, []);
}
