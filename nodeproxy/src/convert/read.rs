//! An API object that is read while it is received: the model's words, and nothing else of it.
//!
//! Owns [`Read`], which a watch treats as the object itself. Invariants: nothing of an object outlives its parsing but what
//! it says to us; a field that cannot be read costs itself. That the API server sends objects of the right shape is taken for
//! granted; what their texts say is not.

use std::{borrow::Cow, fmt::Debug};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::NamespaceResourceScope};
use serde::{Deserialize, Deserializer};

use super::BadField;

/// What a kind of API object says to us.
pub trait Told: Clone + Debug + Send + Sync + Sized + 'static {
    /// The kind's full type, for its name and its place in the API.
    type Kind: Resource<DynamicType = ()>;

    /// Reads one.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Read<Self>, D::Error>;
}

/// One API object, read.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// Name, namespace and version.
    pub metadata: ObjectMeta,
    /// What it says.
    pub told: T,
    /// What cannot be read.
    pub bad: Vec<BadField>,
}

impl<'de, T: Told> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from)
    }
}

impl<T: Told> Resource for Read<T> {
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
