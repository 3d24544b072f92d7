//! Class parameters at work: which defaults count now, and telling each object what became of it.
//!
//! Owns: keeping the answer up to date. Leaves to others: what is right and wrong (`classes`), watching (`watch`).
//! Invariant: objects are read anew only when one of them changed; a condition is written only when it says something new.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use k8s_openapi::jiff::Timestamp;
use portico_provider::{
    HealthCheck, LoadBalancer, LoadBalancerProvider, Owner, ServiceName, TargetKind, Targets,
};

use super::{ClassDefaults, Defaults, Resolved, by_name, condition, resolve};
use crate::cluster::Cluster;
use crate::operation::chain;
use crate::reconcile::Operator;

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    /// What Services of one of our classes have unless they say otherwise.
    pub(crate) fn defaults(&self, class: &str) -> Arc<Defaults> {
        self.class_defaults().get(class).map(Arc::clone).unwrap_or_default()
    }

    fn class_defaults(&self) -> ClassDefaults {
        let version = self.world.parameters_version();
        let mut known = self.class.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, defaults)) = &*known
            && *read == version
        {
            return Arc::clone(defaults);
        }
        let own = |(class, Resolved { defaults, verdicts: _ }): (String, Resolved)| {
            let all = by_name(&class).into_iter().chain(defaults).collect();
            (class, Arc::new(all))
        };
        let defaults = Arc::new(self.resolved().into_iter().map(own).collect());
        *known = Some((version, Arc::clone(&defaults)));
        defaults
    }

    /// By class.
    fn resolved(&self) -> BTreeMap<String, Resolved> {
        let (objects, plain) = (self.world.parameters(), self.plain());
        let of = |class: &str| match &plain {
            Some(plain) if !objects.is_empty() => resolve(class, &objects, &self.provider, plain),
            _ => Resolved::default(),
        };
        self.settings.classes.all().map(|class| (class.to_owned(), of(class))).collect()
    }

    /// The plainest load balancer there is: one TCP port, nobody behind it.
    fn plain(&self) -> Option<LoadBalancer> {
        let listener = portico_provider::Listener {
            protocol: portico_provider::Protocol::Tcp,
            port: 80.try_into().ok()?,
            name: String::new(),
            node_port: 30_080.try_into().ok(),
        };
        let pods = self.capabilities.target_kinds.first() == Some(&TargetKind::Pod);
        Some(LoadBalancer {
            health_check: if pods { Some(HealthCheck::tcp_traffic()) } else { HealthCheck::node_proxy() },
            ip_families: self.capabilities.ip_families.first().copied().into_iter().collect(),
            ..LoadBalancer::plain(
                Owner {
                    cluster: self.settings.cluster.clone(),
                    service: "class-parameters".parse().ok()?,
                    name: ServiceName::new("default", "class-parameters").ok()?,
                },
                [listener].into(),
                if pods { Targets::Pods([].into()) } else { Targets::Nodes([].into()) },
            )
        })
    }

    /// Tells every object what became of it, whenever one changes, for ever.
    pub(crate) async fn report_parameters(self: Arc<Self>) {
        loop {
            let changed = self.world.parameters_changed();
            if self.world.is_synced() && self.fence.is_open() {
                self.tell_parameters().await;
            }
            changed.await;
        }
    }

    /// Once.
    pub(crate) async fn tell_parameters(&self) {
        let objects = self.world.parameters();
        for verdict in self.resolved().into_values().flat_map(|resolved| resolved.verdicts) {
            let Some(object) = objects.iter().find(|it| it.metadata.name.as_ref() == Some(&verdict.name))
            else {
                continue;
            };
            let wanted = condition(object, &verdict, Timestamp::now());
            let shown = object.status.iter().flat_map(|status| &status.conditions);
            if shown.into_iter().any(|it| *it == wanted) {
                continue;
            }
            tracing::info!(
                name = verdict.name,
                reason = wanted.reason,
                message = wanted.message,
                "class parameters"
            );
            if let Err(error) = self.cluster.report_parameters(object, &wanted).await {
                tracing::warn!(
                    name = verdict.name,
                    error = chain(&error),
                    "class parameters: status not written"
                );
            }
        }
    }
}
