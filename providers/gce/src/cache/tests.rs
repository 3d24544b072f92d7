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
    let (cache, now, observed) = (Cache::default(), Instant::now(), mk_observed());
    for number in 0..20 {
        let service = mk_service(number);
        cache.learn(&service, Some(&observed), true, now);
        assert!(cache.is_news(&service, "operation-1") && !cache.is_news(&service, "operation-1"));
        cache.offer_at_most(&service, &mk_operation(&observed, OperationState::Done).target, Some(3));
    }
    for number in 0..10 {
        cache.learn(&mk_service(number), None, false, now);
    }
    assert_eq!(cache.len(), 10, "a look that found nothing, of what is not wanted, ends it");
    let left = mk_service(19);
    cache.compare(&BTreeMap::from([(&left, &observed)]));
    assert_eq!(cache.len(), 1, "and so does a listing without it");
}

#[test]
fn a_failure_that_is_over_is_forgotten() {
    let (cache, now, service) = (Cache::default(), Instant::now(), mk_service(1));
    assert!(cache.is_news(&service, "operation-1"));
    let mut observed = mk_observed();
    let error = CloudError::new(CloudErrorKind::Quota, "no more");
    let failed = mk_operation(&observed, OperationState::Failed(error));
    observed.operations.insert(failed.target.clone(), failed);
    cache.learn(&service, Some(&observed), true, now);
    assert!(!cache.is_news(&service, "operation-1"));
    cache.learn(&service, Some(&mk_observed()), true, now);
    assert!(cache.is_news(&service, "operation-1"), "nothing is kept of what nobody can see any more");
}

#[test]
fn a_listing_that_differs_ends_what_is_known_unless_it_is_changing() {
    let (cache, now, observed, service) = (Cache::default(), Instant::now(), mk_observed(), mk_service(1));
    let none = Observed::default();
    cache.learn(&service, Some(&observed), true, now);
    cache.compare(&BTreeMap::from([(&service, &observed)]));
    assert!(cache.recall(&service).is_some());
    cache.began(&service, &mk_patch(&observed), &mk_operation(&observed, OperationState::Running));
    cache.compare(&BTreeMap::from([(&service, &none)]));
    assert!(cache.recall(&service).is_some(), "the listing may be older than the change");
    cache.learn(&service, Some(&observed), true, now);
    cache.compare(&BTreeMap::from([(&service, &none)]));
    assert!(cache.recall(&service).is_none());
}

#[test]
fn members_of_groups_are_kept_for_a_minute() {
    let (cache, now, mut observed, service) =
        (Cache::default(), Instant::now(), mk_observed(), mk_service(1));
    let group = Id { kind: Kind::EndpointGroup, zone: Some("z".to_owned()), name: "neg".to_owned() };
    observed.endpoints.insert(group, std::sync::Arc::default());
    cache.learn(&service, Some(&observed), true, now);
    cache.learn(&mk_service(2), Some(&observed), true, now + MEMBERS);
    assert_eq!(cache.recall(&service).unwrap().observed.endpoints.len(), 1);
    cache.learn(&mk_service(3), Some(&observed), true, now + MEMBERS + Duration::from_secs(1));
    assert_eq!(cache.recall(&service).unwrap().observed.endpoints.len(), 0);
    assert_eq!(cache.recall(&mk_service(2)).unwrap().observed.endpoints.len(), 1);
}
