//! A worker: takes Services off the queue, one after the other.
//!
//! Owns: what follows a failed reconcile. Leaves to others: the reconcile itself.
//! Invariant: one bad Service stops no other: a reconcile that fails, or panics, is retried later, alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use portico_provider::LoadBalancerProvider;
use tokio::time::Instant;

use super::Reconciler;
use super::api::Cluster;
use super::result::ReconcileResult;
use crate::metrics::Reconciled;
use portico_runtime::chain;

/// Reconciles Services until the queue closes.
pub(crate) async fn work<P: LoadBalancerProvider, C: Cluster>(reconciler: Arc<Reconciler<P, C>>) {
    let Reconciler { queue, metrics, provisioner, .. } = &*reconciler;
    while let Some(key) = queue.next().await {
        metrics.queue_depth(queue.depth());
        provisioner.gauge();
        let began = Instant::now();
        let result = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
        let (outcome, failed) = match result {
            Ok(Ok(ReconcileResult { outcome, requeue_at })) => {
                if let Some(due) = requeue_at {
                    queue.add_at(key.clone(), due);
                }
                (outcome, false)
            }
            Ok(Err(error)) => {
                tracing::info!(service = %key, error = chain(&error), reason = error.reason(), "reconcile failed");
                (Reconciled::Error, error.retry())
            }
            Err(_panic) => {
                tracing::error!(service = %key, "the reconcile of this Service panicked");
                (Reconciled::Panic, true)
            }
        };
        if failed {
            queue.retry(&key);
        } else {
            queue.forget(&key);
        }
        metrics.reconciled(outcome, began.elapsed());
        queue.done(&key);
    }
}
