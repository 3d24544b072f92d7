//! `LoadBalancerClassParameters`: the options of a load-balancer class: defaults that a Service's annotations override, what they may
//! say, and what overrides them.
//!
//! ```text
//! object ─▶ spec ─▶ annotations it stands for ─▶ checked as a Service's would be ─▶ ClassRules ─▶ desired
//!                                                  └─▶ condition Accepted on the object
//! ```
//! Owns: the object, what is wrong with one. Leaves to others: holding Services against it (`rules`), the options' meaning (`options`,
//! the provider), writing the condition (`reconcile/class_parameters`).
//! Invariants: problems of an object are reported in its condition. A wrong default is left out and stops no Service; a wrong forced value
//! lets no Service of the class through, and each of them names the object. Of several objects for one class the oldest counts; an object
//! for a class that this operator does not serve is not mentioned.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use portico_provider::{Capabilities, Desired, LoadBalancerProvider, Owner};

use crate::cache::class_parameters::{
    ClassOptions, LoadBalancerClassParameters, LoadBalancerClassParametersSpec, ParametersCondition,
    ProxyProtocolParameter, SchemeParameter, TargetKindParameter,
};
use crate::desired::admission::Admission;
use crate::desired::options;
use crate::desired::problem::{Problem, ProblemKind, sentence};
use crate::desired::spec::{self, Backing, GroupScope};

pub(crate) mod rules;

use rules::{Annotations, ClassRules};

/// The rules of each class.
pub(crate) type RulesByClass = Arc<BTreeMap<String, Arc<ClassRules>>>;

/// GKE's class for internal load balancers.
const GKE_INTERNAL_CLASS: &str = "networking.gke.io/l4-regional-internal";

/// Defaults that the name of a class implies.
pub(crate) fn by_name(class: &str) -> Annotations {
    let internal = (options::SCHEME.key.to_owned(), "internal".to_owned());
    if class == GKE_INTERNAL_CLASS { Annotations::from([internal]) } else { Annotations::new() }
}

/// The review of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Review {
    pub(crate) name: String,
    /// Its fields that do not count; empty: all count.
    pub(crate) problems: Vec<Problem>,
}

impl Review {
    /// The condition's status, reason and message.
    pub(crate) fn claim(&self) -> (&'static str, &'static str, String) {
        match self.problems.first() {
            None => ("True", "Accepted", "all of it counts for the class".to_owned()),
            Some(first) => ("False", first.reason(), sentence(&self.problems)),
        }
    }
}

/// The rules and reviews of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) rules: ClassRules,
    pub(crate) reviews: Vec<Review>,
}

/// The plainest Service there is, which options are tried on: none can be an option of the class that even this one cannot have.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) service: Service,
    pub(crate) owner: Owner,
}

/// Reads all objects of a class.
pub(crate) fn resolve<P: LoadBalancerProvider>(
    class: &str,
    objects: &[LoadBalancerClassParameters],
    provider: &P,
    plain: &Plain,
) -> Resolved {
    let mut ours: Vec<&LoadBalancerClassParameters> =
        objects.iter().filter(|object| object.spec.load_balancer_class == class).collect();
    ours.sort_by_key(|object| (object.creation_timestamp().map(|time| time.0), object.name_any()));
    let mut resolved = Resolved::default();
    for object in ours {
        let name = object.name_any();
        if let Some(first) = resolved.reviews.first() {
            let message = format!(
                "{:?} has these parameters for {class} already, and is older; keep one of them",
                first.name
            );
            let problem = Problem::new(ProblemKind::Conflict, "spec.loadBalancerClass", message);
            resolved.reviews.push(Review { name, problems: vec![problem] });
            continue;
        }
        let (rules, problems) = check(object, provider, plain);
        resolved.rules = rules;
        resolved.reviews.push(Review { name, problems });
    }
    resolved
}

/// An option of an object.
#[derive(Clone, Debug)]
struct ClassOption {
    /// Its path in the object.
    field: String,
    key: String,
    value: String,
    forced: bool,
}

/// The rules of an object, and its problems.
fn check<P: LoadBalancerProvider>(
    object: &LoadBalancerClassParameters,
    provider: &P,
    plain: &Plain,
) -> (ClassRules, Vec<Problem>) {
    let LoadBalancerClassParametersSpec { load_balancer_class: _, defaults, forced, allowed } = &object.spec;
    let capabilities = provider.capabilities();
    let mut entries: Vec<ClassOption> =
        forced.iter().flat_map(|forced| annotations(forced, "spec.forced", true)).collect();
    entries.extend(annotations(defaults, "spec", false));
    let mut rules = ClassRules::named(object.name_any(), allowed.clone());
    let mut problems = Vec::new();
    let tried = Trial { provider, plain, capabilities: &capabilities };
    for (entry, wrong) in tried.sort(entries, &mut rules) {
        problems.extend(wrong.into_iter().map(|problem| problem.at(&entry.field)));
        if entry.forced {
            rules.cannot_force(&entry.field);
        }
    }
    problems.extend(rules.unknown_allowed(&capabilities));
    (rules, problems)
}

