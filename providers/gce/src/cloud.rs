//! The seam to Compute Engine: exactly the calls that are used, in our own types.
//!
//! Owns: [`Cloud`], [`Operation`], [`CloudError`] and what an error means to the operator.
//! Leaves to others: the SDK behind it ([`sdk`]). Invariant: a call that changes something returns as soon as the
//! operation is accepted and never waits for its end; a failed operation is data here and an error one level up,
//! because the SDK's own `until_done` answers `Ok` for it.

pub mod limited;
pub mod sdk;
mod wire;

use std::collections::BTreeMap;
use std::fmt;

use portico_provider::ProviderError;

use crate::resource::{Endpoint, Id, Kind, Resource, Seen};

/// A resource and the description it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The resource.
    pub resource: Resource,
    /// Where the owner's mark is.
    pub description: String,
    /// How many endpoints an endpoint group has; `None` for other kinds.
    pub members: Option<usize>,
}

/// A call that Compute Engine is still at work on, or that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// `insert`, `delete`, `patch` …
    pub verb: String,
    /// The resource it is about.
    pub target: Id,
    /// When it was accepted, as the API writes it; sorts by time within a zone.
    pub started: String,
    /// How far it is.
    pub state: OperationState,
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// Not at its end.
    Running,
    /// At its end, and successful.
    Done,
    /// At its end, and failed.
    Failed(CloudError),
}

/// Which operations are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationFilter {
    /// Names of targets, as a regular expression.
    pub names: String,
    /// Without those that have ended.
    pub running_only: bool,
}

/// The calls.
///
/// Lists are paged to the end. `get` answers `None` for what is absent; every other call answers `NotFound`.
pub trait Cloud: Send + Sync + 'static {
    /// All of a kind in this project and region whose names match a regular expression.
    fn list(&self, kind: Kind, names: &str) -> impl Future<Output = Result<Vec<Found>, CloudError>> + Send;
    /// One, if it exists.
    fn get(&self, id: &Id) -> impl Future<Output = Result<Option<Found>, CloudError>> + Send;
    /// Makes one.
    fn insert(
        &self,
        resource: &Resource,
        description: &str,
    ) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Changes one in place, unless it was changed by somebody else meanwhile (`Precondition`).
    fn patch(&self, resource: &Resource) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Deletes one.
    fn delete(&self, id: &Id) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// The endpoints of a group, with what their probes say.
    fn endpoints(
        &self,
        group: &Id,
    ) -> impl Future<Output = Result<BTreeMap<Endpoint, Seen>, CloudError>> + Send;
    /// What the backend service of a name sees of a group of its own: by instance.
    fn health(
        &self,
        service: &str,
        group: &Id,
    ) -> impl Future<Output = Result<BTreeMap<String, Seen>, CloudError>> + Send;
    /// Adds endpoints to a group; one that is there already fails the operation.
    fn attach(
        &self,
        group: &Id,
        endpoints: &[Endpoint],
    ) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Removes endpoints of a group; one that is not there fails the operation.
    fn detach(
        &self,
        group: &Id,
        endpoints: &[Endpoint],
    ) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Operations on targets of this project, of any scope.
    fn operations(
        &self,
        filter: &OperationFilter,
    ) -> impl Future<Output = Result<Vec<Operation>, CloudError>> + Send;
}

/// What Compute Engine answered instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct CloudError {
    /// What it means.
    pub kind: CloudErrorKind,
    /// Its own words.
    pub message: String,
}

/// The errors that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudErrorKind {
    /// 404.
    NotFound,
    /// 409: the name, or the address, is taken.
    Taken,
    /// A quota is used up.
    Quota,
    /// Too many calls.
    RateLimit,
    /// Another resource refers to it.
    InUse,
    /// Another operation is at work on it.
    NotReady,
    /// 412: changed by somebody else meanwhile.
    Precondition,
    /// 401, 403.
    Denied,
    /// 400: never as it stands.
    Invalid,
    /// No answer, an unreadable one, or a failure of the service.
    Unavailable,
}

impl fmt::Display for CloudErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::Taken => "already taken",
            Self::Quota => "quota exceeded",
            Self::RateLimit => "too many calls",
            Self::InUse => "in use",
            Self::NotReady => "not ready",
            Self::Precondition => "changed meanwhile",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
        })
    }
}

