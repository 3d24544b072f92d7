//! An API object that is decoded while it is received.
//!
//! Owns [`Decoded`], which a watch handles like the object itself. Invariants: nothing of an object outlives its
//! decoding but the decoded value. An unreadable field costs itself. The API server's objects must have the
//! right shape; their texts need not be valid.

use std::{borrow::Cow, fmt::Debug};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::NamespaceResourceScope};
use serde::{Deserialize, Deserializer};

use super::BadField;

/// A kind of API object that can be decoded.
pub trait Decode: Clone + Debug + Send + Sync + Sized + 'static {
    /// The kind's full type, for its name and its path in the API.
    type Kind: Resource<DynamicType = ()>;

    /// Decodes one object.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Decoded<Self>, D::Error>;
}

/// One decoded API object.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// Name, namespace and version.
    pub metadata: ObjectMeta,
    /// The decoded value.
    pub value: T,
    /// The fields that could not be read, in the object's order.
    pub bad: Vec<BadField>,
}

impl<'de, T: Decode> Deserialize<'de> for Decoded<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from)
    }
}

impl<T: Decode> Resource for Decoded<T> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::Kind::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::Kind::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::Kind::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::Kind::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
