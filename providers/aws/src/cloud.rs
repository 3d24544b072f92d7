//! AWS: the calls this provider makes, in its own words, and how each can fail.
//!
//! Owns: [`CloudError`]. Leaves to others: the calls (`sdk`), those that Services share (`batches`), resources
//! (`resources`), idempotence (`execute`), retrying (the operator's scheduler: each call is made once).
//! Invariant: no type of an SDK leaves `sdk`.

pub(crate) mod batches;
mod changing;
pub(crate) mod codes;
mod gather;
pub(crate) mod refusal;
pub(crate) mod resources;
mod sdk;
mod target;

use portico_provider::ProviderError;

pub use sdk::Sdk;

/// How a call ended badly, as far as anybody acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Too many calls.
    Throttled,
    /// The thing is not there.
    NotFound,
    /// A thing of this name, port or rule is there already.
    Duplicate,
    /// Something still holds on to it.
    InUse,
    /// A resource that the user named is in use elsewhere: an elastic address.
    Taken,
    /// Deletion protection, or another manager, forbids that.
    Protected,
    Limit,
    Denied,
    /// Credentials that are expired, rotated, or signed by a wrong clock.
    Credentials,
    /// The account's state.
    Account,
    /// The request can never succeed as it stands.
    Invalid,
    /// No answer, or a failure on AWS's side.
    Unavailable,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {code}: {message}")]
pub struct CloudError {
    /// The API's name of the call: `CreateLoadBalancer`.
    pub operation: &'static str,
    /// The class of the error, which decides about retries.
    pub trouble: Trouble,
    /// AWS's code: `DuplicateLoadBalancerName`.
    pub code: String,
    pub message: String,
}

/// The code of an answer that came, and lacks what every answer has.
pub(crate) const INCOMPLETE: &str = "IncompleteAnswer";

impl From<CloudError> for ProviderError {
    fn from(error: CloudError) -> Self {
        let CloudError { operation, trouble, code, message } = &error;
        let (operation, remedy) = (*operation, codes::meaning(operation, code).1);
        let message = match remedy {
            Some(remedy) => format!("{code}: {message}: {remedy}"),
            None => format!("{code}: {message}"),
        };
        match trouble {
            Trouble::Throttled => Self::Throttled { operation, after: None },
            Trouble::Duplicate | Trouble::Taken => Self::Conflict { operation, message },
            Trouble::Limit => Self::Exhausted { operation, message },
            Trouble::Denied => Self::Denied { operation, message },
            Trouble::Credentials => Self::Credentials { operation, message },
            Trouble::Account => Self::Account { operation, message },
            Trouble::Invalid | Trouble::Protected => Self::Invalid { operation, message },
            // The state changed since the plan: it is read again.
            Trouble::NotFound | Trouble::InUse | Trouble::Unavailable => Self::unavailable(operation, error),
        }
    }
}

/// The result of a call.
pub(crate) type Answer<T> = Result<T, CloudError>;
