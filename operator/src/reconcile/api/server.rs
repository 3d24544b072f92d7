//! The cluster behind a real API server.
//!
//! Owns: the requests. Leaves to others: when.
//! Invariant: no write leaves once the fence is closed.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, header};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::{Cluster, ClusterError};
use crate::cache::class_parameters::{LoadBalancerClassParameters, ParametersCondition};
use crate::cache::service::{self, FIELD_MANAGER, FINALIZER, HELD_BY, ServiceKey};
use crate::process::fence::Fence;
use crate::reconcile::events::{Notice, Reporter};
use crate::reconcile::status::{Basis, StatusPatch};

/// The field manager of the annotations that name a load balancer's parts.
const RESOURCES_MANAGER: &str = "portico-operator-resources";

/// The name of this operator in API servers' audit logs.
const USER_AGENT: &str = concat!("portico-operator/", env!("CARGO_PKG_VERSION"));

/// A client by the pod's service account, or the kubeconfig.
pub(crate) async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    config.headers.push((header::USER_AGENT, HeaderValue::from_static(USER_AGENT)));
    Ok(Client::try_from(config)?)
}

/// The field manager of the condition that says whom a Service waits for.
const WAITING_MANAGER: &str = "portico-operator-waiting";

/// An API server.
#[derive(Clone)]
pub(crate) struct ApiServer {
    client: Client,
    fence: Fence,
    reporter: Reporter,
}

impl ApiServer {
    /// Writes go through `client` while `fence` is open, Events through `reporter`.
    pub(crate) fn new(client: Client, fence: Fence, reporter: Reporter) -> Self {
        Self { client, fence, reporter }
    }

    fn api(&self, service: &Service) -> (Api<Service>, ServiceKey) {
        let key = ServiceKey::of(service);
        (Api::namespaced(self.client.clone(), &key.namespace), key)
    }

    fn check(&self, operation: &'static str) -> Result<(), ClusterError> {
        if self.fence.is_open() { Ok(()) } else { Err(ClusterError::NotLeading { operation }) }
    }
}

impl Cluster for ApiServer {
    async fn set_finalizer(&self, seen: &Service, class: Option<&str>) -> Result<Service, ClusterError> {
        let operation = if class.is_some() { "add finalizer" } else { "remove finalizer" };
        self.check(operation)?;
        let (api, ServiceKey { namespace: _, name }) = self.api(seen);
        let patch = Patch::Merge(finalizer_patch(seen, class));
        let manager = class.map_or_else(|| FIELD_MANAGER.to_owned(), service::manager);
        api.patch(&name, &managed_by(&manager), &patch).await.map_err(|error| failed(operation, error))
    }

    async fn apply_status(
        &self,
        seen: &Service,
        status: &StatusPatch,
        basis: Basis,
    ) -> Result<Service, ClusterError> {
        let operation = "apply status";
        self.check(operation)?;
        let (api, ServiceKey { namespace: _, name }) = self.api(seen);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(status_patch(seen, status, basis));
        api.patch_status(&name, &params, &patch).await.map_err(|error| failed(operation, error))
    }

    async fn annotate(
        &self,
        seen: &Service,
        annotations: &BTreeMap<&'static str, Option<String>>,
    ) -> Result<Service, ClusterError> {
        let operation = "annotate";
        self.check(operation)?;
        let (api, ServiceKey { namespace: _, name }) = self.api(seen);
        // The UID makes a Service of the same name, made meanwhile, a conflict.
        let patch = json!({ "metadata": { "uid": seen.metadata.uid, "annotations": annotations } });
        let params = managed_by(RESOURCES_MANAGER);
        api.patch(&name, &params, &Patch::Merge(patch)).await.map_err(|error| failed(operation, error))
    }

    async fn mark_waiting(
        &self,
        seen: &Service,
        condition: Option<&Condition>,
    ) -> Result<Service, ClusterError> {
        let operation = "apply waiting condition";
        self.check(operation)?;
        let (api, ServiceKey { namespace: _, name }) = self.api(seen);
        let params = PatchParams::apply(WAITING_MANAGER).force();
        let status =
            StatusPatch { ingress: Vec::new(), conditions: condition.cloned().into_iter().collect() };
        let patch = Patch::Apply(status_patch(seen, &status, Basis::Provider));
        api.patch_status(&name, &params, &patch).await.map_err(|error| failed(operation, error))
    }

