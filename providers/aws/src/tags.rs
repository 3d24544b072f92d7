//! Tags: whose a thing is, and what was last finished.
//!
//! Owns: keys and their reading. Leaves to others: writing them. Invariant: ownership is the cluster's and the Service's UID
//! together; names in tags are for people.

use portico_provider::{ClusterUid, Owner, ServiceName, SpecHash};

use crate::cloud::resources::Tags;

const CLUSTER: &str = "portico.dev/cluster-uid";
pub(crate) const SERVICE_UID: &str = "portico.dev/service-uid";
const SERVICE: &str = "portico.dev/service";
const SPEC_HASH: &str = "portico.dev/spec-hash";
const EXTRAS: &str = "portico.dev/listener-extras";
const ADOPTED: &str = "portico.dev/adopted";
const HOSTNAME: &str = "portico.dev/hostname";

/// What every thing of this Service carries.
pub(crate) fn of(owner: &Owner) -> Tags {
    let mut tags = identity(owner);
    tags.insert(SERVICE.to_owned(), owner.name.to_string());
    tags
}

/// What finds this Service's things.
pub(crate) fn identity(owner: &Owner) -> Tags {
    let mut tags = cluster(&owner.cluster);
    tags.insert(SERVICE_UID.to_owned(), owner.service.to_string());
    tags
}

/// What finds this cluster's things.
pub(crate) fn cluster(cluster: &ClusterUid) -> Tags {
    Tags::from([(CLUSTER.to_owned(), cluster.to_string())])
}

/// Whether the tags are this owner's.
pub(crate) fn are_of(tags: &Tags, owner: &Owner) -> bool {
    identity(owner).iter().all(|(key, value)| tags.get(key) == Some(value))
}

/// Whose they are.
pub(crate) fn owner(tags: &Tags) -> Option<Owner> {
    Some(Owner {
        cluster: tags.get(CLUSTER)?.parse().ok()?,
        service: tags.get(SERVICE_UID)?.parse().ok()?,
        name: ServiceName::try_from(tags.get(SERVICE)?.clone()).ok()?,
    })
}

/// Written on a load balancer when everything around it is as a spec asks.
pub(crate) fn seal(hash: SpecHash, hostname: &str) -> Tags {
    Tags::from([(SPEC_HASH.to_owned(), hash.to_string()), (HOSTNAME.to_owned(), hostname.to_owned())])
}

/// Written on a load balancer before a listener of it gets further certificates or attributes.
pub(crate) fn with_extras() -> Tags {
    Tags::from([(EXTRAS.to_owned(), "compared".to_owned())])
}

/// Whether certificates and attributes of its listeners are to be read.
pub(crate) fn has_extras(tags: &Tags) -> bool {
    tags.contains_key(EXTRAS)
}

/// Written on a load balancer that another controller made.
pub(crate) fn adopted() -> Tags {
    Tags::from([(ADOPTED.to_owned(), "true".to_owned())])
}

/// Whether another controller made it.
pub(crate) fn is_adopted(tags: &Tags) -> bool {
    tags.contains_key(ADOPTED)
}

/// What was sealed: the spec's hash and the hostname.
pub(crate) fn sealed(tags: &Tags) -> Option<(String, String)> {
    Some((tags.get(SPEC_HASH)?.clone(), tags.get(HOSTNAME)?.clone()))
}
