//! From an SDK's error to [`CloudError`].
//!
//! Owns: which code means what. Leaves to others: acting on it. Invariant: what is not known to be the request's
//! own fault is `Unavailable`, and so is tried again. Codes: the "Errors" of each call in the `ELBv2` API reference
//! and EC2's "Error codes" page.

use aws_sdk_elasticloadbalancingv2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::cloud::{CloudError, Trouble};

pub(super) fn failed<E, R>(operation: &'static str, error: SdkError<E, R>) -> CloudError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    match error.as_service_error() {
        Some(service) => {
            let code = service.code().unwrap_or("Unknown").to_owned();
            let message = service.message().unwrap_or("AWS gave no message").to_owned();
            CloudError { operation, trouble: trouble(&code), code, message }
        }
        None => CloudError {
            operation,
            trouble: Trouble::Unavailable,
            code: "NoAnswer".to_owned(),
            message: DisplayErrorContext(error).to_string(),
        },
    }
}

/// What a code means. Endings are used where a family of codes shares them.
pub(super) fn trouble(code: &str) -> Trouble {
    match code {
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded" => Trouble::Throttled,
        "AccessDenied"
        | "AccessDeniedException"
        | "UnauthorizedOperation"
        | "AuthFailure"
        | "InvalidClientTokenId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "SignatureDoesNotMatch"
        | "OptInRequired" => Trouble::Denied,
        "ResourceInUse" | "DependencyViolation" | "ResourceInUseException" => Trouble::InUse,
        "OperationNotPermitted" => Trouble::Protected,
        // Security groups are found by ID before a load balancer names them; EC2 is only eventually consistent.
        "Unavailable" | "RequestTimeout" | "PaginationTokenExpiredException" | "InvalidSecurityGroup" => {
            Trouble::Unavailable
        }
        // InternalFailure of ELB, InternalError of EC2, InternalServiceException of the tagging API.
        _ if code.starts_with("Internal") || code.starts_with("ServiceUnavailable") => Trouble::Unavailable,
        _ if code.ends_with("LimitExceeded") || code.starts_with("TooMany") => Trouble::Limit,
        _ if code.ends_with("AssociationLimit") => Trouble::InUse,
        _ if code.ends_with("NotFound") || code.ends_with("NotFoundException") => Trouble::NotFound,
        _ if code.starts_with("Duplicate") || code.ends_with(".Duplicate") => Trouble::Duplicate,
        _ if code == "Unknown" => Trouble::Unavailable,
        _ => Trouble::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_that_something_depends_on_is_told_from_the_others() {
        let table = [
            ("Throttling", Trouble::Throttled),
            ("RequestLimitExceeded", Trouble::Throttled),
            ("LoadBalancerNotFound", Trouble::NotFound),
            ("InvalidGroup.NotFound", Trouble::NotFound),
            ("InvalidPermission.NotFound", Trouble::NotFound),
            ("DuplicateListener", Trouble::Duplicate),
            ("InvalidGroup.Duplicate", Trouble::Duplicate),
            ("ResourceInUse", Trouble::InUse),
            ("TargetGroupAssociationLimit", Trouble::InUse),
            ("DependencyViolation", Trouble::InUse),
            ("OperationNotPermitted", Trouble::Protected),
            ("TooManyLoadBalancers", Trouble::Limit),
            ("RulesPerSecurityGroupLimitExceeded", Trouble::Limit),
            ("UnauthorizedOperation", Trouble::Denied),
            ("InvalidConfigurationRequest", Trouble::Invalid),
            ("ServiceUnavailable", Trouble::Unavailable),
            ("InternalFailure", Trouble::Unavailable),
            ("InternalServiceException", Trouble::Unavailable),
            ("PaginationTokenExpiredException", Trouble::Unavailable),
        ];
        for (code, expected) in table {
            assert_eq!(trouble(code), expected, "{code}");
        }
    }
}
