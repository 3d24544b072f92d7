//! The seam to the cluster: everything that this operator reads by name, and everything that it writes.
//!
//! Owns: [`Cluster`] and its errors. Leaves to others: watching (`watch`), deciding what to write.
//! Invariants: each write names the object's UID or resource version, so that it never reaches another Service of the same name.
//! A write of what is there already, or to what is gone, is not a failure worth a retry.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::cache::class_parameters::{LoadBalancerClassParameters, ParametersCondition};
use crate::cache::service::ServiceKey;
use crate::reconcile::events::Notice;
use crate::reconcile::status::{Basis, StatusPatch};

mod read_only;
mod server;

pub(crate) use read_only::ReadOnly;
pub(crate) use server::{ApiServer, client};

/// The reads by name and the writes of this operator.
pub(crate) trait Cluster: Send + Sync + 'static {
    /// Adds our finalizer with the class it is for, or removes both (`None`), and answers with the Service as it is then. Refused as [`ClusterError::Conflict`]
    /// if the Service is no longer as it was seen.
    fn set_finalizer(
        &self,
        seen: &Service,
        class: Option<&str>,
    ) -> impl Future<Output = Result<Service, ClusterError>> + Send;

    /// Writes all that we own of the status by server-side apply: fields of ours that are not given are removed. Answers
    /// with the Service as it is then.
    fn apply_status(
        &self,
        seen: &Service,
        status: &StatusPatch,
        basis: Basis,
    ) -> impl Future<Output = Result<Service, ClusterError>> + Send;

    /// Writes annotations, removes those that are `None`, and answers with the Service as it is then. No other is touched.
    fn annotate(
        &self,
        seen: &Service,
        annotations: &BTreeMap<&'static str, Option<String>>,
    ) -> impl Future<Output = Result<Service, ClusterError>> + Send;

    /// Writes the condition that it waits for another controller, or removes it (`None`), beside the rest of its status.
    fn mark_waiting(
        &self,
        seen: &Service,
        condition: Option<&Condition>,
    ) -> impl Future<Output = Result<Service, ClusterError>> + Send;

    /// A Service as it is now, past all caches; `None`: there is none of that name.
    fn service(&self, key: &ServiceKey)
    -> impl Future<Output = Result<Option<Service>, ClusterError>> + Send;

    /// Writes what became of an object of class parameters.
    fn report_parameters(
        &self,
        seen: &LoadBalancerClassParameters,
        condition: &ParametersCondition,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Reports an Event about a Service; never fails, never waits.
    fn report_event(&self, about: &Service, notice: Notice);
}

/// A write or read that failed. Display names the operation; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The object changed meanwhile; its next event brings it back.
    #[error("{operation}: it changed meanwhile")]
    Conflict { operation: &'static str },
    /// The object is gone.
    #[error("{operation}: it is gone")]
    Gone { operation: &'static str },
    /// This process does not lead.
    #[error("{operation}: this operator does not lead")]
    NotLeading { operation: &'static str },
    /// The API server said no, or nothing.
    #[error("{operation}")]
    Failed {
        operation: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
}

impl ClusterError {
    /// The reason, for logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "Conflict",
            Self::Gone { .. } => "Gone",
            Self::NotLeading { .. } => "NotLeading",
            Self::Failed { .. } => "ApiServer",
        }
    }

    /// Whether another reconcile can help: not when the Service is gone.
    pub(crate) fn retry(&self) -> bool {
        match self {
            Self::Gone { .. } => false,
            Self::Conflict { .. } | Self::NotLeading { .. } | Self::Failed { .. } => true,
        }
    }
}
