//! The meaning of a call's error for the author of the Service, and the remedy.
//!
//! Owns: the words after Google's own. Leaves to others: which errors there are (`cloud/error`).
//! Invariants: pure; what a user caused is the user's error, names the field or annotation, and is not tried again hot; what
//! has no words here keeps Google's.

use portico_provider::{Owner, ProviderError};

use crate::capabilities as keys;
use crate::cloud::{CloudError, CloudErrorKind};
use crate::names;
use crate::resource::{AddressRef, Id, Resource};
use crate::step::Call;

/// The error of a call, for the operator.
pub(crate) fn during(call: &Call, owner: &Owner, error: CloudError) -> ProviderError {
    let CloudError { kind, message } = &error;
    let about = About { call, owner, message };
    let known = match kind {
        CloudErrorKind::Taken | CloudErrorKind::Invalid => about.address().or_else(|| about.instance_group()),
        CloudErrorKind::NotFound => about.reference(),
        CloudErrorKind::InUse => about.user(),
        CloudErrorKind::Denied => Some((CloudErrorKind::Denied, PERMISSIONS.to_owned())),
        CloudErrorKind::Quota => Some((CloudErrorKind::Quota, QUOTA.to_owned())),
        CloudErrorKind::RateLimit
        | CloudErrorKind::NotReady
        | CloudErrorKind::Precondition
        | CloudErrorKind::Credentials
        | CloudErrorKind::Account
        | CloudErrorKind::Unavailable => None,
    };
    match known {
        Some((kind, remedy)) => CloudError::new(kind, format!("{}: {remedy}", message.trim_end_matches('.')))
            .during(call.operation()),
        None => error.during(call.operation()),
    }
}

const PERMISSIONS: &str = "docs/gce.md lists the permissions that the operator's service account needs";
const QUOTA: &str = "delete what is not needed, or ask Google for a higher quota";
const IN_USE: [&str; 4] = [
    "is already being used by another resource",
    "is in-use and would result in a conflict",
    "is already reserved",
    "IP_IN_USE_BY_ANOTHER_RESOURCE",
];

/// The subject of an error.
struct About<'a> {
    call: &'a Call,
    owner: &'a Owner,
    message: &'a str,
}

impl About<'_> {
    /// The address of a rule, or one that was to be reserved.
    fn address(&self) -> Option<(CloudErrorKind, String)> {
        let Call::Insert { resource: Resource::Address(_) | Resource::ForwardingRule(_), .. } = self.call
        else {
            return None;
        };
        let says = |words: &[&str]| words.iter().any(|word| self.message.contains(word));
        let named = match self.call {
            Call::Insert { resource: Resource::ForwardingRule(rule), .. } => match &rule.address {
                AddressRef::Named(name) => format!("address {name}"),
                AddressRef::Ip(ip) => ip.to_string(),
            },
            _ => "the address".to_owned(),
        };
        if says(&IN_USE) {
            let remedy = format!(
                "free {named}, or request another in annotation {} or spec.loadBalancerIP; an address that is reserved already \
                 is requested by its name, and one internal address for several forwarding rules needs purpose \
                 SHARED_LOADBALANCER_VIP",
                keys::ADDRESSES
            );
            return Some((CloudErrorKind::Taken, remedy));
        }
        says(&["resource.IPAddress", "resource.address", "resource.networkTier"]).then(|| {
            let remedy = format!(
                "reserve {named} in this project and region, of the load balancer's scheme and network tier, or request another \
                 in annotation {} or spec.loadBalancerIP",
                keys::ADDRESSES
            );
            (CloudErrorKind::Invalid, remedy)
        })
    }

    /// A node can be in one load-balanced instance group only, and another has it.
    fn instance_group(&self) -> Option<(CloudErrorKind, String)> {
        let says = self.message.contains("at most one load-balanced instance group");
        let remedy = "another controller's instance group has this cluster's nodes, such as k8s-ig--… of GKE or of a cloud \
                      controller manager: run the operator with --gce-backends neg, which needs none, or take the nodes out of it";
        says.then(|| (CloudErrorKind::Taken, remedy.to_owned()))
    }

    /// Something that the user or the operator's flags name.
    fn reference(&self) -> Option<(CloudErrorKind, String)> {
        let remedy = if self.message.contains("/subnetworks/") {
            format!("annotation {} (or --gce-subnetwork) must name a subnetwork of this region", keys::SUBNET)
        } else if self.message.contains("/addresses/") {
            format!("annotation {} must name a reserved address of this region", keys::ADDRESSES)
        } else if self.message.contains("/publicDelegatedPrefixes/") {
            format!("annotation {} must name a public delegated prefix", keys::COLLECTION_V6)
        } else if self.message.contains("/networks/") {
            "--gce-network must name a network of --gce-network-project (or else of --gce-project)".to_owned()
        } else {
            return None;
        };
        Some((CloudErrorKind::Invalid, remedy))
    }

    /// Somebody else's thing that refers to one that is to go.
    fn user(&self) -> Option<(CloudErrorKind, String)> {
        let Call::Delete(_) = self.call else { return None };
        let (_, user) = self.message.rsplit_once("used by '")?;
        let user = user.split('\'').next()?;
        let name = user.rsplit('/').next()?;
        if names::is_of(name, &self.owner.cluster) {
            // Ours goes first, or has gone already and Google has not noticed; one without its mark does not.
            return None;
        }
        let remedy =
            format!("{user} is not Portico's and stays: delete it, or have it refer to something else");
        Some((CloudErrorKind::Taken, remedy))
    }
}

/// A resource under one of our names without our mark.
pub(crate) fn unmarked(id: &Id, owner: &Owner, description: &str) -> String {
    let lost =
        if names::is_lost(description) { "has lost Portico's description" } else { "is not Portico's" };
    format!(
        "{id} exists and {lost}, which would say that it is {owner}'s: set its description to {} again, or delete it",
        names::description(owner)
    )
}

#[cfg(test)]
mod tests;
