//! `LoadBalancerClassParameters`, the custom resource with the options of a load-balancer class.
//!
//! Owns: the object's shape, which is the chart's CRD. Leaves to others: validating an object (`classes`).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options for the Services of one load-balancer class: defaults, which a Service's own annotations override key by key; `allowed`, what
/// these annotations may say; and `forced`, which overrides them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "portico.dev",
    version = "v1alpha1",
    kind = "LoadBalancerClassParameters",
    plural = "loadbalancerclassparameters",
    singular = "loadbalancerclassparameters",
    doc = "Options of a load-balancer class: defaults for its Services, what their annotations may say, and what overrides them.",
    shortname = "lbcp",
    category = "portico",
    status = "ParametersStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.loadBalancerClass"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].reason"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerClassParametersSpec {
    /// `spec.loadBalancerClass` of the Services these are for, such as `portico.dev/aws-nlb`; Services without a class
    /// get them, too, where Portico is the default.
    #[schemars(length(min = 3, max = 317), regex(pattern = "^[a-z0-9.-]+/[A-Za-z0-9_.-]+$"))]
    pub load_balancer_class: String,
    /// What Services have unless they say otherwise.
    #[serde(flatten)]
    pub defaults: ClassOptions,
    /// What Services have whatever they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<ClassOptions>,
    /// Which annotations a Service may have, by full name or by how a name begins and `*`, each with the values it may have: texts that
    /// are compared with each item between commas, `*` at the end stands for anything. Absent: all. Present: no other annotation that
    /// Portico reads; `spec.loadBalancerIP` counts as `portico.dev/addresses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<BTreeMap<String, Vec<String>>>,
}

/// Options of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassOptions {
    /// As annotation `portico.dev/scheme`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<SchemeParameter>,
    /// As annotation `portico.dev/target-kind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_kind: Option<TargetKindParameter>,
    /// As annotation `portico.dev/proxy-protocol`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolParameter>,
    /// As annotation `portico.dev/allow-replacement`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_replacement: Option<bool>,
    /// As annotation `service.beta.kubernetes.io/load-balancer-source-ranges`: CIDRs. `spec.loadBalancerSourceRanges`
    /// of a Service wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub source_ranges: Vec<String>,
    /// Annotations that the provider reads (docs/annotations.md), by their full names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Who can reach a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of the annotation, which its table explains")]
pub enum SchemeParameter {
    External,
    Internal,
}

/// What is behind a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of the annotation, which its table explains")]
pub enum TargetKindParameter {
    Node,
    Pod,
}

/// Whether targets get a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of the annotation, which its table explains")]
pub enum ProxyProtocolParameter {
    V2,
    Off,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParametersStatus {
    /// `Accepted`: whether all of it counts, and what does not.
    #[serde(default)]
    pub conditions: Vec<ParametersCondition>,
}

/// A condition, as `metav1.Condition` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParametersCondition {
    /// `Accepted`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True` or `False`.
    pub status: String,
    /// A CamelCase word.
    pub reason: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// RFC 3339, whole seconds.
    pub last_transition_time: String,
    /// Which version of `spec` this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl SchemeParameter {
    pub(crate) fn word(self) -> String {
        match self {
            Self::External => "external".to_owned(),
            Self::Internal => "internal".to_owned(),
        }
    }
}

impl TargetKindParameter {
    pub(crate) fn word(self) -> String {
        match self {
            Self::Node => "node".to_owned(),
            Self::Pod => "pod".to_owned(),
        }
    }
}

impl ProxyProtocolParameter {
    pub(crate) fn word(self) -> String {
        match self {
            Self::V2 => "v2".to_owned(),
            Self::Off => "off".to_owned(),
        }
    }
}
