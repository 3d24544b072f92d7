//! `LoadBalancerClassParameters`: the options of a load-balancer class, as defaults that a Service's annotations override.
//!
//! ```text
//! object ─▶ spec ─▶ annotations it stands for ─▶ checked as a Service's would be ─▶ Defaults ─▶ stages
//!                                                  └─▶ condition Accepted on the object
//! ```
//! Owns: the object, what is wrong with one, [`Defaults`]. Leaves to others: the options' meaning (`options`, the
//! provider), writing the condition (`cluster`).
//! Invariants: what is wrong with an object is told on the object and left out, and stops no Service; of several
//! objects for one class the oldest counts; an object for a class that this operator does not serve is not mentioned.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::{CustomResource, ResourceExt};
use portico_provider::{Capabilities, Desired, Field, LoadBalancer, LoadBalancerProvider, Options};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::options;
use crate::problem::{Problem, ProblemKind, sentence};

pub(crate) mod report;

/// Defaults for the Services of one load-balancer class. A Service's own annotations override them, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "portico.dev",
    version = "v1alpha1",
    kind = "LoadBalancerClassParameters",
    plural = "loadbalancerclassparameters",
    singular = "loadbalancerclassparameters",
    doc = "Options of a load-balancer class, as defaults that a Service's annotations override.",
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

/// Annotations that the Services of our class have unless they say otherwise.
pub(crate) type Defaults = BTreeMap<String, String>;

/// Those of each class.
pub(crate) type ClassDefaults = Arc<BTreeMap<String, Arc<Defaults>>>;

/// GKE's class for internal load balancers.
const GKE_INTERNAL_CLASS: &str = "networking.gke.io/l4-regional-internal";

/// What the name of a class says already.
pub(crate) fn by_name(class: &str) -> Defaults {
    let internal = (options::SCHEME.key.to_owned(), "internal".to_owned());
    if class == GKE_INTERNAL_CLASS { Defaults::from([internal]) } else { Defaults::new() }
}

/// What is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Its name.
    pub(crate) name: String,
    /// What does not count; empty: all does.
    pub(crate) problems: Vec<Problem>,
}

impl Verdict {
    /// The condition's status, reason and message.
    pub(crate) fn claim(&self) -> (&'static str, &'static str, String) {
        match self.problems.first() {
            None => ("True", "Accepted", "all of it is a default of the class".to_owned()),
            Some(first) => ("False", first.reason(), sentence(&self.problems)),
        }
    }
}

/// What all objects come to for one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) defaults: Defaults,
    pub(crate) verdicts: Vec<Verdict>,
}

/// Reads all objects of a class.
pub(crate) fn resolve<P: LoadBalancerProvider>(
    class: &str,
    objects: &[LoadBalancerClassParameters],
    provider: &P,
    plain: &LoadBalancer,
) -> Resolved {
    let mut ours: Vec<&LoadBalancerClassParameters> =
        objects.iter().filter(|object| object.spec.load_balancer_class == class).collect();
    ours.sort_by_key(|object| (object.creation_timestamp().map(|time| time.0), object.name_any()));
    let mut resolved = Resolved::default();
    for object in ours {
        let name = object.name_any();
        if let Some(first) = resolved.verdicts.first() {
            let message = format!(
                "{:?} has these parameters for {class} already, and is older; keep one of them",
                first.name
            );
            let problem = Problem::new(ProblemKind::Conflict, "spec.loadBalancerClass", message);
            resolved.verdicts.push(Verdict { name, problems: vec![problem] });
            continue;
        }
        let (defaults, problems) = check(&object.spec, provider, plain);
        resolved.defaults = defaults;
        resolved.verdicts.push(Verdict { name, problems });
    }
    resolved
}