/// Options that are tried on a plain Service.
struct Trial<'a, P> {
    provider: &'a P,
    plain: &'a Plain,
    capabilities: &'a Capabilities,
}

impl<P: LoadBalancerProvider> Trial<'_, P> {
    /// Takes into `rules` all that can be together, whatever their order; answers with the others, each with what is wrong.
    fn sort(
        &self,
        mut entries: Vec<ClassOption>,
        rules: &mut ClassRules,
    ) -> Vec<(ClassOption, Vec<Problem>)> {
        let without = self.problems(&Annotations::new());
        let mut taken = Annotations::new();
        loop {
            let mut refused: Vec<(ClassOption, Vec<Problem>)> = Vec::new();
            let before = entries.len();
            for entry in entries {
                let mut with = taken.clone();
                // What is forced was there first, and wins.
                with.entry(entry.key.clone()).or_insert_with(|| entry.value.clone());
                let mut wrong = self.unread(&entry);
                if wrong.is_empty() {
                    wrong = self.problems(&with).into_iter().filter(|it| !without.contains(it)).collect();
                }
                if wrong.is_empty() {
                    taken = with;
                    rules.take(entry.key, entry.value, entry.forced);
                } else {
                    refused.push((entry, wrong));
                }
            }
            if refused.is_empty() || refused.len() == before {
                return refused;
            }
            // One that was taken may be what another needed.
            entries = refused.into_iter().map(|(entry, _)| entry).collect();
        }
    }

    /// A key that nobody reads.
    fn unread(&self, ClassOption { key, .. }: &ClassOption) -> Vec<Problem> {
        let known = options::is_known(key, self.capabilities);
        (!known).then(|| options::unknown_key(key, self.capabilities)).into_iter().collect()
    }

    /// Problems of the plain Service with these annotations.
    fn problems(&self, annotations: &Annotations) -> Vec<Problem> {
        let Self { provider, plain: Plain { service, owner }, capabilities } = self;
        let mut service = service.clone();
        service.metadata.annotations = Some(annotations.clone());
        let backing = Backing { nodes: &[], slices: &[], admission: Admission::Any };
        let rules = ClassRules::default();
        let asked = spec::parse(&service, owner.clone(), capabilities, &rules, GroupScope::Cluster, backing);
        match asked.load_balancer {
            Err(problems) => problems,
            Ok(wanted) => {
                let plan = provider.plan(Desired::Present(&wanted), None);
                plan.blocked().iter().map(Problem::of).collect()
            }
        }
    }
}

/// The annotations that options stand for.
fn annotations(options: &ClassOptions, path: &str, forced: bool) -> Vec<ClassOption> {
    let ClassOptions { scheme, target_kind, proxy_protocol, allow_replacement, source_ranges, options } =
        options;
    let typed = [
        ("scheme", options::SCHEME, scheme.map(SchemeParameter::word)),
        ("targetKind", options::TARGET_KIND, target_kind.map(TargetKindParameter::word)),
        ("proxyProtocol", options::PROXY_PROTOCOL, proxy_protocol.map(ProxyProtocolParameter::word)),
        ("allowReplacement", options::ALLOW_REPLACEMENT, allow_replacement.map(|it| it.to_string())),
        (
            "sourceRanges",
            options::SOURCE_RANGES,
            (!source_ranges.is_empty()).then(|| source_ranges.join(",")),
        ),
    ];
    let typed = typed.into_iter().filter_map(|(name, spec, value)| {
        Some(ClassOption { field: format!("{path}.{name}"), key: spec.key.to_owned(), value: value?, forced })
    });
    let named = options.iter().map(|(key, value)| {
        let field = format!("{path}.options {key}");
        ClassOption { field, key: key.clone(), value: value.clone(), forced }
    });
    typed.chain(named).collect()
}

/// The condition an object should have, with its time from `before` where its status stays.
pub(crate) fn condition(
    object: &LoadBalancerClassParameters,
    review: &Review,
    now: Timestamp,
) -> ParametersCondition {
    let (status, reason, message) = review.claim();
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
