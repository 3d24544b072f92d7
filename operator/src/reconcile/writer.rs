//! Writes to a Service: its finalizer, status, annotations and Events.
//!
//! Owns: [`ServiceWriter`]; no write where the Service shows it already, and the cache renewed by each answer. Leaves to
//! others: what to write (`status`, the provider), the requests (`api`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;

use super::annotations;
use super::api::{Cluster, ClusterError};
use super::events::{Notice, Severity};
use super::status::{self, Basis, Situation, StatusPatch};
use crate::cache::service::{self, ClassRule};
use crate::cache::store::Cache;

/// The writer of Services.
pub(crate) struct ServiceWriter<C> {
    api: C,
    cache: Arc<Cache>,
}

impl<C: Cluster> ServiceWriter<C> {
    pub(crate) fn new(api: C, cache: Arc<Cache>) -> Self {
        Self { api, cache }
    }

    /// For reads past the cache, and for what is no Service.
    pub(crate) fn api(&self) -> &C {
        &self.api
    }

    /// Writes the status and its Events.
    pub(super) async fn status(&self, situation: Situation<'_>) -> Result<(), ClusterError> {
        let service = situation.service;
        let before = StatusPatch::shown(service);
        let status = situation.status(&before.conditions, Timestamp::now());
        if before == status {
            return Ok(());
        }
        self.cache.renew(self.api.apply_status(service, &status, situation.basis()).await?);
        for notice in status::notices(&before.conditions, &status.conditions) {
            self.api.report_event(service, notice);
        }
        Ok(())
    }

    /// Removes all that is ours from the status of a Service that never had a load balancer.
    pub(super) async fn clear_status(&self, service: &Service) -> Result<(), ClusterError> {
        self.cache.renew(self.api.apply_status(service, &StatusPatch::default(), Basis::Seen).await?);
        Ok(())
    }

    /// Writes once whom the Service waits for, beside the rest of the status: that belongs to the other controller.
    pub(super) async fn waits_for(
        &self,
        service: &Service,
        reason: &str,
        note: String,
    ) -> Result<(), ClusterError> {
        let wanted = status::waiting_for_release(service, reason, note.clone(), Timestamp::now());
        let said = service::waits_for_release(service)
            .is_some_and(|said| (&said.reason, &said.message) == (&wanted.reason, &wanted.message));
        if !said {
            self.cache.renew(self.api.mark_waiting(service, Some(&wanted)).await?);
            self.event(service, Severity::Warning, reason, "Provision", note);
        }
        Ok(())
    }

    /// Removes what [`Self::waits_for`] wrote.
    pub(super) async fn waits_no_longer(&self, service: &Service) -> Result<(), ClusterError> {
        if service::waits_for_release(service).is_some() {
            self.cache.renew(self.api.mark_waiting(service, None).await?);
        }
        Ok(())
    }

    /// Puts our finalizer on, with the class that it is of, and no other operator's beside it. `creates`: the provider
    /// creates something that needs a finalizer.
    pub(super) async fn hold(
        &self,
        service: &Service,
        classes: &ClassRule,
        creates: bool,
    ) -> Result<Service, ClusterError> {
        let mut held = service.clone();
        if classes.takes_over(service) {
            // The API server records us as the finalizer's writer only if it was removed first.
            held = self.api.set_finalizer(&held, None).await?;
        }
        if !creates {
            if classes.holds(&held) {
                held = self.api.set_finalizer(&held, None).await?;
            }
        } else if !classes.marks(&held) {
            held = self.api.set_finalizer(&held, Some(classes.class_of(service))).await?;
        }
        if service::waits_for_release(service).is_some() {
            held = self.api.mark_waiting(&held, None).await?;
        }
        self.cache.renew(held.clone());
        Ok(held)
    }

    /// Removes the status and the annotations of a load balancer that is deleted, then the finalizer. Answers `false`, and
    /// keeps the finalizer, if the Service wants a load balancer again. `annotations`: the provider's, each `None`.
    pub(super) async fn finish_release(
        &self,
        service: &Service,
        classes: &ClassRule,
        annotations: BTreeMap<&'static str, Option<String>>,
    ) -> Result<bool, ClusterError> {
        let mut newest = service.clone();
        if !service::is_deleting(service) {
            newest = self.api.apply_status(service, &StatusPatch::default(), Basis::Seen).await?;
            let missing = annotations::missing(&newest, annotations);
            if !missing.is_empty() {
                newest = self.api.annotate(&newest, &missing).await?;
            }
        }
        if classes.wants(&newest) {
            return Ok(false);
        }
        self.cache.renew(self.api.set_finalizer(&newest, None).await?);
        let note = "the load balancer and everything that belonged to it are deleted".to_owned();
        self.event(service, Severity::Normal, "Released", "Release", note);
        Ok(true)
    }

    /// Writes annotations that name the load balancer's parts.
    pub(super) async fn annotate(
        &self,
        service: &Service,
        wanted: BTreeMap<&'static str, Option<String>>,
    ) -> Result<(), ClusterError> {
        let missing = annotations::missing(service, wanted);
        if !missing.is_empty() {
            self.cache.renew(self.api.annotate(service, &missing).await?);
        }
        Ok(())
    }

    /// Reports an Event; never fails, never waits.
    pub(super) fn event(
        &self,
        about: &Service,
        severity: Severity,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let notice = Notice { severity, reason: reason.to_owned(), action: action.to_owned(), note };
        self.api.report_event(about, notice);
    }
}
