//! The end of a provisioning attempt.
//!
//! Owns: [`End`]. Leaves to others: what follows from it (`track`), the provider's errors.

use std::time::Duration;

use portico_provider::{ProviderError, Retry};

use super::plan_view::PlanView;
use portico_runtime::chain;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing is left to do, or nothing that may be done.
    Settled,
    /// The plan has steps, and this attempt was not to execute any.
    Withheld(Box<PlanView>),
    /// The provider is at work.
    InProgress { what: String, retry: Duration },
    /// A call failed.
    Failed { reason: &'static str, message: String, retry: Retry },
}

impl End {
    /// A provider's error with its sources, in words for a user.
    pub(crate) fn of(error: &ProviderError) -> Self {
        Self::Failed { reason: error.reason(), message: chain(error), retry: error.retry() }
    }
}
