//! The desired state that a plan is made for.

use crate::model::{LoadBalancer, Owner};

/// The desired state of one Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired<'a> {
    /// This load balancer.
    Present(&'a LoadBalancer),
    /// No load balancer.
    Absent(&'a Owner),
}

impl<'a> Desired<'a> {
    /// The Service, whether its load balancer is to exist or not.
    pub fn owner(self) -> &'a Owner {
        match self {
            Self::Present(load_balancer) => &load_balancer.owner,
            Self::Absent(owner) => owner,
        }
    }
}
