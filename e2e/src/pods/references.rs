//! The `ConfigMap`s and Secrets that a pod refers to, fetched when a container starts or a volume is refreshed.
//!
//! Owns the reads; leaves what is made of the data to `environment.rs` and `volumes.rs`. Invariant: an absent object is `None`,
//! not an error: only the reference knows whether it is optional.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret};
use kube::{Api, Client};

/// Keys and contents.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Source of data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reference {
    /// By name, in the pod's namespace.
    ConfigMap(String),
    /// By name, in the pod's namespace.
    Secret(String),
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ConfigMap(name) => write!(f, "configmap {name:?}"),
            Self::Secret(name) => write!(f, "secret {name:?}"),
        }
    }
}

/// Data of the references that exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(pub(crate) BTreeMap<Reference, Option<Data>>);

impl Found {
    /// Fetches all of them once.
    pub(crate) async fn fetch(client: &Client, namespace: &str, wanted: Vec<Reference>) -> Result<Self> {
        let mut found = BTreeMap::new();
        for reference in wanted {
            if let Entry::Vacant(place) = found.entry(reference) {
                let data = fetch(client, namespace, place.key()).await;
                let data = data.with_context(|| format!("get {}", place.key()))?;
                place.insert(data);
            }
        }
        Ok(Self(found))
    }

    /// The data; none where it is absent and may be.
    pub(crate) fn data(&self, reference: &Reference, optional: Option<bool>) -> Result<Option<&Data>> {
        match self.0.get(reference) {
            Some(Some(data)) => Ok(Some(data)),
            _ if optional == Some(true) => Ok(None),
            _ => bail!("{reference} not found"),
        }
    }

    /// One key of it.
    pub(crate) fn key(
        &self,
        reference: &Reference,
        key: &str,
        optional: Option<bool>,
    ) -> Result<Option<&Vec<u8>>> {
        match self.data(reference, optional)?.and_then(|data| data.get(key)) {
            Some(value) => Ok(Some(value)),
            None if optional == Some(true) => Ok(None),
            None => bail!("couldn't find key {key} in {reference}"),
        }
    }
}

async fn fetch(client: &Client, namespace: &str, reference: &Reference) -> Result<Option<Data>> {
    match reference {
        Reference::ConfigMap(name) => {
            let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await?;
            Ok(found.map(|map| {
                let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
                text.chain(map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect()
            }))
        }
        Reference::Secret(name) => {
            let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await?;
            Ok(found
                .map(|secret| secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()))
        }
    }
}

/// References in a container's environment.
pub(crate) fn of_environment(container: &Container) -> Vec<Reference> {
    let mut wanted = Vec::new();
    for from in container.env_from.iter().flatten() {
        wanted.extend(from.config_map_ref.iter().map(|source| Reference::ConfigMap(source.name.clone())));
        wanted.extend(from.secret_ref.iter().map(|source| Reference::Secret(source.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        wanted.extend(source.config_map_key_ref.iter().map(|key| Reference::ConfigMap(key.name.clone())));
        wanted.extend(source.secret_key_ref.iter().map(|key| Reference::Secret(key.name.clone())));
    }
    wanted
}
