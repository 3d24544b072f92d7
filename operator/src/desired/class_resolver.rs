//! The rules of each class, from the cache's `LoadBalancerClassParameters`.
//!
//! Owns: [`ClassResolver`], which keeps them for as long as no object changes. Leaves to others: validating an object
//! (`classes`), the condition on it (`reconcile`).
//! Invariant: objects are read again only when one of them changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portico_provider::{ClusterUid, IpFamily, LoadBalancerProvider};

use super::classes::rules::ClassRules;
use super::classes::{Plain, Resolved, RulesByClass, by_name, resolve};
use super::spec;
use crate::cache::store::Cache;

/// The rules of this operator's classes.
pub(crate) struct ClassResolver<P> {
    provider: Arc<P>,
    cache: Arc<Cache>,
    classes: Vec<String>,
    cluster: ClusterUid,
    /// The rules, and the version of the cache that they are of.
    rules: Mutex<Option<(u64, RulesByClass)>>,
}

impl<P: LoadBalancerProvider> ClassResolver<P> {
    pub(crate) fn new(
        provider: Arc<P>,
        cache: Arc<Cache>,
        classes: Vec<String>,
        cluster: ClusterUid,
    ) -> Self {
        Self { provider, cache, classes, cluster, rules: Mutex::default() }
    }

    /// The rules for Services of one class.
    pub(crate) fn rules(&self, class: &str) -> Arc<ClassRules> {
        self.rules_by_class().get(class).map(Arc::clone).unwrap_or_default()
    }

    fn rules_by_class(&self) -> RulesByClass {
        let version = self.cache.parameters_version();
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, rules)) = &*known
            && *read == version
        {
            return Arc::clone(rules);
        }
        let own = |(class, Resolved { rules, reviews: _ }): (String, Resolved)| {
            let rules = rules.over(by_name(&class));
            (class, Arc::new(rules))
        };
        let rules = Arc::new(self.resolved().into_iter().map(own).collect());
        *known = Some((version, Arc::clone(&rules)));
        rules
    }

    /// Rules and reviews by class.
    pub(crate) fn resolved(&self) -> BTreeMap<String, Resolved> {
        let (objects, plain) = (self.cache.parameters(), self.plain());
        let of = |class: &str| match &plain {
            Some(plain) if !objects.is_empty() => resolve(class, &objects, &*self.provider, plain),
            _ => Resolved::default(),
        };
        self.classes.iter().map(|class| (class.clone(), of(class))).collect()
    }

    /// A Service with one TCP port and no endpoints.
    fn plain(&self) -> Option<Plain> {
        let family = self.provider.capabilities().ip_families.first().copied().unwrap_or(IpFamily::IPv4);
        let port = ServicePort { port: 80, node_port: Some(30_080), ..ServicePort::default() };
        let name = Some("class-parameters".to_owned());
        let metadata = ObjectMeta {
            namespace: Some("default".to_owned()),
            uid: name.clone(),
            name,
            ..ObjectMeta::default()
        };
        let spec = ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            ip_families: Some(vec![family.to_string()]),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        };
        let service = Service { metadata, spec: Some(spec), status: None };
        let owner = spec::owner(&service, &self.cluster).ok()?;
        Some(Plain { service, owner })
    }
}
