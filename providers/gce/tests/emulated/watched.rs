//! A cloud that remembers what a crash of its caller would leave behind, before and after every single call.
//!
//! Owns: the states between calls. Leaves to others: what a restart makes of them (`crash`).
//! Invariant: it changes nothing about a call. A process that dies leaves what the cloud holds and nothing else, so a
//! state stands for each point at which it was seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use portico_provider_gce::SdkCloud;
use portico_provider_gce::cloud::{Cloud, CloudError, CloudErrorKind, Found, Operation, OperationFilter};
use portico_provider_gce::resource::{Endpoint, Id, Kind, Resource, Seen};

/// Asks the emulator to keep its state, and answers with a digest of it.
pub(crate) type Keep = Box<dyn Fn() -> String + Send + Sync>;

/// One point at which a process can die.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// `before insert 3`.
    pub(crate) at: String,
    /// The state that it leaves.
    pub(crate) state: String,
}

#[derive(Clone)]
pub(crate) struct Watched {
    cloud: Arc<SdkCloud>,
    keep: Option<Arc<Keep>>,
    points: Arc<Mutex<Vec<Point>>>,
    /// How many reads are still answered; `None`: all.
    reads: Option<Arc<AtomicUsize>>,
}

impl Watched {
    /// Remembers nothing.
    pub(crate) fn new(cloud: Arc<SdkCloud>) -> Self {
        Self { cloud, keep: None, points: Arc::default(), reads: None }
    }

    /// Remembers all.
    pub(crate) fn keeping(cloud: Arc<SdkCloud>, keep: Keep) -> Self {
        Self { cloud, keep: Some(Arc::new(keep)), points: Arc::default(), reads: None }
    }

    /// Answers so many reads, and then one no more; the counter is left at `usize::MAX` when that one was asked for.
    pub(crate) fn failing_after(cloud: Arc<SdkCloud>, reads: Arc<AtomicUsize>) -> Self {
        Self { reads: Some(reads), ..Self::new(cloud) }
    }

    fn answers(&self) -> Result<(), CloudError> {
        let Some(reads) = &self.reads else { return Ok(()) };
        if reads.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(CloudError::new(CloudErrorKind::Unavailable, "this read fails"))
    }

    /// Two for each call so far.
    pub(crate) fn points(&self) -> Vec<Point> {
        self.points.lock().unwrap().clone()
    }

    async fn call<T>(&self, name: &str, call: impl Future<Output = T> + Send) -> T {
        let Some(keep) = &self.keep else { return call.await };
        self.points.lock().unwrap().push(Point { at: format!("before {name}"), state: keep() });
        let answer = call.await;
        self.points.lock().unwrap().push(Point { at: format!("after {name}"), state: keep() });
        answer
    }
}

impl Cloud for Watched {
    async fn list(&self, kind: Kind, names: &str) -> Result<Vec<Found>, CloudError> {
        self.answers()?;
        self.call("list", self.cloud.list(kind, names)).await
    }

    async fn get(&self, id: &Id) -> Result<Option<Found>, CloudError> {
        self.answers()?;
        Box::pin(self.call("get", self.cloud.get(id))).await
    }

    async fn insert(&self, resource: &Resource, description: &str) -> Result<Operation, CloudError> {
        Box::pin(self.call("insert", self.cloud.insert(resource, description))).await
    }

    async fn patch(&self, resource: &Resource) -> Result<Operation, CloudError> {
        Box::pin(self.call("patch", self.cloud.patch(resource))).await
    }

    async fn delete(&self, id: &Id) -> Result<Operation, CloudError> {
        Box::pin(self.call("delete", self.cloud.delete(id))).await
    }

    async fn endpoints(&self, group: &Id) -> Result<BTreeMap<Endpoint, Seen>, CloudError> {
        self.answers()?;
        self.call("list endpoints", self.cloud.endpoints(group)).await
    }

    async fn health(&self, service: &str, group: &Id) -> Result<BTreeMap<String, Seen>, CloudError> {
        self.answers()?;
        self.call("get health", self.cloud.health(service, group)).await
    }

    async fn attach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        self.call("attach", self.cloud.attach(group, endpoints)).await
    }

    async fn detach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        self.call("detach", self.cloud.detach(group, endpoints)).await
    }

    async fn operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>, CloudError> {
        self.answers()?;
        self.call("list operations", self.cloud.operations(filter)).await
    }

    async fn operation(&self, accepted: &Operation) -> Result<Option<Operation>, CloudError> {
        self.answers()?;
        self.call("get operation", self.cloud.operation(accepted)).await
    }
}
