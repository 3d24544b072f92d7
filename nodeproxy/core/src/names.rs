//! Names of objects: interned texts, the name of a Service, and hints.
//!
//! Owns their types and their JSON form. serde's own support of `Arc<str>` is a feature that the workspace does not enable, so
//! fields name one of the `with` modules. Invariant: a written value reads back equal.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A name that many objects repeat: of a node, a zone, a namespace or a port. The model interns the repeated ones.
pub type Name = Arc<str>;

/// Namespace and name of a Service; in JSON one text, `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// At most 63 bytes.
    pub namespace: Name,
    /// At most 63 bytes.
    pub name: Name,
}

/// A text that is no `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" does not name a Service; write it as namespace/name")]
pub struct BadServiceName(String);

/// Zones or nodes that should use an endpoint. Most endpoints have none, and there are many endpoints: none takes one word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints(Option<Box<Box<[Name]>>>);

impl FromIterator<Name> for Hints {
    fn from_iter<T: IntoIterator<Item = Name>>(names: T) -> Self {
        let names: Box<[Name]> = names.into_iter().collect();
        Self((!names.is_empty()).then(|| Box::new(names)))
    }
}

impl Deref for Hints {
    type Target = [Name];

    fn deref(&self) -> &[Name] {
        self.0.as_deref().map_or(&[], |names| names)
    }
}

impl DerefMut for Hints {
    fn deref_mut(&mut self) -> &mut [Name] {
        self.0.as_deref_mut().map_or(&mut [], |names| names)
    }
}

impl FromStr for ServiceName {
    type Err = BadServiceName;

    fn from_str(text: &str) -> Result<Self, BadServiceName> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(name), None) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(BadServiceName(text.to_owned())),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// For a field that is a name.
pub(crate) mod one {
    use super::{Deserialize, Deserializer, Name, Serializer};

    pub(crate) fn serialize<S: Serializer>(name: &Name, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
        String::deserialize(from).map(Name::from)
    }
}

/// For a field that is a name or absent.
pub(crate) mod optional {
    use super::{Deserialize, Deserializer, Name, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(crate) fn serialize<S: Serializer>(name: &Option<Name>, to: S) -> Result<S::Ok, S::Error> {
        name.as_deref().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Name>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Name::from))
    }
}

/// For a field that is a list of names.
pub(crate) mod many {
    use super::{Deserialize, Deserializer, Hints, Name, Serializer};

    pub(crate) fn serialize<S: Serializer>(names: &[Name], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(names.iter().map(AsRef::<str>::as_ref))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hints, D::Error> {
        Ok(Vec::<String>::deserialize(from)?.into_iter().map(Name::from).collect())
    }
}