/// The annotations that count, and what is wrong with the others.
fn check<P: LoadBalancerProvider>(
    spec: &LoadBalancerClassParametersSpec,
    provider: &P,
    plain: &LoadBalancer,
) -> (Defaults, Vec<Problem>) {
    let (capabilities, mut problems) = (provider.capabilities(), Vec::new());
    let mut defaults = Defaults::new();
    for (key, value) in annotations(spec) {
        let one = Defaults::from([(key.clone(), value.clone())]);
        let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
        options::read(&one, &capabilities, &mut wrong, &mut unknown);
        if !options::is_known(&key, &capabilities) {
            unknown = vec![options::unknown_key(&key, &capabilities)];
        }
        wrong.append(&mut unknown);
        if wrong.is_empty() {
            wrong.extend(refused(&key, one.clone(), &capabilities, provider, plain));
        }
        if wrong.is_empty() {
            defaults.extend(one);
        }
        problems.append(&mut wrong);
    }
    (defaults, problems)
}

/// What the provider says to a plain Service with this option: no default can be what even that cannot have.
fn refused<P: LoadBalancerProvider>(
    key: &str,
    one: Defaults,
    capabilities: &Capabilities,
    provider: &P,
    plain: &LoadBalancer,
) -> Option<Problem> {
    capabilities.option(key)?;
    let options: Options = one.into_iter().collect();
    let would = provider.plan(Desired::Present(&LoadBalancer { options, ..plain.clone() }), None);
    let blocked = would.blocked().iter().find(|it| it.field == Field::Options || it.message.contains(key))?;
    let message = format!("cannot be a default: {}", blocked.message);
    Some(Problem::new(ProblemKind::InvalidAnnotation, format!("spec.options {key}"), message))
}

fn annotations(spec: &LoadBalancerClassParametersSpec) -> Defaults {
    let LoadBalancerClassParametersSpec {
        load_balancer_class: _,
        scheme,
        target_kind,
        proxy_protocol,
        allow_replacement,
        source_ranges,
        options,
    } = spec;
    let mut all = options.clone();
    let mut put = |spec: options::AnnotationSpec, value: Option<String>| {
        all.extend(value.map(|value| (spec.key.to_owned(), value)));
    };
    put(
        options::SCHEME,
        scheme.map(|it| match it {
            SchemeParameter::External => "external".to_owned(),
            SchemeParameter::Internal => "internal".to_owned(),
        }),
    );
    put(
        options::TARGET_KIND,
        target_kind.map(|it| match it {
            TargetKindParameter::Node => "node".to_owned(),
            TargetKindParameter::Pod => "pod".to_owned(),
        }),
    );
    put(
        options::PROXY_PROTOCOL,
        proxy_protocol.map(|it| match it {
            ProxyProtocolParameter::V2 => "v2".to_owned(),
            ProxyProtocolParameter::Off => "off".to_owned(),
        }),
    );
    put(options::ALLOW_REPLACEMENT, allow_replacement.map(|it| it.to_string()));
    put(options::SOURCE_RANGES, (!source_ranges.is_empty()).then(|| source_ranges.join(",")));
    all
}

/// A Service's annotations over its class's defaults.
pub(crate) fn effective(service: &Service, defaults: &Defaults) -> BTreeMap<String, String> {
    let mut all = defaults.clone();
    all.extend(
        service.metadata.annotations.iter().flatten().map(|(key, value)| (key.clone(), value.clone())),
    );
    all
}

/// The condition an object should have, with its time from `before` where its status stays.
pub(crate) fn condition(
    object: &LoadBalancerClassParameters,
    verdict: &Verdict,
    now: Timestamp,
) -> ParametersCondition {
    let (status, reason, message) = verdict.claim();
    let before = object.status.iter().flat_map(|status| &status.conditions);
    let kept = before.into_iter().find(|old| old.type_ == "Accepted" && old.status == status);
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    ParametersCondition {
        type_: "Accepted".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: kept.map_or_else(|| now.to_string(), |old| old.last_transition_time.clone()),
        observed_generation: object.metadata.generation,
    }
}

#[cfg(test)]
mod tests;
