//! Calls to the provider: bounded in time, counted, and given up when this process no longer leads.
//!
//! Owns: [`ProviderCalls`]. Leaves to others: which calls, and in which order (`operation`); how fast a cloud is called (its
//! limiters).

use std::sync::Arc;
use std::time::Duration;

use portico_limits::{Priority, at_best};
use portico_provider::{Inventory as Listing, LoadBalancerProvider, Outcome, ProviderError, ReadMode, Retry};
use tokio::time::{Instant, timeout};

use super::end::End;
use super::want::Want;
use crate::metrics::{CallResult, Metrics};
use crate::process::fence::Fence;
use portico_runtime::chain;

/// The time limit of one call, waits for the cloud's limits included. Providers bound each request by themselves; the next
/// read shows the effect of a call that timed out.
const CALL_TIMEOUT: Duration = Duration::from_mins(3);
/// The time limit of a complete listing, all pages together.
const LISTING_TIMEOUT: Duration = Duration::from_mins(2);

/// The provider, with the fence and the metrics of each call.
#[derive(Debug)]
pub(crate) struct ProviderCalls<P> {
    provider: Arc<P>,
    fence: Fence,
    metrics: Metrics,
}

impl<P: LoadBalancerProvider> ProviderCalls<P> {
    pub(crate) fn new(provider: Arc<P>, fence: Fence, metrics: Metrics) -> Self {
        Self { provider, fence, metrics }
    }

    /// The provider, for its pure methods.
    pub(crate) fn provider(&self) -> &P {
        &self.provider
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.fence.is_open()
    }

    /// Reads everything that this cluster owns, and when the read began; `None`: it failed, which the log tells.
    pub(crate) async fn list(&self) -> Option<(Listing<P::Observed>, Instant)> {
        let began = Instant::now();
        let listed = timeout(LISTING_TIMEOUT, self.provider.inventory()).await;
        let listed = listed.unwrap_or_else(|late| Err(ProviderError::unavailable("inventory", late)));
        let result = if listed.is_ok() { CallResult::Ok } else { CallResult::Error };
        self.metrics.provider_call("inventory", result, began.elapsed());
        match listed {
            Ok(listing) => {
                self.metrics.listed(began.elapsed());
                tracing::info!(load_balancers = listing.services.len(), "inventory read");
                Some((listing, began))
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), reason = error.reason(), "inventory not read");
                None
            }
        }
    }

    /// Reads one load balancer.
    pub(crate) async fn read(&self, want: &Want, mode: ReadMode) -> Result<Option<P::Observed>, End> {
        match want.desired() {
            Some(desired) => self.call("observe", self.provider.observe_for(desired, mode)).await,
            None => self.call("observe", self.provider.observe(want.owner(), mode)).await,
        }
    }

    /// Executes one step, at the priority of a change, whatever the reads before it were for.
    pub(crate) async fn execute(&self, step: &P::Step) -> Result<Outcome, End> {
        let change = at_best(Priority::Targets, self.provider.execute(step));
        self.while_leading(self.call("execute", change)).await
    }

    /// Gives up a change when this process may make none any more. The next leader reads what the change did.
    async fn while_leading<T>(&self, change: impl Future<Output = Result<T, End>>) -> Result<T, End> {
        tokio::select! {
            biased;
            () = self.fence.closed() => Err(End::Failed {
                reason: "NotLeading",
                message: "this operator no longer leads".to_owned(),
                retry: Retry::Backoff,
            }),
            outcome = change => outcome,
        }
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, End> {
        let began = Instant::now();
        let (result, outcome) = match timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(value)) => (CallResult::Ok, Ok(value)),
            Ok(Err(error)) => (CallResult::Error, Err(End::of(&error))),
            Err(_elapsed) => {
                let message = format!("{operation}: no answer within {CALL_TIMEOUT:?}");
                (CallResult::Timeout, Err(End::Failed { reason: "Timeout", message, retry: Retry::Backoff }))
            }
        };
        self.metrics.provider_call(operation, result, began.elapsed());
        outcome
    }
}
