//! JSON shapes of Services and slices, with the used fields only. All others are skipped while they are parsed,
//! above all `managedFields`, which are half of an object.
//!
//! Owns the shape of the JSON. Leaves the meaning of each text to the parent. Texts are borrowed from the
//! received buffer. Invariant: absent and `null` are the same.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;

/// A borrowed text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A list; `null` is an empty one.
type Many<T> = Option<Vec<T>>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata<'a> {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) resource_version: Option<String>,
    #[serde(borrow)]
    pub(super) creation_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) labels: Option<BTreeMap<Text<'a>, Text<'a>>>,
    #[serde(borrow)]
    pub(super) annotations: Option<BTreeMap<Text<'a>, Text<'a>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Service<'a> {
    #[serde(borrow)]
    pub(super) metadata: Metadata<'a>,
    #[serde(borrow, default)]
    pub(super) spec: ServiceSpec<'a>,
    #[serde(borrow, default)]
    pub(super) status: ServiceStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow, rename = "clusterIP")]
    pub(super) cluster_ip: Option<Text<'a>>,
    #[serde(borrow, rename = "clusterIPs")]
    pub(super) cluster_ips: Many<Text<'a>>,
    #[serde(borrow, rename = "externalIPs")]
    pub(super) external_ips: Many<Text<'a>>,
    #[serde(borrow)]
    pub(super) ports: Many<Port<'a>>,
    #[serde(borrow)]
    pub(super) internal_traffic_policy: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) external_traffic_policy: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) session_affinity: Option<Text<'a>>,
    pub(super) session_affinity_config: Option<AffinityConfig>,
    #[serde(borrow)]
    pub(super) load_balancer_source_ranges: Many<Text<'a>>,
    pub(super) health_check_node_port: Option<i32>,
}

/// A port of a Service or of a slice.
#[derive(Debug, Deserialize)]
pub(super) struct Port<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) protocol: Option<Text<'a>>,
    #[serde(rename = "port")]
    pub(super) number: Option<i32>,
    #[serde(rename = "nodePort")]
    pub(super) on_node: Option<i32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub(super) client_ip: Option<ClientIp>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClientIp {
    pub(super) timeout_seconds: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceStatus<'a> {
    #[serde(borrow, default)]
    pub(super) load_balancer: Option<LoadBalancer<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct LoadBalancer<'a> {
    #[serde(borrow)]
    pub(super) ingress: Many<Ingress<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ingress<'a> {
    #[serde(borrow)]
    pub(super) ip: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) ip_mode: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice<'a> {
    #[serde(borrow)]
    pub(super) metadata: Metadata<'a>,
    #[serde(borrow)]
    pub(super) address_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) ports: Many<Port<'a>>,
    #[serde(borrow)]
    pub(super) endpoints: Many<Endpoint<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint<'a> {
    #[serde(borrow)]
    pub(super) addresses: Many<Text<'a>>,
    pub(super) conditions: Option<Conditions>,
    #[serde(borrow)]
    pub(super) node_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) hints: Option<Hints<'a>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hints<'a> {
    #[serde(borrow)]
    pub(super) for_zones: Many<Hint<'a>>,
    #[serde(borrow)]
    pub(super) for_nodes: Many<Hint<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Hint<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Metadata<'_> {
    pub(super) fn label(&self, key: &'static str) -> Option<&str> {
        self.labels.as_ref()?.get(&Text(Cow::Borrowed(key))).map(AsRef::as_ref)
    }

    pub(super) fn annotation(&self, key: &'static str) -> Option<&str> {
        self.annotations.as_ref()?.get(&Text(Cow::Borrowed(key))).map(AsRef::as_ref)
    }
}
