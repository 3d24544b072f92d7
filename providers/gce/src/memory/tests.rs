//! What is remembered, and for how long.

use super::*;
use crate::cloud::CloudErrorKind;
use crate::resource::{HealthCheck, Resource};

fn mk_service(number: u32) -> ServiceUid {
    format!("uid-{number}").parse().unwrap()
}

fn mk_observed() -> Observed {
    let check = Resource::HealthCheck(HealthCheck {
        name: "hc".to_owned(),
        path: None,
        port: 80,
        interval: 5,
        timeout: 5,
        healthy: 2,
        unhealthy: 2,
    });
    let mut observed = Observed::default();
    observed.resources.insert(check.id(), check);
    observed
}

fn mk_operation(observed: &Observed, state: OperationState) -> Operation {
    Operation {
        name: "operation-1".to_owned(),
        verb: "patch".to_owned(),
        target: observed.resources.keys().next().unwrap().clone(),
        started: String::new(),
        state,
    }
}

fn mk_patch(observed: &Observed) -> Call {
    Call::Patch(observed.resources.values().next().unwrap().clone())
}

#[test]
fn what_is_remembered_ends_with_its_service() {
    let (memory, now, observed) = (Memory::default(), Instant::now(), mk_observed());
    for number in 0..20 {
        let service = mk_service(number);
        memory.learn(&service, Some(&observed), true, now);
        assert!(memory.is_news(&service, "operation-1") && !memory.is_news(&service, "operation-1"));
        memory.offer_at_most(&service, &mk_operation(&observed, OperationState::Done).target, Some(3));
    }
    for number in 0..10 {
        memory.learn(&mk_service(number), None, false, now);
    }
    assert_eq!(memory.len(), 10, "a look that found nothing, of what is not wanted, ends it");
    let left = mk_service(19);
    memory.compare(&BTreeMap::from([(&left, &observed)]));
    assert_eq!(memory.len(), 1, "and so does a listing without it");
}

#[test]
fn a_failure_that_is_over_is_forgotten() {
    let (memory, now, service) = (Memory::default(), Instant::now(), mk_service(1));
    assert!(memory.is_news(&service, "operation-1"));
    let mut observed = mk_observed();
    let error = CloudError::new(CloudErrorKind::Quota, "no more");
    let failed = mk_operation(&observed, OperationState::Failed(error));
    observed.operations.insert(failed.target.clone(), failed);
    memory.learn(&service, Some(&observed), true, now);
    assert!(!memory.is_news(&service, "operation-1"));
    memory.learn(&service, Some(&mk_observed()), true, now);
    assert!(memory.is_news(&service, "operation-1"), "nothing is kept of what nobody can see any more");
}

#[test]
fn a_listing_that_differs_ends_what_is_known_unless_it_is_changing() {
    let (memory, now, observed, service) = (Memory::default(), Instant::now(), mk_observed(), mk_service(1));
    let none = Observed::default();
    memory.learn(&service, Some(&observed), true, now);
    memory.compare(&BTreeMap::from([(&service, &observed)]));
    assert!(memory.recall(&service).is_some());
    memory.began(&service, &mk_patch(&observed), &mk_operation(&observed, OperationState::Running));
    memory.compare(&BTreeMap::from([(&service, &none)]));
    assert!(memory.recall(&service).is_some(), "the listing may be older than the change");
    memory.learn(&service, Some(&observed), true, now);
    memory.compare(&BTreeMap::from([(&service, &none)]));
    assert!(memory.recall(&service).is_none());
}

#[test]
fn members_of_groups_are_kept_for_a_minute() {
    let (memory, now, mut observed, service) =
        (Memory::default(), Instant::now(), mk_observed(), mk_service(1));
    let group = Id { kind: Kind::EndpointGroup, zone: Some("z".to_owned()), name: "neg".to_owned() };
    observed.endpoints.insert(group, std::sync::Arc::default());
    memory.learn(&service, Some(&observed), true, now);
    memory.learn(&mk_service(2), Some(&observed), true, now + MEMBERS);
    assert_eq!(memory.recall(&service).unwrap().observed.endpoints.len(), 1);
    memory.learn(&mk_service(3), Some(&observed), true, now + MEMBERS + Duration::from_secs(1));
    assert_eq!(memory.recall(&service).unwrap().observed.endpoints.len(), 0);
    assert_eq!(memory.recall(&mk_service(2)).unwrap().observed.endpoints.len(), 1);
}
