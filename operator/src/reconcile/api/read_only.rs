//! A cluster that is read and never written: `--read-only`, and the subcommands that only read.
//!
//! Owns: swallowing writes. Leaves to others: reads.
//! Invariant: no method here reaches a write of the cluster behind it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Cluster, ClusterError};
use crate::cache::class_parameters::{LoadBalancerClassParameters, ParametersCondition};
use crate::cache::service::ServiceKey;
use crate::reconcile::events::Notice;
use crate::reconcile::status::{Basis, StatusPatch};

/// The same cluster, without writes: each of them succeeds and changes nothing.
#[derive(Clone, Debug)]
pub(crate) struct ReadOnly<C>(pub(crate) C);

impl<C: Cluster> Cluster for ReadOnly<C> {
    async fn set_finalizer(&self, seen: &Service, _class: Option<&str>) -> Result<Service, ClusterError> {
        Ok(seen.clone())
    }

    async fn apply_status(
        &self,
        seen: &Service,
        _status: &StatusPatch,
        _basis: Basis,
    ) -> Result<Service, ClusterError> {
        Ok(seen.clone())
    }

    async fn annotate(
        &self,
        seen: &Service,
        _annotations: &BTreeMap<&'static str, Option<String>>,
    ) -> Result<Service, ClusterError> {
        Ok(seen.clone())
    }

    async fn mark_waiting(
        &self,
        seen: &Service,
        _condition: Option<&Condition>,
    ) -> Result<Service, ClusterError> {
        Ok(seen.clone())
    }

    async fn service(&self, key: &ServiceKey) -> Result<Option<Service>, ClusterError> {
        self.0.service(key).await
    }

    async fn report_parameters(
        &self,
        _seen: &LoadBalancerClassParameters,
        _condition: &ParametersCondition,
    ) -> Result<(), ClusterError> {
        Ok(())
    }

    fn report_event(&self, _about: &Service, _notice: Notice) {}
}
