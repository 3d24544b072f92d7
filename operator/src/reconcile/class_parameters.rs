//! Class parameters at work: which rules count now, and telling each object what became of it.
//!
//! Owns: keeping the answer up to date. Leaves to others: what is right and wrong (`classes`), watching (`watch`).
//! Invariant: objects are read anew only when one of them changed; a condition is written only when it says something new.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use portico_provider::{IpFamily, LoadBalancerProvider};
use tokio::time::timeout;

use crate::backoff;
use crate::desired::classes::rules::ClassRules;
use crate::desired::classes::{Plain, Resolved, RulesByClass, by_name, condition, resolve};
use crate::desired::spec;
use crate::reconcile::Operator;
use crate::reconcile::api::Cluster;
use portico_runtime::chain;

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    /// What counts for Services of one of our classes.
    pub(crate) fn class_rules(&self, class: &str) -> Arc<ClassRules> {
        self.rules_by_class().get(class).map(Arc::clone).unwrap_or_default()
    }

    fn rules_by_class(&self) -> RulesByClass {
        let version = self.cache.parameters_version();
        let mut known = self.class.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// By class.
    fn resolved(&self) -> BTreeMap<String, Resolved> {
        let (objects, plain) = (self.cache.parameters(), self.plain());
        let of = |class: &str| match &plain {
            Some(plain) if !objects.is_empty() => resolve(class, &objects, &self.provider, plain),
            _ => Resolved::default(),
        };
        self.settings.classes.all().map(|class| (class.to_owned(), of(class))).collect()
    }

    /// One TCP port, nobody behind it.
    fn plain(&self) -> Option<Plain> {
        let family = self.capabilities.ip_families.first().copied().unwrap_or(IpFamily::IPv4);
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
        let owner = spec::owner(&service, &self.settings.cluster).ok()?;
        Some(Plain { service, owner })
    }

    /// Tells every object what became of it, whenever one changes, for ever.
    pub(crate) async fn report_parameters(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let changed = self.cache.parameters_changed();
            let reported =
                !self.cache.is_synced() || !self.fence.is_open() || self.report_parameters_once().await;
            failures = if reported { 0 } else { failures + 1 };
            if reported {
                changed.await;
            } else {
                // Another change brings them back as well.
                drop(timeout(backoff::delay(&"class parameters", failures), changed).await);
            }
        }
    }

    /// Once; whether all of them know.
    pub(crate) async fn report_parameters_once(&self) -> bool {
        let mut reported = true;
        let objects = self.cache.parameters();
        for review in self.resolved().into_values().flat_map(|resolved| resolved.reviews) {
            let Some(object) = objects.iter().find(|it| it.metadata.name.as_ref() == Some(&review.name))
            else {
                continue;
            };
            let wanted = condition(object, &review, Timestamp::now());
            let shown = object.status.iter().flat_map(|status| &status.conditions);
            if shown.into_iter().any(|it| *it == wanted) {
                continue;
            }
            tracing::info!(
                name = review.name,
                reason = wanted.reason,
                what = wanted.message,
                "class parameters"
            );
            if let Err(error) = self.cluster.report_parameters(object, &wanted).await {
                tracing::warn!(
                    name = review.name,
                    error = chain(&error),
                    "class parameters: status not written"
                );
                reported &= !error.retry();
            }
        }
        reported
    }
}
