//! The rules by which a class reads a Service's annotations.
//!
//! Owns: [`ClassRules`]: defaults, forced values, what is allowed, and what each says to the Service's author. Leaves to others: where the
//! rules come from (`classes`), what an annotation means (`options`, the provider).
//! Invariants: a value that is not allowed never counts, and its problem names the object that says so. A forced value counts
//! whatever the Service says, in each of its spellings. If a forced value cannot be, nothing of the class is provided.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use portico_provider::Capabilities;

use crate::desired::options::{self, ADDRESSES, ANNOTATIONS, SOURCE_RANGES};
use crate::desired::problem::{Problem, ProblemKind};

/// Annotations, by their full names.
pub(crate) type Annotations = BTreeMap<String, String>;

/// The rules for the Services of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassRules {
    /// The object's name; empty: there is none.
    object: String,
    defaults: Annotations,
    forced: Annotations,
    /// Values by annotation; `None`: all of all.
    allowed: Option<BTreeMap<String, Vec<String>>>,
    /// Fields of the object that should be forced and cannot be.
    broken: Vec<String>,
}

/// A Service under the rules of its class.
pub(crate) struct Ruled<'a> {
    /// Its annotations, after the rules.
    pub(crate) annotations: Annotations,
    /// Its `spec`, without what forced values replace.
    pub(crate) spec: Cow<'a, ServiceSpec>,
}

impl ClassRules {
    /// Those of an object, before any option.
    pub(super) fn named(object: String, allowed: Option<BTreeMap<String, Vec<String>>>) -> Self {
        Self { object, allowed, ..Self::default() }
    }

    /// One option more.
    pub(super) fn take(&mut self, key: String, value: String, forced: bool) {
        let into = if forced { &mut self.forced } else { &mut self.defaults };
        into.insert(key, value);
    }

    /// A field of the object that should be forced and cannot be.
    pub(super) fn cannot_force(&mut self, field: &str) {
        self.broken.push(field.to_owned());
    }

    /// The same over other defaults.
    pub(crate) fn over(mut self, mut defaults: Annotations) -> Self {
        defaults.append(&mut self.defaults);
        Self { defaults, ..self }
    }

    /// Keys of `allowed` that allow nothing there is.
    pub(super) fn unknown_allowed(&self, capabilities: &Capabilities) -> Vec<Problem> {
        let keys = self.allowed.iter().flat_map(BTreeMap::keys);
        let unknown = keys.filter(|key| match key.strip_suffix('*') {
            Some(beginning) => !options::begins_known(beginning, capabilities),
            None => !options::is_known(key, capabilities),
        });
        unknown
            .map(|key| options::unknown_key(key, capabilities).at(&format!("spec.allowed {key}")))
            .collect()
    }

