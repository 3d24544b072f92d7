//! Addresses of pods: whether an endpoint is a pod of its Service's own namespace.
//!
//! Owns: [`PodState`], the slim form of a Pod that is watched, Leaves to others: watching (`watch`), choosing targets
//! (`targets`), which endpoints may be targets (`admission`).
//! Invariants: an EndpointSlice is its author's word, `targetRef` included, and never proves anything; a pod that has ended
//! has no address, since another pod may have it by now. A pod costs its name and its addresses, and nothing else.

use std::borrow::Cow;
use std::net::IpAddr;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// Pods that are listed and watched; one that has ended keeps `status.podIPs` until it is deleted.
pub(crate) const ALIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// A Pod as the API server sends it, without what is not read here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct PodState {
    metadata: ObjectMeta,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    phase: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

/// `namespace/name`, in which the pods of a namespace stand together.
pub(crate) type PodKey = Box<str>;

impl PodState {
    /// Its key and its addresses; `None`: it has no name, so it is no object of an API server.
    pub(crate) fn entry(self) -> Option<(PodKey, Box<[IpAddr]>)> {
        let Self { metadata, status: PodStatus { pod_ips, phase } } = self;
        let key = first_key(&metadata.namespace?) + &metadata.name?;
        let ended = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        let addresses = pod_ips.iter().filter(|_| !ended).filter_map(|PodIp { ip }| ip.parse().ok());
        Some((key.into(), addresses.collect()))
    }
}

/// The prefix of the keys of a namespace's pods.
pub(crate) fn first_key(namespace: &str) -> String {
    format!("{namespace}/")
}

impl kube::Resource for PodState {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
