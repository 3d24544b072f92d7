//! Errors of Compute Engine, and their meaning for the operator.
//!
//! Owns: [`CloudError`], the table of its codes. Leaves to others: which field a call was about (`remedy`).
//! Invariant: a code has one row, whether an HTTP answer or an operation brings it. One without a row is judged by the HTTP
//! status, and of an operation is an outage.
//! Sources: <https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-api-errors>, google.api.ErrorReason, and
//! answers quoted in public issues of kubernetes/ingress-gce.

use std::fmt;

use portico_provider::ProviderError;

/// An error of Compute Engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct CloudError {
    /// What can be done about it.
    pub kind: CloudErrorKind,
    /// Its own words.
    pub message: String,
}

/// The kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudErrorKind {
    /// It does not exist.
    NotFound,
    /// The name, or the address, is taken.
    Taken,
    /// A quota is used up.
    Quota,
    /// Too many calls.
    RateLimit,
    /// Another resource refers to it.
    InUse,
    /// Another operation is at work on it.
    NotReady,
    /// Changed by somebody else meanwhile.
    Precondition,
    /// A permission is missing.
    Denied,
    /// The credentials are expired or rotated.
    Credentials,
    /// The project is not ready: no billing, API not enabled, suspended.
    Account,
    /// Never as it stands.
    Invalid,
    /// No answer, an unreadable one, or a failure of the service.
    Unavailable,
}

use CloudErrorKind as Is;

/// Codes: `errors[].reason` of an HTTP answer, the reason of an `ErrorInfo` in it, or the code in a failed operation.
const CODES: [(&[&str], CloudErrorKind); 11] = [
    (&["notFound", "RESOURCE_NOT_FOUND", "EXTERNAL_RESOURCE_NOT_FOUND"], Is::NotFound),
    (&["alreadyExists", "RESOURCE_ALREADY_EXISTS", "IP_IN_USE_BY_ANOTHER_RESOURCE"], Is::Taken),
    (&["instanceInMultipleLoadBalancedIgs", "INSTANCE_IN_MULTIPLE_LOAD_BALANCED_IGS"], Is::Taken),
    (
        &[
            "quotaExceeded",
            "limitExceeded",
            "QUOTA_EXCEEDED",
            "LIMIT_EXCEEDED",
            "RESOURCE_QUOTA_EXCEEDED",
            "IP_SPACE_EXHAUSTED",
        ],
        Is::Quota,
    ),
    (
        &[
            "rateLimitExceeded",
            "userRateLimitExceeded",
            "dailyLimitExceeded",
            "RATE_LIMIT_EXCEEDED",
            "resourceOperationRateExceeded",
            "RESOURCE_OPERATION_RATE_EXCEEDED",
        ],
        Is::RateLimit,
    ),
    (&["resourceInUseByAnotherResource", "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"], Is::InUse),
    (&["resourceNotReady", "RESOURCE_NOT_READY"], Is::NotReady),
    (&["conditionNotMet", "CONDITION_NOT_MET"], Is::Precondition),
    (
        &[
            "authError",
            "ACCESS_TOKEN_EXPIRED",
            "ACCESS_TOKEN_TYPE_UNSUPPORTED",
            "CREDENTIALS_MISSING",
            "UNAUTHENTICATED",
        ],
        Is::Credentials,
    ),
    (
        &[
            "insufficientPermissions",
            "IAM_PERMISSION_DENIED",
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            "PERMISSIONS_ERROR",
            "FORBIDDEN",
        ],
        Is::Denied,
    ),
    (
        &[
            "accessNotConfigured",
            "SERVICE_DISABLED",
            "billingDisabled",
            "BILLING_DISABLED",
            "accountDisabled",
            "accountPaymentRequired",
            "CONSUMER_SUSPENDED",
            "CONSUMER_INVALID",
        ],
        Is::Account,
    ),
];

/// Every code that has a row.
pub(super) fn codes() -> impl Iterator<Item = &'static str> {
    CODES.into_iter().flat_map(|(codes, _)| codes.iter().copied())
}

fn of_code(code: &str) -> Option<CloudErrorKind> {
    CODES.into_iter().find(|(codes, _)| codes.contains(&code)).map(|(_, kind)| kind)
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
            Self::Credentials => "credentials not accepted",
            Self::Account => "project not ready",
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

    /// From an HTTP status and the reason in the error's body.
    pub(crate) fn of_http(status: u16, reason: &str, message: String) -> Self {
        let kind = match status {
            // Somebody was faster, and it is as it should be.
            _ if is_member_already(&message) => Is::NotReady,
            400..=499 => of_code(reason).unwrap_or(match status {
                401 => Is::Credentials,
                403 => Is::Denied,
                404 => Is::NotFound,
                408 => Is::Unavailable,
                409 => Is::Taken,
                412 => Is::Precondition,
                429 => Is::RateLimit,
                _ => Is::Invalid,
            }),
            _ => Is::Unavailable,
        };
        Self { kind, message }
    }

    /// From the code of a failed operation.
    pub(crate) fn of_operation(code: &str, message: &str) -> Self {
        let invalid = |code: &str| code.starts_with("INVALID") || code == "UNSUPPORTED_OPERATION";
        let kind = match of_code(code) {
            _ if is_member_already(message) => Is::NotReady,
            Some(kind) => kind,
            None if invalid(code) => Is::Invalid,
            None => Is::Unavailable,
        };
        Self { kind, message: format!("{code}: {message}") }
    }

    /// Its meaning for the operator.
    pub(crate) fn during(self, operation: &'static str) -> ProviderError {
        let message = self.message.clone();
        match self.kind {
            Is::Taken => ProviderError::Conflict { operation, message },
            Is::Quota => ProviderError::Exhausted { operation, message },
            Is::RateLimit => ProviderError::Throttled { operation, after: None },
            Is::Denied => ProviderError::Denied { operation, message },
            Is::Credentials => ProviderError::Credentials { operation, message },
            Is::Account => ProviderError::Account { operation, message },
            Is::Invalid => ProviderError::Invalid { operation, message },
            // These pass by themselves, or with a fresh look.
            Is::NotFound | Is::InUse | Is::NotReady | Is::Precondition | Is::Unavailable => {
                ProviderError::unavailable(operation, self)
            }
        }
    }
}

fn is_member_already(message: &str) -> bool {
    message.contains(" is already a member of ")
}

#[cfg(test)]
mod tests;
