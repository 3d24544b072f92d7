//! Resource names and ownership marks.
//!
//! Owns: what our resources are called, how they are found again by name, and whose a description says they are.
//! Leaves to others: what is in them. Invariants: a name is a function of the owner and the part (law 5: a lost reply
//! finds the same name), at most 63 characters of RFC 1035. A name alone never makes a thing ours (law 3): its
//! description must carry both UIDs.

use portico_provider::{ClusterUid, Owner};
use serde::{Deserialize, Serialize};

use crate::resource::Kind;

/// The limit of every Compute Engine name.
const NAME_LIMIT: usize = 63;
/// The longest part that a name ends with: `-1a2b3c-tcp-0f0f`, with its dash.
const PART_LIMIT: usize = 16;

/// Names of one Service's resources: `portico-<cluster>-<namespace>-<name>-<service>-<part>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    base: String,
    filter: String,
}

impl Names {
    /// Of this owner; the two digests make it unique, the words between are for people.
    pub(crate) fn of(owner: &Owner) -> Self {
        let Owner { cluster, service, name } = owner;
        let prefix = prefix(cluster);
        let digest = format!("{:010x}", fnv(&[cluster.as_str(), service.as_str()]) & 0xff_ffff_ffff);
        let room = NAME_LIMIT - PART_LIMIT - prefix.len() - digest.len() - 1;
        let words: String = format!("{}-{}", name.namespace(), name.name())
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(room)
            .collect();
        Self { base: format!("{prefix}{words}-{digest}"), filter: format!("{prefix}.*-{digest}-.*") }
    }

    /// The name of one part, such as `hc`.
    pub(crate) fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.base)
    }

    /// Whether a name is one of them.
    pub(crate) fn has(&self, name: &str) -> bool {
        name.strip_prefix(&self.base).is_some_and(|part| part.starts_with('-'))
    }

    /// A regular expression that all of them match, and (but for a collision of digests) nothing else.
    pub(crate) fn pattern(&self) -> &str {
        &self.filter
    }
}

/// A regular expression that all names of a cluster match.
pub(crate) fn cluster_pattern(cluster: &ClusterUid) -> String {
    format!("{}.*", prefix(cluster))
}

/// The end of a backend service's name, if what stands behind it are instance groups.
pub(crate) const OF_INSTANCES: &str = "-ig";

/// Whether a backend service of this name has instance groups.
pub(crate) fn is_of_instances(name: &str) -> bool {
    name.ends_with(OF_INSTANCES)
}

/// The name of the instance groups that a cluster's Services share; no Service's pattern matches it.
pub(crate) fn shared_group(cluster: &ClusterUid) -> String {
    format!("{}ig", prefix(cluster))
}

/// A regular expression that the names of all health checks of a cluster match, and among health checks nothing else.
pub(crate) fn checks_pattern(cluster: &ClusterUid) -> String {
    format!("{}.*-.*", prefix(cluster))
}

/// Whether a pattern is a whole cluster's.
pub(crate) fn is_of_cluster(pattern: &str) -> bool {
    pattern.matches(".*").count() == 1
}

fn prefix(cluster: &ClusterUid) -> String {
    format!("portico-{:08x}-", fnv(&[cluster.as_str()]) & 0xffff_ffff)
}

