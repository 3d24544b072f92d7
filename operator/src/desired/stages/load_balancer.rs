//! The third stage: whether there is a load balancer to provide, to release, or none of our business.
//!
//! Owns: that decision. Leaves to others: what the load balancer is (`desired`), making it (the provider).
//! Invariant: a load balancer that our finalizer holds is released before the finalizer is removed, whatever the Service has
//! become. A Service without our finalizer that does not ask for us is not touched.

use k8s_openapi::api::core::v1::Service;
use portico_provider::{LoadBalancer, Targets};

use crate::cache::service::{self, ClassRule, ServiceType};
use crate::desired::options;

pub(super) const NAME: &str = "load_balancer";

/// The role of this stage for a Service.
pub(super) enum Role {
    /// No load balancer, for this reason.
    None(&'static str),
    /// There shall be one.
    Provide,
    /// There shall be one, when the operator of this class has released its own.
    Yield(String),
    /// There shall be one, if its author says so: another controller has one, as this shows.
    Leave(String),
    /// There may be one, and shall not be, because.
    Release(&'static str),
}

/// `exists`: something of ours is behind it, as far as is known.
pub(super) fn role(service: &Service, classes: &ClassRule, exists: bool) -> Role {
    let held = classes.holds(service);
    let deleting = service::is_deleting(service);
    let is_load_balancer = ServiceType::of(service) == ServiceType::LoadBalancer;
    match (held, classes.owns(service)) {
        (true, _) if deleting => Role::Release("the Service is being deleted"),
        (false, false) if deleting => {
            Role::None("the Service is being deleted, and nothing of ours holds it")
        }
        (false, true) if deleting && !service::has_finalizer(service) => {
            Role::None("the Service is being deleted, and nothing of ours holds it")
        }
        // Two load balancers of one Service would have one status and one finalizer between them.
        (_, true) => match classes.held_by_another(service) {
            Some(class) => Role::Yield(class.to_owned()),
            None => match service::served_by_another(service) {
                Some(shown) if !exists && !options::takes_over(service) => Role::Leave(shown),
                _ => Role::Provide,
            },
        },
        (true, false) if is_load_balancer => Role::Release("spec.loadBalancerClass is no longer ours"),
        (true, false) => Role::Release("spec.type is no longer LoadBalancer"),
        (false, false) if is_load_balancer => Role::None("spec.loadBalancerClass is another controller's"),
        (false, false) => Role::None("spec.type is not LoadBalancer"),
    }
}

pub(super) fn targets_pods(load_balancer: &LoadBalancer) -> bool {
    matches!(load_balancer.targets, Targets::Pods(_))
}

/// The wanted load balancer, in a line.
pub(super) fn summary(load_balancer: &LoadBalancer) -> String {
    let listeners: Vec<String> = load_balancer.listeners.iter().map(|it| it.key().to_string()).collect();
    format!("wanted on {}, to {} targets", listeners.join(", "), load_balancer.targets.len())
}
