//! The first stage: a virtual IP inside the cluster, or none for ExternalName and headless Services.
//!
//! Owns: verifying it. Leaves to others: allocating it (the API server), serving it (the node proxy).
//! Invariant: it never changes anything.

use k8s_openapi::api::core::v1::Service;

use super::Standing;
use crate::cache::service::ServiceType;

pub(super) const NAME: &str = "cluster_ip";

pub(super) fn verify(service: &Service) -> Standing {
    match ServiceType::of(service) {
        ServiceType::ExternalName => return Standing::Nothing("an ExternalName is a DNS record only"),
        ServiceType::Headless => return Standing::Nothing("a headless Service has no address of its own"),
        ServiceType::ClusterIp | ServiceType::NodePort | ServiceType::LoadBalancer => {}
    }
    let spec = service.spec.as_ref();
    match spec.and_then(|spec| spec.cluster_ip.as_deref()).filter(|address| !address.is_empty()) {
        // clusterIPs holds both families where there are two.
        Some(address) => Standing::Stands(
            spec.and_then(|spec| spec.cluster_ips.as_ref())
                .filter(|addresses| !addresses.is_empty())
                .map_or_else(|| address.to_owned(), |addresses| addresses.join(", ")),
        ),
        None => Standing::Waiting("the API server to allocate spec.clusterIP"),
    }
}