    async fn service(&self, key: &ServiceKey) -> Result<Option<Service>, ClusterError> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        api.get_opt(&key.name).await.map_err(|error| failed("get Service", error))
    }

    async fn report_parameters(
        &self,
        seen: &LoadBalancerClassParameters,
        condition: &ParametersCondition,
    ) -> Result<(), ClusterError> {
        let operation = "apply class parameters' status";
        self.check(operation)?;
        let api: Api<LoadBalancerClassParameters> = Api::all(self.client.clone());
        let name = seen.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Apply(json!({
            "apiVersion": "portico.dev/v1alpha1",
            "kind": "LoadBalancerClassParameters",
            "metadata": { "name": name, "uid": seen.metadata.uid },
            "status": { "conditions": [condition] },
        }));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(name, &params, &patch).await.map_err(|error| failed(operation, error))?;
        Ok(())
    }

    fn report_event(&self, about: &Service, notice: Notice) {
        if self.fence.is_open() {
            self.reporter.report(service::reference(about), notice);
        }
    }
}

/// A patch by a field manager of ours.
fn managed_by(manager: &str) -> PatchParams {
    PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() }
}

/// A merge patch replaces the whole list, so it is bound to the version that the list was read from.
fn finalizer_patch(seen: &Service, class: Option<&str>) -> Value {
    let others = seen.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != FINALIZER);
    let mut finalizers: Vec<&str> = others.map(String::as_str).collect();
    if class.is_some() {
        finalizers.push(FINALIZER);
    }
    json!({ "metadata": {
        "resourceVersion": seen.metadata.resource_version,
        "finalizers": finalizers,
        "annotations": { HELD_BY: class },
    } })
}

/// The UID makes a Service of the same name, made meanwhile, a conflict.
fn status_patch(seen: &Service, StatusPatch { ingress, conditions }: &StatusPatch, basis: Basis) -> Value {
    let mut status = serde_json::Map::new();
    if !ingress.is_empty() {
        status.insert("loadBalancer".to_owned(), json!({ "ingress": ingress }));
    }
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), json!(conditions));
    }
    let ObjectMeta { name, namespace, uid, resource_version, .. } = &seen.metadata;
    let mut metadata = json!({ "name": name, "namespace": namespace, "uid": uid });
    if basis == Basis::Seen {
        metadata["resourceVersion"] = json!(resource_version);
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "status": status })
}

fn failed(operation: &'static str, error: kube::Error) -> ClusterError {
    match &error {
        kube::Error::Api(status) if status.code == 404 => ClusterError::Gone { operation },
        kube::Error::Api(status) if status.code == 409 => ClusterError::Conflict { operation },
        _ => ClusterError::Failed { operation, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_service;

    #[test]
    fn the_finalizer_patch_keeps_others_and_is_bound_to_what_was_seen() {
        let mut seen = mk_service("web");
        seen.metadata.resource_version = Some("7".to_owned());
        seen.metadata.finalizers = Some(vec!["other/one".to_owned(), FINALIZER.to_owned()]);
        let removed = finalizer_patch(&seen, None);
        assert_eq!(removed["metadata"]["resourceVersion"], "7");
        assert_eq!(removed["metadata"]["finalizers"], json!(["other/one"]));
        assert_eq!(removed["metadata"]["annotations"], json!({ HELD_BY: null }));
        let added = finalizer_patch(&seen, Some("portico.dev/local"));
        assert_eq!(added["metadata"]["finalizers"], json!(["other/one", FINALIZER]));
        assert_eq!(added["metadata"]["annotations"], json!({ HELD_BY: "portico.dev/local" }));
    }

    #[test]
    fn an_empty_status_patch_gives_up_all_that_is_ours_of_what_was_seen() {
        let patch = |basis| status_patch(&mk_service("web"), &StatusPatch::default(), basis);
        let empty = patch(Basis::Seen);
        assert_eq!(empty["status"], json!({}));
        assert!(empty["metadata"]["uid"].is_string());
        assert_eq!(empty["metadata"]["resourceVersion"], "1");
        assert!(patch(Basis::Provider)["metadata"].get("resourceVersion").is_none());
    }
}
