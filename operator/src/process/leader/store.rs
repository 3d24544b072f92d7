//! The store of a Lease.
//!
//! Owns: [`LeaseStore`], and the one in an API server. Leaves to others: elections.
//! Invariants: a write is bound to the version it was decided on; of two candidates one gets a conflict. Of a Lease only `spec` is
//! ours, and of that only what elections need: labels, annotations and the rest stay as others have written them.

use std::error::Error;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, request};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Record;
use crate::cache::service::FIELD_MANAGER;

/// A Lease as read, its version, and when reading began.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) record: Record,
    pub(crate) version: String,
    pub(crate) read: Instant,
}

/// Reads and writes one Lease.
pub(crate) trait LeaseStore: Send + Sync + 'static {
    /// As it is; `None`: there is none.
    fn read(&self) -> impl Future<Output = Result<Option<Stored>, LeaseError>> + Send;
    /// Writes on top of `version`; `None`: there must be none yet.
    fn write(
        &self,
        record: Record,
        version: Option<String>,
    ) -> impl Future<Output = Result<Stored, LeaseError>> + Send;
}

/// The Lease could not be read or written. Elections go on either way, so nothing asks it for a retry.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}")]
pub(crate) struct LeaseError {
    pub(crate) operation: &'static str,
    pub(crate) message: String,
}

/// A Lease in an API server.
pub(crate) struct ApiLease {
    client: Client,
    path: String,
    name: String,
}

impl ApiLease {
    /// The Lease `namespace/name`.
    pub(crate) fn new(client: Client, namespace: &str, name: &str) -> Self {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        Self { client, path, name: name.to_owned() }
    }

    /// Whoever wrote a label meanwhile, a chart's upgrade for one, is no other candidate: only `spec` is compared.
    fn claim(&self, seen: &str, record: Record) -> Result<Request<Vec<u8>>, LeaseError> {
        const OPERATION: &str = "patch Lease";
        let seen: Value = serde_json::from_str(seen).map_err(|error| failed(OPERATION, &error))?;
        let mut claimed = seen.clone();
        for (field, value) in json!(spec(record)).as_object().into_iter().flatten() {
            claimed[field] = value.clone();
        }
        let patch = json!([
            { "op": "test", "path": "/spec", "value": seen },
            { "op": "replace", "path": "/spec", "value": claimed },
        ]);
        let uri = format!("{}/{}?fieldManager={FIELD_MANAGER}", self.path, self.name);
        request(OPERATION, Request::patch(uri).header(CONTENT_TYPE, "application/json-patch+json"), &patch)
    }

    fn create(&self, record: Record) -> Result<Request<Vec<u8>>, LeaseError> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec(record)) };
        let uri = format!("{}?fieldManager={FIELD_MANAGER}", self.path);
        request("create Lease", Request::post(uri).header(CONTENT_TYPE, "application/json"), &json!(lease))
    }

    async fn send(
        &self,
        operation: &'static str,
        request: Request<Vec<u8>>,
    ) -> Result<Option<Stored>, LeaseError> {
        let read = Instant::now();
        match self.client.request::<Value>(request).await {
            Ok(lease) => stored(&lease, read).map(Some).map_err(|error| failed(operation, &error)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(failed(operation, &error)),
        }
    }
}

impl LeaseStore for ApiLease {
    async fn read(&self) -> Result<Option<Stored>, LeaseError> {
        const OPERATION: &str = "get Lease";
        let request = Request::get(format!("{}/{}", self.path, self.name)).body(Vec::new());
        self.send(OPERATION, request.map_err(|error| failed(OPERATION, &error))?).await
    }

    async fn write(&self, record: Record, version: Option<String>) -> Result<Stored, LeaseError> {
        let (operation, request) = match &version {
            Some(seen) => ("patch Lease", self.claim(seen, record)?),
            None => ("create Lease", self.create(record)?),
        };
        let gone = || LeaseError { operation, message: "it, or its namespace, is gone".to_owned() };
        self.send(operation, request).await?.ok_or_else(gone)
    }
}

fn request(
    operation: &'static str,
    builder: request::Builder,
    body: &Value,
) -> Result<Request<Vec<u8>>, LeaseError> {
    builder.body(body.to_string().into_bytes()).map_err(|error| failed(operation, &error))
}

fn failed(operation: &'static str, error: &(dyn Error + 'static)) -> LeaseError {
    LeaseError { operation, message: portico_runtime::chain(error) }
}

/// The version is `spec` as the API server writes it.
fn stored(lease: &Value, read: Instant) -> serde_json::Result<Stored> {
    let written = lease.get("spec").cloned().unwrap_or_else(|| json!({}));
    let version = written.to_string();
    let spec: LeaseSpec = serde_json::from_value(written)?;
    let seconds =
        spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
    let record = Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(seconds),
        acquired: spec.acquire_time.map(|MicroTime(time)| time),
        renewed: spec.renew_time.map(|MicroTime(time)| time),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    Ok(Stored { record, version, read })
}

fn spec(Record { holder, duration, acquired, renewed, transitions }: Record) -> LeaseSpec {
    // Others wait in whole seconds; rounding up keeps them waiting long enough.
    let seconds = duration.as_millis().div_ceil(1_000).max(1);
    LeaseSpec {
        // As client-go writes that nobody holds it.
        holder_identity: Some(holder.unwrap_or_default()),
        lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
        acquire_time: acquired.map(MicroTime),
        renew_time: renewed.map(MicroTime),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_claim_is_bound_to_the_spec_that_was_seen_and_touches_nothing_else() {
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap()));
        let store = ApiLease::new(client.unwrap(), "portico", "operator");
        let lease = json!({
            "metadata": { "resourceVersion": "7", "labels": { "a": "b" } },
            "spec": { "holderIdentity": "other", "renewTime": "2026-11-30T19:00:00.123450Z", "strategy": "OldestEmulationVersion" },
        });
        let seen = stored(&lease, Instant::now()).unwrap();
        let mut relabelled = lease.clone();
        relabelled["metadata"] = json!({ "resourceVersion": "8" });
        assert_eq!(stored(&relabelled, Instant::now()).unwrap().version, seen.version);
        let record = Record { holder: None, duration: Duration::from_millis(1_500), ..Record::default() };
        let request = store.claim(&seen.version, record).unwrap();
        let patch: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(patch[0], json!({ "op": "test", "path": "/spec", "value": lease["spec"] }));
        assert_eq!(patch[1]["path"], "/spec");
        let spec = &patch[1]["value"];
        assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!(""), &json!(2)));
        assert_eq!(spec["strategy"], "OldestEmulationVersion", "others' fields stay");
        assert!(request.uri().query().unwrap().contains("fieldManager=portico-operator"));
    }
}
