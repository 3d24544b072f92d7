//! Where a Lease is kept.
//!
//! Owns: [`LeaseStore`], and the one in an API server. Leaves to others: elections.
//! Invariant: a write is bound to the version it was decided on; of two candidates one gets a conflict.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

use super::Record;

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
    api: Api<Lease>,
    namespace: String,
    name: String,
}

impl ApiLease {
    /// The Lease `namespace/name`.
    pub(crate) fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl LeaseStore for ApiLease {
    async fn read(&self) -> Result<Option<Stored>, LeaseError> {
        let read = Instant::now();
        let lease = self.api.get_opt(&self.name).await.map_err(|error| failed("get Lease", &error))?;
        Ok(lease.map(|lease| stored(lease, read)))
    }

    async fn write(&self, record: Record, version: Option<String>) -> Result<Stored, LeaseError> {
        let read = Instant::now();
        let fresh = version.is_none();
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            resource_version: version,
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, spec: Some(spec(record)) };
        let params = PostParams::default();
        let written = if fresh {
            self.api.create(&params, &lease).await.map_err(|error| failed("create Lease", &error))?
        } else {
            self.api
                .replace(&self.name, &params, &lease)
                .await
                .map_err(|error| failed("update Lease", &error))?
        };
        Ok(stored(written, read))
    }
}

fn failed(operation: &'static str, error: &kube::Error) -> LeaseError {
    LeaseError { operation, message: crate::operation::chain(error) }
}

fn stored(lease: Lease, read: Instant) -> Stored {
    let spec = lease.spec.unwrap_or_default();
    let seconds =
        spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
    let record = Record {
        holder: spec.holder_identity,
        duration: Duration::from_secs(seconds),
        acquired: spec.acquire_time.map(|MicroTime(time)| time),
        renewed: spec.renew_time.map(|MicroTime(time)| time),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    Stored { record, version: lease.metadata.resource_version.unwrap_or_default(), read }
}

fn spec(Record { holder, duration, acquired, renewed, transitions }: Record) -> LeaseSpec {
    // Others wait in whole seconds; rounding up keeps them waiting long enough.
    let seconds = duration.as_millis().div_ceil(1_000).max(1);
    LeaseSpec {
        holder_identity: holder,
        lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
        acquire_time: acquired.map(MicroTime),
        renew_time: renewed.map(MicroTime),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}
