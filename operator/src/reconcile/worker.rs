//! Workers, and the listing that all of them plan from.
//!
//! Owns: taking Services off the queue, what follows a failed look, and reading the provider's inventory again.
//! Leaves to others: the look itself (`reconcile`).
//! Invariant: one bad Service stops nobody: a look that fails, or panics, is tried again later, alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use portico_provider::{LoadBalancerProvider, ProviderError};
use tokio::time::{Instant, sleep, timeout};

use crate::backoff;
use crate::cache::watch::Router;
use crate::metrics::{CallResult, Reconciled};
use crate::reconcile::api::Cluster;
use crate::reconcile::{Operator, ReconcileResult};
use portico_runtime::chain;

/// The longest a complete listing may take, all pages together.
const LISTING_TIMEOUT: Duration = Duration::from_mins(2);
/// From one look at whether all lists have arrived to the next.
const SYNC_POLL: Duration = Duration::from_millis(20);

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    /// Waits until the cache is known.
    pub(crate) async fn synced(&self) {
        while !self.cache.is_synced() {
            sleep(SYNC_POLL).await;
        }
    }

    /// Whether to do anything at all: while leading, or where nothing is written anyway.
    pub(crate) fn may_work(&self) -> bool {
        self.settings.read_only || self.fence.is_open()
    }

    /// Looks at Services until the queue closes.
    pub(crate) async fn work(self: Arc<Self>) {
        while let Some(key) = self.queue.next().await {
            self.metrics.queue_depth(self.queue.depth());
            self.gauge();
            let began = Instant::now();
            let looked = AssertUnwindSafe(self.reconcile(&key)).catch_unwind().await;
            let (outcome, failed) = match looked {
                Ok(Ok(ReconcileResult { outcome, again })) => {
                    if let Some(due) = again {
                        self.queue.add_at(key.clone(), due);
                    }
                    (outcome, false)
                }
                Ok(Err(error)) => {
                    tracing::info!(service = %key, error = chain(&error), reason = error.reason(), "look not finished");
                    (Reconciled::Error, error.retry())
                }
                Err(_panic) => {
                    tracing::error!(service = %key, "a look at this Service panicked");
                    (Reconciled::Panic, true)
                }
            };
            if failed {
                self.queue.retry(&key);
            } else {
                self.queue.forget(&key);
            }
            self.metrics.reconciled(outcome, began.elapsed());
            self.queue.done(&key);
        }
    }

    /// Reads everything we own; whether that worked.
    pub(crate) async fn list(&self) -> bool {
        let began = Instant::now();
        let listed = timeout(LISTING_TIMEOUT, self.provider.inventory()).await;
        let listed = listed.unwrap_or_else(|late| Err(ProviderError::unavailable("inventory", late)));
        let result = if listed.is_ok() { CallResult::Ok } else { CallResult::Error };
        self.metrics.provider_call("inventory", result, began.elapsed());
        match listed {
            Ok(listing) => {
                self.metrics.listed(began.elapsed());
                tracing::info!(load_balancers = listing.services.len(), "inventory read");
                self.inventory.replace(listing, began);
                true
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), reason = error.reason(), "inventory not read");
                false
            }
        }
    }

    /// Lists again and again, sooner after a failure, and brings every Service back after each listing.
    pub(crate) async fn keep_listing(self: Arc<Self>, router: Router, mut listed: bool, resync: Duration) {
        let mut failures = 0;
        loop {
            failures = if listed { 0 } else { failures + 1 };
            let pause = if listed { resync } else { backoff::delay(&"inventory", failures).min(resync) };
            sleep(pause).await;
            listed = self.list().await;
            if listed {
                router.requeue_all(&self.settings.classes);
            }
        }
    }
}
