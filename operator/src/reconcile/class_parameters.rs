//! The condition `Accepted` on `LoadBalancerClassParameters` objects.
//!
//! Owns: when it is written. Leaves to others: what it says (`classes`), watching (`watch`).
//! Invariant: a condition is written only when it says something new.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use portico_provider::LoadBalancerProvider;
use tokio::time::timeout;

use super::Reconciler;
use super::api::Cluster;
use crate::backoff;
use crate::desired::classes::condition;
use portico_runtime::chain;

/// Writes the condition of every object, whenever one changes.
pub(crate) async fn report<P: LoadBalancerProvider, C: Cluster>(reconciler: Arc<Reconciler<P, C>>) {
    let mut failures = 0;
    loop {
        let changed = reconciler.cache.parameters_changed();
        let idle = !reconciler.cache.is_synced() || !reconciler.provisioner.is_leading();
        let reported = idle || report_once(&reconciler).await;
        failures = if reported { 0 } else { failures + 1 };
        if reported {
            changed.await;
        } else {
            // Another change requeues them as well.
            drop(timeout(backoff::delay(&"class parameters", failures), changed).await);
        }
    }
}

/// Whether every object has its condition.
pub(crate) async fn report_once<P: LoadBalancerProvider, C: Cluster>(reconciler: &Reconciler<P, C>) -> bool {
    let mut reported = true;
    let objects = reconciler.cache.parameters();
    for review in reconciler.classes.resolved().into_values().flat_map(|resolved| resolved.reviews) {
        let Some(object) = objects.iter().find(|it| it.metadata.name.as_ref() == Some(&review.name)) else {
            continue;
        };
        let wanted = condition(object, &review, Timestamp::now());
        let shown = object.status.iter().flat_map(|status| &status.conditions);
        if shown.into_iter().any(|it| *it == wanted) {
            continue;
        }
        let name = &review.name;
        tracing::info!(name, reason = wanted.reason, verdict = wanted.message, "class parameters");
        if let Err(error) = reconciler.writer.api().report_parameters(object, &wanted).await {
            tracing::warn!(name, error = chain(&error), "class parameters: status not written");
            reported &= !error.retry();
        }
    }
    reported
}
