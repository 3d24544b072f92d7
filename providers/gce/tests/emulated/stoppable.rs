//! A cloud whose caller can be stopped at any write: what a crash of the operator looks like from the cloud.
//!
//! Owns: counting writes, and failing every call from the stop on. Leaves to others: what survives it.
//! Invariant: before the stop it changes nothing about a call. Reads are not counted: a stop at a read is a stop before
//! the next write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portico_provider_gce::SdkCloud;
use portico_provider_gce::cloud::{Cloud, CloudError, CloudErrorKind, Found, Operation, OperationFilter};
use portico_provider_gce::resource::{Endpoint, Health, Id, Kind, Resource};

/// Where a caller ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    After,
}

#[derive(Debug, Default)]
struct State {
    writes: usize,
    stop: Option<(usize, Side)>,
    stopped: bool,
}

#[derive(Clone)]
pub(crate) struct Stoppable {
    cloud: Arc<SdkCloud>,
    state: Arc<Mutex<State>>,
}

impl Stoppable {
    pub(crate) fn new(cloud: Arc<SdkCloud>) -> Self {
        Self { cloud, state: Arc::default() }
    }

    /// Stops at the `at`th write, counted from 1.
    pub(crate) fn stopping(cloud: Arc<SdkCloud>, at: usize, side: Side) -> Self {
        let state = State { stop: Some((at, side)), ..State::default() };
        Self { cloud, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().unwrap().stopped
    }

    fn alive(&self) -> Result<(), CloudError> {
        let dead = || CloudError::new(CloudErrorKind::Unavailable, "the process was stopped");
        if self.is_stopped() { Err(dead()) } else { Ok(()) }
    }

    async fn write<T>(
        &self,
        call: impl Future<Output = Result<T, CloudError>> + Send,
    ) -> Result<T, CloudError> {
        let side = {
            let mut state = self.state.lock().unwrap();
            state.writes += 1;
            let side = state.stop.filter(|(at, _)| *at == state.writes).map(|(_, side)| side);
            state.stopped |= side == Some(Side::Before);
            side
        };
        self.alive()?;
        let answer = call.await;
        if side == Some(Side::After) {
            self.state.lock().unwrap().stopped = true;
        }
        self.alive()?;
        answer
    }
}

impl Cloud for Stoppable {
    async fn list(&self, kind: Kind, names: &str) -> Result<Vec<Found>, CloudError> {
        self.alive()?;
        self.cloud.list(kind, names).await
    }

    async fn get(&self, id: &Id) -> Result<Option<Found>, CloudError> {
        self.alive()?;
        self.cloud.get(id).await
    }

    async fn insert(&self, resource: &Resource, description: &str) -> Result<Operation, CloudError> {
        Box::pin(self.write(self.cloud.insert(resource, description))).await
    }

    async fn patch(&self, resource: &Resource) -> Result<Operation, CloudError> {
        Box::pin(self.write(self.cloud.patch(resource))).await
    }

    async fn delete(&self, id: &Id) -> Result<Operation, CloudError> {
        self.write(self.cloud.delete(id)).await
    }

    async fn endpoints(&self, group: &Id) -> Result<BTreeMap<Endpoint, Health>, CloudError> {
        self.alive()?;
        self.cloud.endpoints(group).await
    }

    async fn attach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        self.write(self.cloud.attach(group, endpoints)).await
    }

    async fn detach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        self.write(self.cloud.detach(group, endpoints)).await
    }

    async fn operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>, CloudError> {
        self.alive()?;
        self.cloud.operations(filter).await
    }
}
