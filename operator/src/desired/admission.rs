//! The endpoints that may be pod targets.
//!
//! Owns: [`Admission`]. Leaves to others: choosing targets (`targets`), addresses of pods (`pods`).
//! Invariant: an EndpointSlice proves nothing, `targetRef` included: its author may write any address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cache::service::ServiceKey;
use crate::cache::store::Cache;

/// Which addresses of EndpointSlices may be pod targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EndpointScope {
    /// Those that a pod of the Service's namespace has.
    #[default]
    Pods,
    /// All: every namespace may send its load balancers to whatever the provider reaches.
    Any,
}

/// The rule for the endpoints of one Service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admission<'a> {
    /// All of them.
    Any,
    /// Those that are pods of this Service's namespace.
    Pods(&'a Cache, &'a ServiceKey),
}

impl Admission<'_> {
    /// Those of `addresses` that are not to be targets.
    pub(crate) fn refused(self, addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
        match self {
            Self::Any => BTreeSet::new(),
            Self::Pods(cache, service) => {
                let pods = cache.pods(&service.namespace);
                addresses.filter(|address| !pods.contains(address)).collect()
            }
        }
    }
}
