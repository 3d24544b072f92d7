//! The step of a plan: none exists, as the provider creates nothing.

use std::fmt;

/// A step that cannot exist: every plan of this provider is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoStep {}

impl fmt::Display for NoStep {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
