//! Refusals on paper, and a cloud that refuses any one of many.

use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::cloud::{Found, OperationFilter, OperationState};
use crate::resource::{Kind, Resource, Seen};

fn mk_group() -> Id {
    Id { kind: Kind::EndpointGroup, zone: Some("z".to_owned()), name: "neg".to_owned() }
}

fn mk_endpoints(count: u8) -> Vec<Endpoint> {
    let one = |number| Endpoint { instance: format!("node-{number}"), ip: [10, 0, 0, number].into() };
    (1..=count).map(one).collect()
}

fn names(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|endpoint| endpoint.instance.as_str()).collect()
}

#[test]
fn what_google_says_names_the_unfit_and_nobody_else() {
    let (group, all) = (mk_group(), mk_endpoints(13));
    for (kind, message, unfit) in [
        // kubernetes/ingress-gce issue 1463
        (
            CloudErrorKind::Invalid,
            "Invalid value for field 'resource.ipAddress': '10.0.0.13'. Specified IP address 10.0.0.13 doesn't belong \
             to the (sub)network node-2 or to the instance node-13.",
            vec!["node-13"],
        ),
        (
            CloudErrorKind::NotFound,
            "The resource 'projects/p/zones/z/instances/node-1' was not found",
            vec!["node-1"],
        ),
        (
            CloudErrorKind::Taken,
            "Validation failed for instance 'projects/p/zones/z/instances/node-7': instance may belong to at most one \
             load-balanced instance group.",
            vec!["node-7"],
        ),
        (
            CloudErrorKind::Denied,
            "Required 'compute.instances.use' permission for 'projects/p/zones/z/instances/node-2'",
            vec!["node-2"],
        ),
        (
            CloudErrorKind::NotFound,
            "The resource 'projects/p/zones/z/networkEndpointGroups/neg' was not found",
            vec![],
        ),
        (CloudErrorKind::Unavailable, "instance node-1", vec![]),
    ] {
        assert_eq!(names(&named(&group, &all, &CloudError::new(kind, message))), unfit, "{message}");
    }
}

#[test]
fn where_nobody_is_named_half_are_offered_until_one_is_left() {
    let (group, error) = (mk_group(), CloudError::new(CloudErrorKind::Invalid, "no"));
    for (offered, culprits_are) in
        [(13, Culprits::AmongHalf(6)), (6, Culprits::AmongHalf(3)), (3, Culprits::AmongHalf(1))]
    {
        assert_eq!(culprits(&group, &mk_endpoints(offered), &error), culprits_are);
    }
    assert_eq!(culprits(&group, &mk_endpoints(1), &error), Culprits::Are(mk_endpoints(1)));
}

/// Refuses every call that has one of these in it, and keeps the others.
struct Refusing {
    unfit: Vec<Endpoint>,
    kind: CloudErrorKind,
    names: bool,
    taken: Mutex<Vec<Endpoint>>,
}

const NEVER: &str = "the double has endpoint groups only";

fn never<T>() -> Result<T, CloudError> {
    Err(CloudError::new(CloudErrorKind::Unavailable, NEVER))
}

impl Cloud for Refusing {
    async fn list(&self, _kind: Kind, _names: &str) -> Result<Vec<Found>, CloudError> {
        never()
    }
    async fn get(&self, _id: &Id) -> Result<Option<Found>, CloudError> {
        never()
    }
    async fn insert(&self, _resource: &Resource, _description: &str) -> Result<Operation, CloudError> {
        never()
    }
    async fn patch(&self, _resource: &Resource) -> Result<Operation, CloudError> {
        never()
    }
    async fn delete(&self, _id: &Id) -> Result<Operation, CloudError> {
        never()
    }
    async fn endpoints(&self, _group: &Id) -> Result<BTreeMap<Endpoint, Seen>, CloudError> {
        never()
    }
    async fn health(&self, _service: &str, _group: &Id) -> Result<BTreeMap<String, Seen>, CloudError> {
        never()
    }
    async fn attach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        if let Some(unfit) = endpoints.iter().find(|endpoint| self.unfit.contains(endpoint)) {
            let words = if self.names { format!("instance {}", unfit.instance) } else { "no".to_owned() };
            return Err(CloudError::new(self.kind, words));
        }
        self.taken.lock().unwrap().extend(endpoints.iter().cloned());
        Ok(Operation {
            name: "operation".to_owned(),
            verb: "attach".to_owned(),
            target: group.clone(),
            started: String::new(),
            state: OperationState::Done,
        })
    }
    async fn detach(&self, _group: &Id, _endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        never()
    }
    async fn operations(&self, _filter: &OperationFilter) -> Result<Vec<Operation>, CloudError> {
        never()
    }
    async fn operation(&self, _accepted: &Operation) -> Result<Option<Operation>, CloudError> {
        never()
    }
}

/// Every answer that is neither throttling, an outage, nor a busy group.
const SPLIT: [CloudErrorKind; 7] = [
    CloudErrorKind::Invalid,
    CloudErrorKind::NotFound,
    CloudErrorKind::Taken,
    CloudErrorKind::InUse,
    CloudErrorKind::Precondition,
    CloudErrorKind::Denied,
    CloudErrorKind::Quota,
];

proptest! {
    #[test]
    fn whoever_is_refused_keeps_nobody_else_out(
        count in 2u8..60, picks in proptest::collection::vec(any::<prop::sample::Index>(), 1..3),
        kind in prop::sample::select(SPLIT.to_vec()), says_whom in any::<bool>(),
    ) {
        let all = mk_endpoints(count);
        let mut unfit: Vec<Endpoint> = picks.iter().map(|pick| all[pick.index(all.len())].clone()).collect();
        unfit.sort();
        unfit.dedup();
        unfit.truncate(usize::from(count) - 1);
        // Where Google says of a permission that it is missing and not for what, two who lack it look like all.
        if is_about_all(&CloudError::new(kind, "")) && !says_whom {
            unfit.truncate(1);
        }
        let cloud = Refusing { unfit: unfit.clone(), kind, names: says_whom, taken: Mutex::default() };
        let (mut left, mut refused) = (all.clone(), Vec::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..40 {
            let offered = runtime.block_on(offer(&cloud, &mk_group(), &left));
            prop_assert!(left.len() <= unfit.len() || offered.answer.is_ok(), "{:?}", offered);
            left.retain(|it| !offered.taken.contains(it) && !offered.refused.iter().any(|(no, _)| no == it));
            refused.extend(offered.refused.into_iter().map(|(endpoint, _)| endpoint));
            if left.iter().all(|it| unfit.contains(it)) {
                break;
            }
        }
        let taken = cloud.taken.lock().unwrap().len();
        prop_assert_eq!(taken, all.len() - unfit.len(), "left {:?}", names(&left));
        prop_assert!(refused.iter().all(|it| unfit.contains(it)), "{:?}", names(&refused));
    }

    #[test]
    fn a_permission_that_is_missing_for_all_is_told_and_blames_nobody(count in 1u8..60) {
        let all = mk_endpoints(count);
        let cloud =
            Refusing { unfit: all.clone(), kind: CloudErrorKind::Denied, names: false, taken: Mutex::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let offered = runtime.block_on(offer(&cloud, &mk_group(), &all));
        prop_assert!(offered.answer.is_err() && offered.refused.is_empty(), "{:?}", offered);
    }
}
