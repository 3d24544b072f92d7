//! Events that a pod's worker reacts to.

use k8s_openapi::api::core::v1::Pod;

use super::thresholds::Kind;

/// An event in the life of a pod.
#[derive(Debug)]
pub(super) enum Event {
    /// The API server has a new version of it.
    Spec(Box<Pod>),
    /// The API server no longer has it.
    Gone,
    /// A container's process ended.
    Exited { container: String, attempt: u32, code: i32, message: Option<String> },
    /// A probe changed its state.
    Judged { container: String, attempt: u32, kind: Kind, good: bool, why: String },
}
