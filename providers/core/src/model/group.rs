//! The group of Services that share one load balancer.
//!
//! Owns: [`GroupName`]. Leaves to others: who may name which (the operator), what is shared (a provider).
//! Invariant: a group has a namespace, so that two teams that choose the same word share nothing by accident; its text
//! fits into a tag.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::owner::{InvalidOwner, ServiceName};

/// The longest name within a namespace: that of a label.
const LONGEST: usize = 63;

/// `namespace/name` of a group; prints and reads back as that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(ServiceName);

impl GroupName {
    /// Both parts: letters, digits, `-` and `.`, at most 63 each. `None`: they are not.
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let fits = namespace.len() <= LONGEST && name.len() <= LONGEST;
        ServiceName::new(namespace, name).ok().filter(|_| fits).map(Self)
    }

    /// The namespace it is of.
    pub fn namespace(&self) -> &str {
        self.0.namespace()
    }

    /// Its name there.
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

impl TryFrom<String> for GroupName {
    type Error = InvalidOwner;
    fn try_from(value: String) -> Result<Self, InvalidOwner> {
        ServiceName::try_from(value).map(Self)
    }
}

impl From<GroupName> for String {
    fn from(value: GroupName) -> Self {
        value.to_string()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_back_what_it_prints_and_fits_into_a_tag() {
        let group = GroupName::new("shop", "edge").unwrap();
        assert_eq!(GroupName::try_from(group.to_string()).unwrap(), group);
        for (namespace, name) in
            [("", "a"), ("shop", ""), ("shop", "a/b"), ("shop", "a b"), ("shop", &"a".repeat(64))]
        {
            assert!(GroupName::new(namespace, name).is_none(), "{namespace}/{name}");
        }
    }
}
