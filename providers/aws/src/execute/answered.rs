//! AWS's answer to a step.

use crate::cloud::resources::{Id, Listener, LoadBalancer, Target};

/// How AWS answered a call that may have been made before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Done as asked.
    Done,
    /// Nothing was changed.
    Refused,
    /// Created, with this ID.
    Created(Id),
    LoadBalancer(Box<LoadBalancer>),
    Listener(Listener),
    /// Done for these targets only; the others were refused.
    Only(Vec<Target>),
    /// It exists, but another process or owner may have changed more of it.
    Found,
}
