//! The users of the cluster's instance groups.
//!
//! Owns: reading that off a listing. Leaves to others: listing, what follows (`plan`).
//! Invariant: whoever refers to a group, or may be about to, counts. So of Services that go at once the last one to look
//! finds nobody else, and a Service that comes is never taken its group for good.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{Owner, ServiceUid};

use crate::cloud::Found;
use crate::resource::{Backends, Id, Kind, Resource};

/// Other Services' use of the cluster's instance groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Whether there are any that have them, or may be about to: with a health check, and no backend service of endpoint
    /// groups.
    pub others: bool,
    /// Groups that their backend services refer to.
    pub used: BTreeSet<Id>,
}

/// Services that have the cluster's instance groups, or may be about to, and which groups they refer to.
pub(super) type Users = BTreeMap<ServiceUid, BTreeSet<Id>>;

pub(super) fn users(found: &[(Owner, Found)]) -> Users {
    let (mut users, mut others) = (Users::new(), BTreeSet::new());
    for (owner, found) in found {
        match &found.resource {
            Resource::HealthCheck(_) => {
                users.entry(owner.service.clone()).or_default();
            }
            Resource::BackendService(service) if service.backends == Backends::InstanceGroups => {
                let groups = service.groups.iter().map(|(zone, name)| Id {
                    kind: Kind::InstanceGroup,
                    zone: Some(zone.clone()),
                    name: name.clone(),
                });
                users.entry(owner.service.clone()).or_default().extend(groups);
            }
            Resource::BackendService(_) => {
                others.insert(&owner.service);
            }
            _ => {}
        }
    }
    users.retain(|service, groups| !groups.is_empty() || !others.contains(service));
    users
}

/// How many refer to each.
pub(super) fn counts(users: &Users) -> BTreeMap<&Id, usize> {
    let mut counts = BTreeMap::new();
    for id in users.values().flatten() {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

/// The use of the groups by all Services but one.
pub(super) fn without(users: &Users, counts: &BTreeMap<&Id, usize>, own: &ServiceUid) -> Shared {
    let mine = users.get(own);
    let by_others = |(id, count): (&&Id, &usize)| {
        let own = usize::from(mine.is_some_and(|mine| mine.contains(*id)));
        (*count > own).then(|| (*id).clone())
    };
    Shared {
        others: users.len() > usize::from(mine.is_some()),
        used: counts.iter().filter_map(by_others).collect(),
    }
}

pub(super) fn sharing(found: &[(Owner, Found)], owner: &Owner) -> Shared {
    let users = users(found);
    without(&users, &counts(&users), &owner.service)
}