impl CloudError {
    /// One of a kind.
    pub fn new(kind: CloudErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A node can be in one load-balanced instance group only, and another has it.
    fn in_another_group(message: &str) -> Self {
        let message = format!(
            "{message} Another controller's instance group has this cluster's nodes, such as k8s-ig--… of GKE or of a cloud \
             controller manager: run the operator with --gce-backends neg, which needs none, or take the nodes out of it"
        );
        Self { kind: CloudErrorKind::Taken, message }
    }

    /// From an HTTP status and the reason in the error's body.
    /// <https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-api-errors>
    pub(crate) fn of_http(status: u16, reason: &str, message: String) -> Self {
        let kind = match (status, reason) {
            (404, _) => CloudErrorKind::NotFound,
            // Somebody was faster, and it is as it should be.
            _ if message.contains(" is already a member of ") => CloudErrorKind::NotReady,
            (409, _) => CloudErrorKind::Taken,
            (400, "instanceInMultipleLoadBalancedIgs") => return Self::in_another_group(&message),
            (412, _) => CloudErrorKind::Precondition,
            (429, _) | (403, "rateLimitExceeded" | "userRateLimitExceeded") => CloudErrorKind::RateLimit,
            (403, "quotaExceeded" | "limitExceeded") => CloudErrorKind::Quota,
            (401 | 403, _) => CloudErrorKind::Denied,
            (400, "resourceNotReady") => CloudErrorKind::NotReady,
            (400, "resourceInUseByAnotherResource") => CloudErrorKind::InUse,
            (400..=499, _) => CloudErrorKind::Invalid,
            _ => CloudErrorKind::Unavailable,
        };
        Self { kind, message }
    }

    /// From the code of a failed operation.
    pub(crate) fn of_operation(code: &str, message: &str) -> Self {
        let kind = match code {
            _ if message.contains(" is already a member of ") => CloudErrorKind::NotReady,
            "INSTANCE_IN_MULTIPLE_LOAD_BALANCED_IGS" => return Self::in_another_group(message),
            "RESOURCE_NOT_FOUND" => CloudErrorKind::NotFound,
            "RESOURCE_ALREADY_EXISTS" | "IP_IN_USE_BY_ANOTHER_RESOURCE" => CloudErrorKind::Taken,
            "QUOTA_EXCEEDED" | "LIMIT_EXCEEDED" => CloudErrorKind::Quota,
            "RATE_LIMIT_EXCEEDED" | "RESOURCE_OPERATION_RATE_EXCEEDED" => CloudErrorKind::RateLimit,
            "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" => CloudErrorKind::InUse,
            "RESOURCE_NOT_READY" => CloudErrorKind::NotReady,
            "CONDITION_NOT_MET" => CloudErrorKind::Precondition,
            "PERMISSIONS_ERROR" | "FORBIDDEN" => CloudErrorKind::Denied,
            code if code.starts_with("INVALID") || code == "UNSUPPORTED_OPERATION" => CloudErrorKind::Invalid,
            _ => CloudErrorKind::Unavailable,
        };
        Self { kind, message: format!("{code}: {message}") }
    }

    /// What it means to the operator.
    pub(crate) fn during(self, operation: &'static str) -> ProviderError {
        let message = self.message.clone();
        match self.kind {
            CloudErrorKind::Taken => ProviderError::Conflict { operation, message },
            CloudErrorKind::Quota => ProviderError::Exhausted { operation, message },
            CloudErrorKind::RateLimit => ProviderError::Throttled { operation, after: None },
            CloudErrorKind::Denied => ProviderError::Denied { operation, message },
            CloudErrorKind::Invalid => ProviderError::Invalid { operation, message },
            // These pass by themselves, or with a fresh look.
            CloudErrorKind::NotFound
            | CloudErrorKind::InUse
            | CloudErrorKind::NotReady
            | CloudErrorKind::Precondition
            | CloudErrorKind::Unavailable => ProviderError::unavailable(operation, self),
        }
    }
}

#[cfg(test)]
mod tests {
    use portico_provider::Retry;

    use super::*;

    #[test]
    fn each_error_has_a_meaning_and_a_retry() {
        let http = |status, reason| CloudError::of_http(status, reason, String::new()).during("x");
        assert_eq!(http(403, "quotaExceeded").reason(), "QuotaExceeded");
        assert_eq!(http(403, "rateLimitExceeded").reason(), "Throttled");
        assert_eq!(http(403, "forbidden").reason(), "AccessDenied");
        assert_eq!(http(409, "alreadyExists").retry(), Retry::Never);
        assert_eq!(http(412, "conditionNotMet").retry(), Retry::Backoff);
        assert_eq!(http(503, "backendError").retry(), Retry::Backoff);
        let failed = |code| CloudError::of_operation(code, "why").during("x");
        assert_eq!(failed("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE").retry(), Retry::Backoff);
        assert_eq!(failed("QUOTA_EXCEEDED").to_string(), "x: QUOTA_EXCEEDED: why");
        assert_eq!(failed("INVALID_USAGE").reason(), "InvalidRequest");
    }
}
