//! Deletion protection that a process which knows tags only runs into.
//!
//! Owns: that nothing goes then, and everything once a person has switched it off. Leaves to others: the plan from a
//! full view (`plans`).

use std::collections::BTreeMap;

use portico_provider::{LoadBalancer, LoadBalancerProvider, Owner, ServiceName};

use super::crash::{Status, attempt};
use super::emulator::Emulator;
use super::mk_load_balancer;
use crate::AwsProvider;
use crate::cloud::resources::{Id, Kind};
use crate::observed::Observed;
use crate::tags;
use crate::wanted::DELETION_PROTECTION;

fn mk_owner() -> Owner {
    Owner {
        cluster: "protected".parse().unwrap(),
        service: "uid-protected".parse().unwrap(),
        name: ServiceName::new("protected", "web").unwrap(),
    }
}

fn mk_provider(emulator: &Emulator) -> AwsProvider {
    AwsProvider::new(emulator.sdk.clone(), emulator.config(&mk_owner().cluster)).unwrap()
}

/// As an operator goes that has just read the listing; with what it saw last.
async fn from_listing(
    provider: &AwsProvider,
    to: Option<&LoadBalancer>,
) -> (Result<(), String>, Option<Observed>) {
    let owner = mk_owner();
    let mut services = provider.inventory().await.unwrap().services;
    let mut observed = services.remove(&owner.service).map(|owned| owned.observed);
    let ended = Box::pin(attempt(provider, &owner, to, &mut observed, &mut Status::new())).await;
    (ended, observed)
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
    from_listing(&mk_provider(&emulator), Some(&desired)).await.0.unwrap();
    let made = things(&emulator).await;
    assert_eq!(made.len(), 4, "{made:?}");

    let load_balancer = made.iter().find(|id| id.kind() == Some(Kind::LoadBalancer)).unwrap();
    let protect = |value: &str| BTreeMap::from([(DELETION_PROTECTION.to_owned(), value.to_owned())]);
    emulator.sdk.modify_load_balancer_attributes(load_balancer, &protect("true")).await.unwrap();
    let (ended, observed) = from_listing(&mk_provider(&emulator), None).await;
    let waiting = ended.expect_err("a person has to switch it off");
    assert!(waiting.contains("by hand"), "{waiting}");
    assert!(matches!(observed, Some(Observed::Full(_))), "it had to be read to be reported");
    assert_eq!(things(&emulator).await, made, "nothing is deleted");

    emulator.sdk.modify_load_balancer_attributes(load_balancer, &protect("false")).await.unwrap();
    let (ended, observed) = from_listing(&mk_provider(&emulator), None).await;
    assert_eq!(ended, Ok(()));
    assert!(observed.is_none(), "{observed:?}");
    assert_eq!(things(&emulator).await, []);
}
