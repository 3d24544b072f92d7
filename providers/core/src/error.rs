//! Errors of a provider, each with its retry and its reason.
//!
//! Owns: [`ProviderError`] and its two answers. Leaves to others: counting retries and backing off.
//! Invariant: waiting is not an error (see [`crate::Outcome::InProgress`]), and neither is absence on deletion.

use std::time::Duration;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// How soon a permission that was granted meanwhile is noticed.
const GRANTED: Duration = Duration::from_mins(1);

/// When the same call is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not before something changes: the Service, a quota, a permission. A condition and an Event say what.
    Never,
    /// After so long; the provider said so.
    After(Duration),
    /// With growing delays; it may pass by itself.
    Backoff,
}

/// A provider's call that failed. Display names the operation; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The request can never succeed as it stands: the Service must change.
    #[error("{operation}: {message}")]
    Invalid {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// Which field, what is wrong, what to do.
        message: String,
    },
    /// Something that is wanted belongs to somebody else: an address in use, a name taken, another cluster's thing.
    #[error("{operation}: {message}")]
    Conflict {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// The resource and its owner.
        message: String,
    },
    /// There is no more of it: addresses, load balancers, rules.
    #[error("{operation}: {message}")]
    Exhausted {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// The exhausted resource, with its limit.
        message: String,
    },
    /// The credentials do not allow it.
    #[error("{operation}: the provider refused these credentials: {message}")]
    Denied {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// The permission that is missing.
        message: String,
    },
    /// The credentials are expired, rotated, or signed by a wrong clock: new ones come by themselves.
    #[error("{operation}: the provider does not accept these credentials now: {message}")]
    Credentials {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// The fault of the credentials.
        message: String,
    },
    /// The account or project is not ready: suspended, being verified, a service not enabled.
    #[error("{operation}: the account is not ready: {message}")]
    Account {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// Its state, and who can change it.
        message: String,
    },
    /// Too many calls.
    #[error("{operation}: the provider asked for fewer calls")]
    Throttled {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// When to come back, if it said so.
        after: Option<Duration>,
    },
    /// No answer, a broken one, or a failure on the provider's side.
    #[error("{operation}: the provider did not answer as it should")]
    Unavailable {
        /// The call that failed, as a phrase: `create load balancer`.
        operation: &'static str,
        /// The cause, in the provider's words.
        #[source]
        source: Source,
    },
}

impl ProviderError {
    /// [`ProviderError::Unavailable`] from any cause.
    pub fn unavailable(operation: &'static str, source: impl Into<Source>) -> Self {
        Self::Unavailable { operation, source: source.into() }
    }

    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Invalid { .. } | Self::Conflict { .. } | Self::Exhausted { .. } => Retry::Never,
            Self::Denied { .. } => Retry::After(GRANTED),
            Self::Throttled { after: Some(after), .. } => Retry::After(*after),
            Self::Throttled { after: None, .. }
            | Self::Credentials { .. }
            | Self::Account { .. }
            | Self::Unavailable { .. } => Retry::Backoff,
        }
    }

    /// Condition reason, Event reason and metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "InvalidRequest",
            Self::Conflict { .. } => "Conflict",
            Self::Exhausted { .. } => "QuotaExceeded",
            Self::Denied { .. } => "AccessDenied",
            Self::Credentials { .. } => "CredentialsRejected",
            Self::Account { .. } => "AccountNotReady",
            Self::Throttled { .. } => "Throttled",
            Self::Unavailable { .. } => "ProviderUnavailable",
        }
    }
}
