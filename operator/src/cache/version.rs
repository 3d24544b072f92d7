//! `metadata.resourceVersion`, and which of two is newer.
//!
//! Owns: [`ResourceVersion`]. Leaves to others: what follows (`table`).
//! Invariant: versions of one resource compare as the integers they are, of any length, as every conforming API server
//! since 1.35 promises: <https://www.kubernetes.dev/resources/keps/5504/>. A version that is no such integer compares
//! with none.

use std::cmp::Ordering;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A version that compares: decimal digits without leading zeros, and not zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceVersion(Box<str>);

impl ResourceVersion {
    /// That of an object; `None`: it has none, or one that does not compare.
    pub(crate) fn of(metadata: &ObjectMeta) -> Option<Self> {
        let text = metadata.resource_version.as_deref()?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        (digits && !text.is_empty() && !text.starts_with('0')).then(|| Self(text.into()))
    }
}

impl Ord for ResourceVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for ResourceVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<ResourceVersion> {
        ResourceVersion::of(&ObjectMeta { resource_version: Some(text.to_owned()), ..ObjectMeta::default() })
    }

    #[test]
    fn versions_compare_as_integers_of_any_length_and_what_is_none_does_not() {
        assert!(version("9") < version("10"));
        assert!(version("340282366920938463463374607431768211456") > version("18446744073709551616"));
        assert_eq!(version("42"), version("42"));
        for odd in ["", "0", "007", "-1", "1a", "٣"] {
            assert_eq!(version(odd), None, "{odd:?}");
        }
    }
}
