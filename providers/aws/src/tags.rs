//! Tags: the owner of a resource, and the synced hashes.
//!
//! Owns: keys and their reading. Leaves to others: writing them. Invariants: ownership is the cluster's and the Service's
//! UID together; names in tags are for people. Synced hashes are whole or none: while a load balancer is being changed
//! its targets' hash says `changing`, and the hashes before count no more.

use portico_provider::{ClusterUid, GroupName, Owner, ServiceName, ServiceUid};

use crate::cloud::resources::{Filter, Tags};
use crate::names;

const CLUSTER: &str = "portico.dev/cluster-uid";
pub(crate) const SERVICE_UID: &str = "portico.dev/service-uid";
const SERVICE: &str = "portico.dev/service";
pub(crate) const GROUP: &str = "portico.dev/group";
const LEAD_UID: &str = "portico.dev/group-lead-uid";
const LEAD: &str = "portico.dev/group-lead";
const SPEC_HASH: &str = "portico.dev/spec-hash";
const EXTRAS: &str = "portico.dev/listener-extras";
const ADOPTED: &str = "portico.dev/adopted";
const TARGETS_HASH: &str = "portico.dev/targets-hash";
const CHANGING: &str = "changing";
/// Of the AWS Load Balancer Controller: the cluster's name, and the Service's.
pub(crate) const CONTROLLERS_CLUSTER: &str = "elbv2.k8s.aws/cluster";
pub(crate) const STACK: &str = "service.k8s.aws/stack";

/// The synced hashes: of all but the targets, and of the targets; `None`: a change is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedHash {
    /// Of the spec.
    pub spec: String,
    /// Of the targets.
    pub targets: Option<String>,
}

/// The tags of every resource of this Service.
pub(crate) fn of(owner: &Owner) -> Tags {
    let mut tags = identity(owner);
    tags.insert(SERVICE.to_owned(), owner.name.to_string());
    tags
}

/// The tags that find this Service's resources.
pub(crate) fn identity(owner: &Owner) -> Tags {
    let Owner { cluster, service, name: _ } = owner;
    Tags::from([(CLUSTER.to_owned(), cluster.to_string()), (SERVICE_UID.to_owned(), service.to_string())])
}

/// Finds this cluster's resources.
pub(crate) fn of_cluster(cluster: &ClusterUid) -> Filter {
    Filter::from([(CLUSTER.to_owned(), vec![cluster.to_string()])])
}

/// Finds the resources of all of these owners, which are of one cluster.
pub(crate) fn of_any(owners: &[Owner]) -> Filter {
    let services = owners.iter().map(|owner| owner.service.to_string()).collect();
    let cluster = owners.first().map(|owner| owner.cluster.to_string());
    Filter::from([(CLUSTER.to_owned(), cluster.into_iter().collect()), (SERVICE_UID.to_owned(), services)])
}

/// Finds the shared resources of a group, and its members' own there.
pub(crate) fn of_group(cluster: &ClusterUid, group: &GroupName) -> Filter {
    all_of(&shared(cluster, group))
}

/// Finds the resources that carry all of these tags.
pub(crate) fn all_of(tags: &Tags) -> Filter {
    tags.iter().map(|(key, value)| (key.clone(), vec![value.clone()])).collect()
}

/// The tags of a group's shared resources, which have no Service's UID; members' own resources carry the group, too.
pub(crate) fn shared(cluster: &ClusterUid, group: &GroupName) -> Tags {
    Tags::from([(CLUSTER.to_owned(), cluster.to_string()), (GROUP.to_owned(), group.to_string())])
}

