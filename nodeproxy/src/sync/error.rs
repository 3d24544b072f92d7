//! The reasons why the sync loop ends.
//!
//! Owns: [`SyncError`]. Leaves to others: ending the process. Invariant: what a new process may mend says so.

use crate::dataplane::DataplaneError;

/// Reasons why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A retry cannot help.
    #[error("the dataplane cannot work on this machine")]
    Dataplane(#[source] DataplaneError),
    /// Every sender of input is gone.
    #[error("all watches ended")]
    NoSources,
}

impl SyncError {
    /// One word for a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dataplane(error) => error.reason(),
            Self::NoSources => "NoSources",
        }
    }

    /// Whether a new process may succeed.
    pub fn retry(&self) -> bool {
        !matches!(self, Self::Dataplane(_))
    }
}
