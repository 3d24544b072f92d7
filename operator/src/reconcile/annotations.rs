//! Annotations on a Service that name what its load balancer is made of.
//!
//! Owns: when they are written and taken back. Leaves to others: keys and names (the provider).
//! Invariants: nothing is written that is there already; only the provider's own keys are touched, and with a Service's
//! load balancer they go.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use portico_provider::LoadBalancerProvider;

use crate::reconcile::Operator;
use crate::reconcile::api::{Cluster, ClusterError};

/// Those that a Service does not show as they should be.
fn missing(
    service: &Service,
    mut wanted: BTreeMap<&'static str, Option<String>>,
) -> BTreeMap<&'static str, Option<String>> {
    let annotations = service.metadata.annotations.as_ref();
    wanted.retain(|key, name| annotations.and_then(|all| all.get(*key)) != name.as_ref());
    wanted
}

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    /// Makes the Service name the parts of what was observed; `None`: of nothing. Answers with the Service as it is then;
    /// `None`: as it was.
    pub(crate) async fn name_resources(
        &self,
        service: &Service,
        observed: Option<&P::Observed>,
    ) -> Result<Option<Service>, ClusterError> {
        let missing = missing(service, self.provider.resources(observed));
        if missing.is_empty() { Ok(None) } else { self.cluster.annotate(service, &missing).await.map(Some) }
    }
}