/// Those of a member's things, made those of what is shared.
pub(crate) fn commons(own: &Tags) -> Tags {
    own.iter()
        .filter(|(key, _)| !matches!(key.as_str(), SERVICE_UID | SERVICE))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// A member's things carry these as well.
pub(crate) fn member(group: &GroupName) -> Tags {
    Tags::from([(GROUP.to_owned(), group.to_string())])
}

/// The group that a thing is of.
pub(crate) fn group(tags: &Tags) -> Option<GroupName> {
    GroupName::try_from(tags.get(GROUP)?.clone()).ok()
}

/// Whether the tags are those of what this group shares.
pub(crate) fn are_shared(tags: &Tags, cluster: &ClusterUid, group: &GroupName) -> bool {
    !tags.contains_key(SERVICE_UID)
        && shared(cluster, group).iter().all(|(key, value)| tags.get(key) == Some(value))
}

/// Written on a shared load balancer: who decides what is of all of it.
pub(crate) fn lead(owner: &Owner) -> Tags {
    let Owner { cluster: _, service, name } = owner;
    Tags::from([(LEAD_UID.to_owned(), service.to_string()), (LEAD.to_owned(), name.to_string())])
}

/// The lead of the group, by the tags of its load balancer.
pub(crate) fn leader(tags: &Tags) -> Option<Owner> {
    Some(Owner {
        cluster: tags.get(CLUSTER)?.parse().ok()?,
        service: tags.get(LEAD_UID)?.parse().ok()?,
        name: ServiceName::try_from(tags.get(LEAD)?.clone()).ok()?,
    })
}

/// The owner of a shared load balancer without members; no Service has such a UID.
pub(crate) fn remains(cluster: &ClusterUid, group: &GroupName) -> Option<Owner> {
    let uid = format!("group-{:016x}", names::digest(&group.to_string()));
    Some(Owner {
        cluster: cluster.clone(),
        service: uid.parse::<ServiceUid>().ok()?,
        name: ServiceName::new(group.namespace(), group.name()).ok()?,
    })
}

/// The group that an owner stands for which is no Service.
pub(crate) fn remains_of(owner: &Owner) -> Option<GroupName> {
    let group = GroupName::new(owner.name.namespace(), owner.name.name())?;
    (remains(&owner.cluster, &group).as_ref() == Some(owner)).then_some(group)
}

/// The hash that all of these have: of a member, its target groups.
pub(crate) fn common_hash(mut hashes: impl Iterator<Item = Option<SyncedHash>>) -> Option<SyncedHash> {
    let first = hashes.next()??;
    hashes.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// Whether the tags are this owner's.
pub(crate) fn are_of(tags: &Tags, owner: &Owner) -> bool {
    identity(owner).iter().all(|(key, value)| tags.get(key) == Some(value))
}

/// The tags of the owner, without the synced hashes.
pub(crate) fn whose(own: &Tags) -> Tags {
    let keys = [CLUSTER, SERVICE_UID, SERVICE, GROUP];
    own.iter().filter(|(key, _)| keys.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Tags that name another owner than `own` does.
pub(crate) fn of_another<'a>(found: &'a Tags, own: &Tags) -> impl Iterator<Item = (&'a str, &'a str)> {
    let whose = [CLUSTER, SERVICE_UID, GROUP, CONTROLLERS_CLUSTER];
    let others = found
        .iter()
        .filter(move |(key, value)| whose.contains(&key.as_str()) && own.get(*key) != Some(value));
    others.map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Whether the AWS Load Balancer Controller made it for the Service of this name.
pub(crate) fn were_made_for(tags: &Tags, owner: &Owner) -> bool {
    tags.get(STACK).is_some_and(|stack| *stack == owner.name.to_string())
}

/// The owner that the tags name.
pub(crate) fn owner(tags: &Tags) -> Option<Owner> {
    Some(Owner {
        cluster: tags.get(CLUSTER)?.parse().ok()?,
        service: tags.get(SERVICE_UID)?.parse().ok()?,
        name: ServiceName::try_from(tags.get(SERVICE)?.clone()).ok()?,
    })
}

impl SyncedHash {
    /// The tags that differ from those of `present`; equal for many Services where only their targets changed, so
    /// that one call sets them all.
    pub(crate) fn beyond(&self, present: Option<&Self>) -> Tags {
        let Self { spec, targets } = self;
        let word = targets.as_deref().unwrap_or(CHANGING).to_owned();
        let mut tags = Tags::from([(TARGETS_HASH.to_owned(), word)]);
        if present.is_none_or(|present| present.spec != *spec) {
            tags.insert(SPEC_HASH.to_owned(), spec.clone());
        }
        tags
    }

    /// The synced hash after `more` tags were added to those of `present`.
    pub(crate) fn after(present: Option<&Self>, more: &Tags) -> Option<Self> {
        let targets = match more.get(TARGETS_HASH) {
            Some(word) => Some(word.clone()).filter(|word| word != CHANGING),
            None => present.and_then(|present| present.targets.clone()),
        };
        let spec = more.get(SPEC_HASH).cloned().or_else(|| present.map(|present| present.spec.clone()))?;
        Some(Self { spec, targets })
    }

    /// The synced hash of a load balancer's tags.
    pub(crate) fn of(tags: &Tags) -> Option<Self> {
        Self::after(None, tags)
    }

    /// The tags of a load balancer that is being made for this spec.
    pub(crate) fn unfinished(spec: &str) -> Tags {
        Tags::from([(SPEC_HASH.to_owned(), spec.to_owned())])
    }
}

/// Written on a load balancer before a listener of it gets further certificates or attributes.
pub(crate) fn with_extras() -> Tags {
    Tags::from([(EXTRAS.to_owned(), "compared".to_owned())])
}

/// Whether certificates and attributes of its listeners are to be read.
pub(crate) fn has_extras(tags: &Tags) -> bool {
    tags.contains_key(EXTRAS)
}

/// Written on a load balancer that another controller made; what its listeners have there is compared, too.
pub(crate) fn adopted() -> Tags {
    let mut tags = with_extras();
    tags.insert(ADOPTED.to_owned(), "true".to_owned());
    tags
}

/// Whether another controller made it.
pub(crate) fn is_adopted(tags: &Tags) -> bool {
    tags.contains_key(ADOPTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_targets_alone_sets_the_same_tags_on_everybody() {
        let mk = |spec: &str, targets: Option<&str>| SyncedHash {
            spec: spec.to_owned(),
            targets: targets.map(str::to_owned),
        };
        let (mine, theirs) = (mk("a", Some("1")), mk("b", Some("1")));
        for next in [None, Some("2")] {
            let tags = mk("a", next).beyond(Some(&mine));
            assert_eq!(tags, mk("b", next).beyond(Some(&theirs)));
            assert_eq!(SyncedHash::after(Some(&mine), &tags), Some(mk("a", next)));
        }
        let tags = mk("c", Some("1")).beyond(Some(&mine));
        assert_eq!((tags.len(), SyncedHash::of(&tags)), (2, Some(mk("c", Some("1")))));
        assert_eq!(
            SyncedHash::of(&SyncedHash::unfinished("a")),
            Some(mk("a", None)),
            "made, and not finished"
        );
    }
}
