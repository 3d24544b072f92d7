//! The table of errors, line by line.

use std::time::Duration;

use portico_provider::Retry;

use super::*;

/// HTTP status and reason; the condition's reason and the retry that follow.
const HTTP: [(u16, &str, &str, Retry); 34] = [
    (400, "invalid", "InvalidRequest", Retry::Never),
    (400, "required", "InvalidRequest", Retry::Never),
    (400, "badRequest", "InvalidRequest", Retry::Never),
    (400, "invalidParameter", "InvalidRequest", Retry::Never),
    (400, "resourceNotReady", "ProviderUnavailable", Retry::Backoff),
    (400, "resourceInUseByAnotherResource", "ProviderUnavailable", Retry::Backoff),
    (400, "instanceInMultipleLoadBalancedIgs", "Conflict", Retry::Never),
    (401, "authError", "CredentialsRejected", Retry::Backoff),
    (401, "required", "CredentialsRejected", Retry::Backoff),
    (401, "ACCESS_TOKEN_EXPIRED", "CredentialsRejected", Retry::Backoff),
    (401, "", "CredentialsRejected", Retry::Backoff),
    (403, "forbidden", "AccessDenied", GRANTED),
    (403, "insufficientPermissions", "AccessDenied", GRANTED),
    (403, "IAM_PERMISSION_DENIED", "AccessDenied", GRANTED),
    (403, "", "AccessDenied", GRANTED),
    (403, "accessNotConfigured", "AccountNotReady", Retry::Backoff),
    (403, "SERVICE_DISABLED", "AccountNotReady", Retry::Backoff),
    (403, "BILLING_DISABLED", "AccountNotReady", Retry::Backoff),
    (403, "CONSUMER_SUSPENDED", "AccountNotReady", Retry::Backoff),
    (403, "quotaExceeded", "QuotaExceeded", Retry::Never),
    (403, "limitExceeded", "QuotaExceeded", Retry::Never),
    (403, "rateLimitExceeded", "Throttled", Retry::Backoff),
    (403, "userRateLimitExceeded", "Throttled", Retry::Backoff),
    (403, "dailyLimitExceeded", "Throttled", Retry::Backoff),
    (404, "notFound", "ProviderUnavailable", Retry::Backoff),
    (408, "requestTimeout", "ProviderUnavailable", Retry::Backoff),
    (409, "alreadyExists", "Conflict", Retry::Never),
    (409, "", "Conflict", Retry::Never),
    (412, "conditionNotMet", "ProviderUnavailable", Retry::Backoff),
    (429, "rateLimitExceeded", "Throttled", Retry::Backoff),
    (429, "RATE_LIMIT_EXCEEDED", "Throttled", Retry::Backoff),
    (500, "internalError", "ProviderUnavailable", Retry::Backoff),
    (503, "backendError", "ProviderUnavailable", Retry::Backoff),
    (503, "quotaExceeded", "ProviderUnavailable", Retry::Backoff),
];

/// The same for the code of a failed operation.
const OPERATIONS: [(&str, &str, Retry); 21] = [
    ("RESOURCE_NOT_FOUND", "ProviderUnavailable", Retry::Backoff),
    ("RESOURCE_ALREADY_EXISTS", "Conflict", Retry::Never),
    ("IP_IN_USE_BY_ANOTHER_RESOURCE", "Conflict", Retry::Never),
    ("INSTANCE_IN_MULTIPLE_LOAD_BALANCED_IGS", "Conflict", Retry::Never),
    ("QUOTA_EXCEEDED", "QuotaExceeded", Retry::Never),
    ("LIMIT_EXCEEDED", "QuotaExceeded", Retry::Never),
    ("IP_SPACE_EXHAUSTED", "QuotaExceeded", Retry::Never),
    ("RATE_LIMIT_EXCEEDED", "Throttled", Retry::Backoff),
    ("RESOURCE_OPERATION_RATE_EXCEEDED", "Throttled", Retry::Backoff),
    ("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "ProviderUnavailable", Retry::Backoff),
    ("RESOURCE_NOT_READY", "ProviderUnavailable", Retry::Backoff),
    ("CONDITION_NOT_MET", "ProviderUnavailable", Retry::Backoff),
    ("PERMISSIONS_ERROR", "AccessDenied", GRANTED),
    ("FORBIDDEN", "AccessDenied", GRANTED),
    ("BILLING_DISABLED", "AccountNotReady", Retry::Backoff),
    ("INVALID_USAGE", "InvalidRequest", Retry::Never),
    ("INVALID_FIELD_VALUE", "InvalidRequest", Retry::Never),
    ("UNSUPPORTED_OPERATION", "InvalidRequest", Retry::Never),
    ("INTERNAL_ERROR", "ProviderUnavailable", Retry::Backoff),
    ("BACKEND_ERROR", "ProviderUnavailable", Retry::Backoff),
    ("", "ProviderUnavailable", Retry::Backoff),
];

/// A permission that was granted is tried within a minute.
const GRANTED: Retry = Retry::After(Duration::from_mins(1));

#[test]
fn each_answer_has_its_reason_and_its_retry() {
    for (status, code, reason, retry) in HTTP {
        let error = CloudError::of_http(status, code, "why".to_owned()).during("x");
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{status} {code}");
    }
}

#[test]
fn each_failed_operation_has_its_reason_its_retry_and_its_words() {
    for (code, reason, retry) in OPERATIONS {
        let error = CloudError::of_operation(code, "why").during("x");
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{code}");
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let reported = format!("{error} {source}");
        assert!(reason == "Throttled" || reported.contains(&format!("{code}: why")), "{reported}");
    }
}

#[test]
fn a_code_has_one_row() {
    let all: Vec<&str> = codes().collect();
    let distinct: std::collections::BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(all.len(), distinct.len());
}

#[test]
fn who_is_in_a_group_already_is_only_to_be_looked_at_again() {
    let message = "Resource 'x' is already a member of 'y'.";
    assert_eq!(CloudError::of_http(400, "invalid", message.to_owned()).kind, Is::NotReady);
    assert_eq!(CloudError::of_operation("MEMBER_ALREADY_EXISTS", message).kind, Is::NotReady);
}