    /// Applies the rules to a Service: refused values become `problems`, overruled ones `warnings`.
    pub(crate) fn apply<'a>(
        &self,
        service: &'a Service,
        capabilities: &Capabilities,
        problems: &mut Vec<Problem>,
        warnings: &mut Vec<Problem>,
    ) -> Ruled<'a> {
        problems.extend(self.broken.iter().map(|field| {
            let message =
                "is to be forced on every Service of the class, and cannot be: see its condition Accepted";
            let field = format!("LoadBalancerClassParameters {} {field}", self.object);
            Problem::new(ProblemKind::ClassParameters, field, message)
        }));
        let mut annotations = self.defaults.clone();
        for (key, value) in service.metadata.annotations.iter().flatten() {
            // Empty is as good as absent, to Kubernetes and to other controllers.
            if value.trim().is_empty() {
                continue;
            }
            if options::is_known(key, capabilities) {
                let field = format!("annotation {key}");
                if let Some(forced) = self.overruled(key, capabilities) {
                    warnings.extend(self.overruling(&field, key, value, forced));
                    continue;
                }
                if let Some(problem) = self.refused(&field, key, value, capabilities) {
                    problems.push(problem);
                    continue;
                }
            }
            annotations.insert(key.clone(), value.clone());
        }
        annotations.extend(self.forced.clone());
        Ruled { annotations, spec: self.rule_spec(service, capabilities, problems, warnings) }
    }

    /// `spec` without the two fields that say what annotations say, where they may not.
    fn rule_spec<'a>(
        &self,
        service: &'a Service,
        capabilities: &Capabilities,
        problems: &mut Vec<Problem>,
        warnings: &mut Vec<Problem>,
    ) -> Cow<'a, ServiceSpec> {
        let mut spec =
            service.spec.as_ref().map_or_else(|| Cow::Owned(ServiceSpec::default()), Cow::Borrowed);
        if let Some(address) = spec.load_balancer_ip.clone().filter(|address| !address.is_empty()) {
            let field = "spec.loadBalancerIP";
            let refused = self.refused(field, ADDRESSES.key, &address, capabilities);
            if let Some(forced) = self.overruled(ADDRESSES.key, capabilities) {
                warnings.extend(self.overruling(field, ADDRESSES.key, &address, forced));
                spec.to_mut().load_balancer_ip = None;
            } else if let Some(problem) = refused {
                problems.push(problem);
                spec.to_mut().load_balancer_ip = None;
            }
        }
        let ranges = spec.load_balancer_source_ranges.clone().unwrap_or_default().join(",");
        if !ranges.is_empty() {
            let field = "spec.loadBalancerSourceRanges";
            if let Some(forced) = self.overruled(SOURCE_RANGES.key, capabilities) {
                warnings.extend(self.overruling(field, SOURCE_RANGES.key, &ranges, forced));
                spec.to_mut().load_balancer_source_ranges = None;
            } else if self.names(SOURCE_RANGES.key) {
                problems.extend(self.refused(field, SOURCE_RANGES.key, &ranges, capabilities));
            }
        }
        spec
    }

    /// The forced option that stands in the place of this one.
    fn overruled(&self, key: &str, capabilities: &Capabilities) -> Option<(&String, &String)> {
        let says = meaning(key, capabilities);
        self.forced.iter().find(|(forced, _)| meaning(forced, capabilities) == says)
    }

    fn overruling(&self, field: &str, key: &str, value: &str, forced: (&String, &String)) -> Option<Problem> {
        let message = format!(
            "is {value:?}, which does not count: LoadBalancerClassParameters {} forces {} {:?}; remove it",
            self.object, forced.0, forced.1
        );
        let differs = key != forced.0 || value.trim() != forced.1;
        differs.then(|| Problem::new(ProblemKind::ForcedByClass, field, message))
    }

    fn refused(&self, field: &str, key: &str, value: &str, capabilities: &Capabilities) -> Option<Problem> {
        let allowed = self.allowed.as_ref()?;
        let values = self.values(allowed, key, capabilities);
        let message = match values {
            Some(values) if values.iter().any(|it| it == "*") => return None,
            Some(values) if !values.is_empty() => {
                let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                let wrong: Vec<&str> =
                    items.filter(|item| !values.iter().any(|it| matches(it, item))).collect();
                if wrong.is_empty() {
                    return None;
                }
                format!(
                    "{:?} is not allowed by LoadBalancerClassParameters {}; allowed: {}",
                    wrong.join(","),
                    self.object,
                    values.join(", ")
                )
            }
            _ => format!(
                "is not allowed by LoadBalancerClassParameters {}; remove it, or have an administrator add it to spec.allowed there",
                self.object
            ),
        };
        Some(Problem::new(ProblemKind::NotAllowed, field, message))
    }

    /// The values that a key may have: by its name, or else by the longest beginning.
    fn values<'a>(
        &self,
        allowed: &'a BTreeMap<String, Vec<String>>,
        key: &str,
        capabilities: &Capabilities,
    ) -> Option<&'a Vec<String>> {
        // Another spelling of what is listed by name is not let in by a pattern that happens to fit it.
        let says = meaning(key, capabilities);
        if allowed.contains_key(key) || (says != key && self.names(says)) {
            return allowed.get(key);
        }
        let patterns = allowed.iter().filter(|(pattern, _)| pattern.ends_with('*') && matches(pattern, key));
        patterns.max_by_key(|(pattern, _)| pattern.len()).map(|(_, values)| values)
    }

    fn names(&self, key: &str) -> bool {
        self.allowed.as_ref().is_some_and(|allowed| allowed.contains_key(key))
    }

    /// Says of each problem that comes of the class and not of the Service, which object it comes of.
    pub(crate) fn blame(&self, service: &Service, problems: &mut [Problem]) {
        let own = |key: &String| {
            let annotations = service.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(key)).is_some_and(|value| !value.trim().is_empty())
        };
        let defaults = self.defaults.keys().filter(|key| !own(key) && !self.forced.contains_key(*key));
        let of_class: Vec<&String> = self.forced.keys().chain(defaults).collect();
        for problem in problems {
            let mut keys = of_class.iter().filter(|key| {
                let shared = ANNOTATIONS.iter().find(|spec| spec.key == **key).and_then(|spec| spec.field);
                problem.is_about(key, shared)
            });
            if let (Some(key), false) = (keys.next(), self.object.is_empty()) {
                problem.add(&format!("{key} is set by LoadBalancerClassParameters {}", self.object));
            }
        }
    }
}

/// `*` at the end stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning),
        None => pattern == text,
    }
}

/// Annotations that say the same thing have the same meaning: a provider's own whose default is a shared one stands for that.
fn meaning<'a>(key: &'a str, capabilities: &Capabilities) -> &'a str {
    let stands_for = capabilities.option(key).map(|spec| spec.default);
    ANNOTATIONS.iter().map(|spec| spec.key).find(|shared| Some(*shared) == stands_for).unwrap_or(key)
}
