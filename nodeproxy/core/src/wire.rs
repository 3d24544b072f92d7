//! Names as JSON texts. serde's own support of `Arc<str>` is a feature that the workspace does not enable.
//!
//! Owns the `with` modules of fields and the text form of [`ServiceName`]. Invariant: a written value reads
//! back equal.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::input::{Hints, Name, ServiceName};

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
pub(crate) mod name {
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
pub(crate) mod names {
    use super::{Deserialize, Deserializer, Hints, Name, Serializer};

    pub(crate) fn serialize<S: Serializer>(names: &[Name], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(names.iter().map(AsRef::<str>::as_ref))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hints, D::Error> {
        Ok(Vec::<String>::deserialize(from)?.into_iter().map(Name::from).collect())
    }
}