/// FNV-1a of 64 bits (RFC 9923) over the parts, with a separator that no UID contains; equal in every process.
pub(crate) fn fnv(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What our descriptions say, as JSON. The Service's name stands under the key that GKE uses.
#[derive(Serialize, Deserialize)]
struct Mark {
    #[serde(rename = "networking.gke.io/service-name")]
    name: String,
    #[serde(rename = "portico.dev/cluster-uid")]
    cluster: String,
    #[serde(rename = "portico.dev/service-uid")]
    service: String,
    #[serde(rename = "portico.dev/targets", default, skip_serializing_if = "Option::is_none")]
    synced_hash: Option<String>,
}

/// The description of everything that is this owner's.
pub(crate) fn description(owner: &Owner) -> String {
    let Owner { cluster, service, name } = owner;
    let value = serde_json::json!({
        "networking.gke.io/service-name": name.to_string(),
        "portico.dev/cluster-uid": cluster,
        "portico.dev/service-uid": service,
    });
    value.to_string()
}

/// The synced hash in a description: that of the nodes behind its backend service.
pub(crate) fn synced_hash_of(description: &str) -> Option<String> {
    serde_json::from_str::<Mark>(description).ok()?.synced_hash
}

/// A description with another seal; one that is not ours stays as it is.
pub(crate) fn with_synced_hash(description: &str, synced_hash: Option<&str>) -> String {
    let marked = serde_json::from_str::<Mark>(description).ok();
    let marked = marked.map(|mark| Mark { synced_hash: synced_hash.map(str::to_owned), ..mark });
    marked.and_then(|mark| serde_json::to_string(&mark).ok()).unwrap_or_else(|| description.to_owned())
}

/// The owner, by its description; `None`: not Portico's.
pub(crate) fn owner_of(description: &str) -> Option<Owner> {
    let Mark { name, cluster, service, synced_hash: _ } = serde_json::from_str(description).ok()?;
    Some(Owner {
        cluster: cluster.parse().ok()?,
        service: service.parse().ok()?,
        name: name.try_into().ok()?,
    })
}

/// Whether a name is one of a cluster's.
pub(crate) fn is_of(name: &str, cluster: &ClusterUid) -> bool {
    name.starts_with(&prefix(cluster))
}

/// Whether a description is empty or a damaged mark: somebody took it off, and nobody else has put one on.
pub(crate) fn is_lost(description: &str) -> bool {
    description.trim().is_empty() || (description.contains("portico.dev/") && owner_of(description).is_none())
}

/// Whether a thing of this kind and with this description is the owner's; instance groups are the whole cluster's.
pub(crate) fn is_marked_for(description: &str, owner: &Owner, kind: Kind) -> bool {
    let shared = kind == Kind::InstanceGroup;
    let ours = |it: Owner| it.cluster == owner.cluster && (shared || it.service == owner.service);
    owner_of(description).is_some_and(ours)
}

#[cfg(test)]
mod tests {
    use portico_provider::ServiceName;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_is_valid_and_every_mark_is_read_back(
            cluster in "[A-Za-z0-9-]{1,40}", service in "[A-Za-z0-9.-]{1,40}",
            namespace in "[a-z0-9-]{1,63}", name in "[a-z0-9.-]{1,63}",
        ) {
            let owner = Owner {
                cluster: cluster.parse().unwrap(),
                service: service.parse().unwrap(),
                name: ServiceName::new(&namespace, &name).unwrap(),
            };
            let longest = Names::of(&owner).part("1a2b3c-tcp-0f0f");
            prop_assert!(longest.len() <= 63, "{longest}");
            prop_assert!(longest.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            let marked = with_synced_hash(&description(&owner), Some("0f"));
            prop_assert_eq!(synced_hash_of(&marked), Some("0f".to_owned()));
            prop_assert_eq!(&with_synced_hash(&marked, None), &with_synced_hash(&description(&owner), None));
            prop_assert_eq!(owner_of(&marked), owner_of(&description(&owner)));
            prop_assert_eq!(owner_of(&marked), Some(owner));
        }
    }

    /// Earlier releases made these. With other ones an upgrade would make every load balancer again.
    #[test]
    fn names_and_descriptions_of_earlier_releases_still_hold() {
        let owner = Owner {
            cluster: "c0ffee00-0000-4000-8000-000000000001".parse().unwrap(),
            service: "c0ffee00-0000-4000-8000-000000000002".parse().unwrap(),
            name: ServiceName::new("shop", "web").unwrap(),
        };
        assert_eq!(Names::of(&owner).part("hc"), "portico-50853c19-shop-web-9a4e0dcc96-hc");
        assert_eq!(shared_group(&owner.cluster), "portico-50853c19-ig");
        let recorded = concat!(
            r#"{"networking.gke.io/service-name":"shop/web","#,
            r#""portico.dev/cluster-uid":"c0ffee00-0000-4000-8000-000000000001","#,
            r#""portico.dev/service-uid":"c0ffee00-0000-4000-8000-000000000002"}"#
        );
        assert_eq!(description(&owner), recorded);
        let with_hash = recorded.replace('}', r#","portico.dev/targets":"0f"}"#);
        assert_eq!(with_synced_hash(recorded, Some("0f")), with_hash);
    }

    #[test]
    fn the_pattern_of_a_cluster_is_told_from_that_of_a_service() {
        let cluster: ClusterUid = "c".parse().unwrap();
        assert!(is_of_cluster(&cluster_pattern(&cluster)));
        let name = ServiceName::new("a", "b").unwrap();
        let owner = Owner { cluster, service: "s".parse().unwrap(), name };
        assert!(!is_of_cluster(Names::of(&owner).pattern()));
    }

    #[test]
    fn a_description_that_is_not_ours_has_no_owner() {
        assert_eq!(owner_of(""), None);
        assert_eq!(owner_of(r#"{"networking.gke.io/service-name":"a/b"}"#), None);
        assert_eq!(with_synced_hash("by hand", Some("0f")), "by hand");
    }
}
