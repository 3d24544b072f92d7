//! Annotations on a Service that name the parts of its load balancer.
//!
//! Owns: which of them to write. Leaves to others: keys and names (the provider), the write (`writer`).
//! Invariant: an annotation that the Service shows already is not written again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// Those that a Service does not show as they should be; `None`: to be removed.
pub(super) fn missing(
    service: &Service,
    mut wanted: BTreeMap<&'static str, Option<String>>,
) -> BTreeMap<&'static str, Option<String>> {
    let annotations = service.metadata.annotations.as_ref();
    wanted.retain(|key, name| annotations.and_then(|all| all.get(*key)) != name.as_ref());
    wanted
}
