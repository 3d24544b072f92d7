//! A cloud whose calls wait for leave, by class and priority.
//!
//! Owns: which limiter and priority each call has. Leaves to others: waiting and learning (`portico-limits`), the calls
//! and their time limit (the cloud within). Invariants: a wait is no part of a call's time; a listing is admitted as one
//! call, though it may take pages: Compute Engine gives 500 things a page.

use std::collections::BTreeMap;
use std::sync::Arc;

use portico_limits::{Limit, Limiter, Pace, Priority};

use super::{Cloud, CloudError, CloudErrorKind, Found, Operation, OperationFilter};
use crate::names;
use crate::resource::{Endpoint, Id, Kind, Resource, Seen};

/// 1,500 a minute for each of these, counted by the minute and for the whole project: begin with not more than a fifth of
/// a minute's at once. <https://cloud.google.com/compute/api-quota>
const QUOTA: Limit = Limit { burst: 300.0, rate: 25.0 };

/// A limiter for each class of calls, over a cloud.
#[derive(Debug)]
pub struct Limited<C> {
    cloud: C,
    reads: Arc<Limiter>,
    mutations: Arc<Limiter>,
    operations: Arc<Limiter>,
}

impl<C> Limited<C> {
    /// At so many times the documented limits.
    pub fn new(cloud: C, pace: Pace) -> Self {
        let limiter = |class| Arc::new(Limiter::new(class, pace.of(QUOTA)));
        Self {
            cloud,
            reads: limiter("reads"),
            mutations: limiter("mutations"),
            operations: limiter("operations"),
        }
    }

    /// All of them, for metrics.
    pub fn limiters(&self) -> Vec<Arc<Limiter>> {
        let Self { cloud: _, reads, mutations, operations } = self;
        [reads, mutations, operations].map(Arc::clone).into()
    }
}

fn is_throttled<T>(answer: &Result<T, CloudError>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind == CloudErrorKind::RateLimit)
}

/// Nobody waits for a listing of all that a cluster has.
fn priority_of(pattern: &str) -> Priority {
    if names::is_of_cluster(pattern) { Priority::Background } else { Priority::Provisioning }
}

impl<C: Cloud> Cloud for Limited<C> {
    async fn list(&self, kind: Kind, names: &str) -> Result<Vec<Found>, CloudError> {
        self.reads.call(priority_of(names), || self.cloud.list(kind, names), is_throttled).await
    }

    async fn get(&self, id: &Id) -> Result<Option<Found>, CloudError> {
        self.reads.call(Priority::Provisioning, || self.cloud.get(id), is_throttled).await
    }

    async fn insert(&self, resource: &Resource, description: &str) -> Result<Operation, CloudError> {
        let attempt = || self.cloud.insert(resource, description);
        self.mutations.call(Priority::Provisioning, attempt, is_throttled).await
    }

    async fn patch(&self, resource: &Resource) -> Result<Operation, CloudError> {
        self.mutations.call(Priority::Provisioning, || self.cloud.patch(resource), is_throttled).await
    }

    async fn delete(&self, id: &Id) -> Result<Operation, CloudError> {
        self.mutations.call(Priority::Provisioning, || self.cloud.delete(id), is_throttled).await
    }

    async fn endpoints(&self, group: &Id) -> Result<BTreeMap<Endpoint, Seen>, CloudError> {
        self.reads.call(Priority::Targets, || self.cloud.endpoints(group), is_throttled).await
    }

    async fn health(&self, service: &str, group: &Id) -> Result<BTreeMap<String, Seen>, CloudError> {
        self.reads.call(Priority::Background, || self.cloud.health(service, group), is_throttled).await
    }

    async fn attach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        self.mutations.call(Priority::Targets, || self.cloud.attach(group, endpoints), is_throttled).await
    }

    async fn detach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        self.mutations.call(Priority::Targets, || self.cloud.detach(group, endpoints), is_throttled).await
    }

    async fn operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>, CloudError> {
        let priority = match filter {
            OperationFilter::About(names) => priority_of(names),
            OperationFilter::Running => Priority::Background,
        };
        self.operations.call(priority, || self.cloud.operations(filter), is_throttled).await
    }

    async fn operation(&self, accepted: &Operation) -> Result<Option<Operation>, CloudError> {
        let attempt = || self.cloud.operation(accepted);
        self.operations.call(Priority::Provisioning, attempt, is_throttled).await
    }
}
