//! Owners of load balancers: the cluster's UID and the Service's UID, never a name alone.
//!
//! Owns: the owner newtypes and their checks. Leaves to others: writing them as tags, labels or descriptions.
//! Invariant: two clusters with the same name, or a Service deleted and made again, are different owners (law 3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A UID or name that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} must be 1 to 253 characters of letters, digits, '-' and '.'")]
pub struct InvalidOwner {
    what: &'static str,
    value: String,
}

fn checked(what: &'static str, value: &str) -> Result<String, InvalidOwner> {
    let well_formed = !value.is_empty()
        && value.len() <= 253
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    if well_formed { Ok(value.to_owned()) } else { Err(InvalidOwner { what, value: value.to_owned() }) }
}

macro_rules! uid {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The UID as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidOwner;
            fn from_str(value: &str) -> Result<Self, InvalidOwner> {
                checked($what, value).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidOwner;
            fn try_from(value: String) -> Result<Self, InvalidOwner> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

uid!(
    /// The UID of the cluster: that of its `kube-system` Namespace. Tag `portico.dev/cluster-uid`.
    ClusterUid,
    "cluster UID"
);
uid!(
    /// `metadata.uid` of a Service. Tag `portico.dev/service-uid`.
    ServiceUid,
    "Service UID"
);

/// `namespace/name` of a Service, for people; it decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    namespace: String,
    name: String,
}

impl ServiceName {
    /// Checks both parts.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidOwner> {
        Ok(Self { namespace: checked("namespace", namespace)?, name: checked("Service name", name)? })
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidOwner;
    fn try_from(value: String) -> Result<Self, InvalidOwner> {
        let (namespace, name) = value
            .split_once('/')
            .ok_or_else(|| InvalidOwner { what: "namespace/name", value: value.clone() })?;
        Self::new(namespace, name)
    }
}

impl From<ServiceName> for String {
    fn from(value: ServiceName) -> Self {
        value.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}

/// The owner of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The cluster's UID.
    pub cluster: ClusterUid,
    /// The Service's UID.
    pub service: ServiceUid,
    /// The Service's name when this was written.
    pub name: ServiceName,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, service, name } = self;
        write!(f, "{name} ({service} of cluster {cluster})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_could_not_be_a_tag_is_refused_with_its_name() {
        let error = "".parse::<ServiceUid>().unwrap_err();
        assert!(error.to_string().starts_with("Service UID \"\""), "{error}");
        assert!("a/b".parse::<ClusterUid>().is_err());
        assert!(ServiceName::new("a b", "c").is_err());
        assert!(ServiceName::try_from("no-slash".to_owned()).is_err());
    }
}
