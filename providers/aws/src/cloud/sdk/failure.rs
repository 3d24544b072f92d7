//! From an SDK's error to [`CloudError`].
//!
//! Owns: separating an answer from no answer, and that from missing credentials. Leaves to others: what a code means
//! (`cloud/codes`). Invariant: what is no answer is an outage, unless credentials could not be had.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_elasticloadbalancingv2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::cloud::{CloudError, codes};

pub(super) fn failed<E, R>(operation: &'static str, error: SdkError<E, R>) -> CloudError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let Some(service) = error.as_service_error() else {
        let code = if lacks_credentials(&error) { "NoCredentials" } else { "NoAnswer" };
        return of_code(operation, code, DisplayErrorContext(error).to_string());
    };
    let code = service.code().unwrap_or("Unknown");
    of_code(operation, code, service.message().unwrap_or("AWS gave no message").to_owned())
}

/// An error of this code.
pub(super) fn of_code(operation: &'static str, code: &str, message: String) -> CloudError {
    let (trouble, _) = codes::meaning(operation, code);
    CloudError { operation, trouble, code: code.to_owned(), message }
}

/// Whether a request was never sent for want of credentials: whatever made them fail is among the causes.
fn lacks_credentials(error: &(dyn Error + 'static)) -> bool {
    error.is::<CredentialsError>() || error.source().is_some_and(lacks_credentials)
}

#[cfg(test)]
mod tests {
    use aws_sdk_elasticloadbalancingv2::operation::describe_tags::DescribeTagsError;

    use super::*;
    use crate::cloud::Trouble;

    type Failed = SdkError<DescribeTagsError, ()>;

    #[test]
    fn missing_credentials_are_distinguished_from_an_outage() {
        let lacking = Failed::construction_failure(CredentialsError::not_loaded("no role"));
        let error = failed("DescribeTags", lacking);
        assert_eq!((error.trouble, error.code.as_str()), (Trouble::Credentials, "NoCredentials"));
        let resolving = Failed::timeout_error("failed to look up address information");
        assert_eq!(failed("DescribeTags", resolving).trouble, Trouble::Unavailable);
    }
}
