//! Operation on a kernel that lacks some feature.
//!
//! Owns the features that Services can be forwarded without, and the effect of their absence, in words. Leaves
//! to the skeleton the rules without them, and to [`portico_netlink::probe`] the features of a kernel.
//!
//! Invariant: a packet that would be refused with a feature is not passed without it.

use std::collections::BTreeSet;

use portico_netlink::probe::Feature;
use portico_proxy_core::{input::Lack, table::Family};

use crate::dataplane::Degradation;

/// Support of a kernel for a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// Full, or without these features.
    Without(BTreeSet<Feature>),
    /// None, because these features are missing.
    None(Vec<Feature>),
}

/// Effect of a missing feature; `None`: nothing works.
fn without(feature: Feature) -> Option<&'static str> {
    match feature {
        Feature::Reject => Some("clients of Services without endpoints wait instead of being refused"),
        Feature::RouteTypes => Some(
            "the node itself reaches Services with externalTrafficPolicy: Local through their NodePorts and VIPs only where \
             they have endpoints on this node",
        ),
        Feature::DynamicMaps => {
            Some("session affinity is not kept: each connection may reach another endpoint")
        }
        Feature::ConcatenatedRanges => Some(
            "loadBalancerSourceRanges cannot be matched: VIPs of Services that have them are closed to everybody on this \
             node",
        ),
        Feature::Tables
        | Feature::ConcatenatedMaps
        | Feature::ConnectionTracking
        | Feature::DestinationNat
        | Feature::Masquerade
        | Feature::RandomNumbers => None,
    }
}

/// Effect on the model.
fn lack(feature: Feature) -> Option<Lack> {
    match feature {
        Feature::DynamicMaps => Some(Lack::SessionAffinity),
        Feature::ConcatenatedRanges => Some(Lack::SourceRanges),
        _ => None,
    }
}

/// Support of a kernel that lacks these features.
pub(super) fn support(missing: Vec<Feature>) -> Support {
    if missing.iter().any(|feature| without(*feature).is_none()) {
        return Support::None(missing);
    }
    Support::Without(missing.into_iter().collect())
}

/// The same for people and metrics.
pub(super) fn degradations(family: Family, lacks: &BTreeSet<Feature>) -> Vec<Degradation> {
    let degradation = |feature: &Feature| Degradation {
        family,
        feature: feature.name(),
        needs: feature.describe(),
        without: without(*feature).unwrap_or_default(),
        lack: lack(*feature),
    };
    lacks.iter().map(degradation).collect()
}

#[cfg(test)]
mod tests {
    use portico_netlink::nftables::{Expression, Family as KernelFamily};
    use proptest::{prelude::*, sample::subsequence};

    use super::*;
    use crate::dataplane::nftables::{Config, kernel_family, skeleton::Skeleton};

    /// The optional features that a skeleton needs: a kernel without them refuses it.
    fn needs(skeleton: &Skeleton) -> BTreeSet<Feature> {
        let rules = skeleton.chains.values().flat_map(|(_, rules)| rules);
        let words = rules.flat_map(|rule| &rule.expressions).filter_map(|expression| match expression {
            Expression::Reject { .. } | Expression::TcpReset => Some(Feature::Reject),
            Expression::SourceAddressType { .. } => Some(Feature::RouteTypes),
            Expression::DynamicSet(_) => Some(Feature::DynamicMaps),
            _ => None,
        });
        let ranges = skeleton.sets.values().filter(|set| !set.fields.is_empty());
        words.chain(ranges.map(|_| Feature::ConcatenatedRanges)).collect()
    }

    fn mk_skeleton(family: KernelFamily, lacks: &BTreeSet<Feature>) -> Skeleton {
        let lacks = [Family::V4, Family::V6].map(|family| (family, lacks.clone())).into();
        Skeleton::new(family, &Config { lacks, ..Config::default() })
    }

    #[test]
    fn a_kernel_that_lacks_what_nothing_works_without_serves_no_family() {
        for feature in Feature::ALL {
            let supported = matches!(support(vec![feature]), Support::Without(_));
            assert_eq!(supported, without(feature).is_some(), "{feature:?}");
        }
        assert_eq!(support(Vec::new()), Support::Without(BTreeSet::new()));
        let both = vec![Feature::Reject, Feature::Masquerade];
        assert_eq!(support(both.clone()), Support::None(both));
    }

    proptest! {
        #[test]
        fn whatever_a_kernel_lacks_it_is_not_sent(missing in subsequence(Feature::ALL.to_vec(), 0..=Feature::ALL.len())) {
            if let Support::Without(lacks) = support(missing) {
                for family in [Family::V4, Family::V6] {
                    let needed = needs(&mk_skeleton(kernel_family(family), &lacks));
                    prop_assert!(needed.is_disjoint(&lacks), "{:?} without {:?}", needed, lacks);
                    prop_assert_eq!(degradations(family, &lacks).len(), lacks.len());
                }
            }
        }
    }

    #[test]
    fn a_whole_kernel_is_sent_everything() {
        let needed = needs(&mk_skeleton(KernelFamily::Ip, &BTreeSet::new()));
        let expected = [Feature::Reject, Feature::RouteTypes, Feature::ConcatenatedRanges];
        assert_eq!(needed, expected.into(), "dynamic maps come with affinity chains");
    }
}
