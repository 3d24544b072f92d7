//! The seam to Compute Engine: exactly the calls that are used, in our own types.
//!
//! Owns: [`Cloud`], [`Operation`]. Leaves to others: the SDK behind it ([`sdk`]), what an error means (`error`). Invariant: a call that changes something returns as soon as the
//! operation is accepted and never waits for its end. A failed operation is data here and an error one level up,
//! because the SDK's own `until_done` answers `Ok` for it.

mod error;
pub mod limited;
pub mod sdk;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use crate::resource::{Endpoint, Id, Kind, Resource, Seen};

pub use error::{CloudError, CloudErrorKind};

/// A resource and the description it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The resource as it is now.
    pub resource: Resource,
    /// The owner's mark is there.
    pub description: String,
    /// How many endpoints an endpoint group has; `None` for other kinds.
    pub members: Option<usize>,
    /// Of a backend service, the names of the forwarding rules that send to it.
    pub users: BTreeSet<String>,
}

/// A call that Compute Engine is still at work on, or that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Name of the operation, by which it is read again.
    pub name: String,
    /// `insert`, `delete`, `patch` …
    pub verb: String,
    /// The resource it is about.
    pub target: Id,
    /// When it was accepted, as the API writes it; sorts by time within a zone.
    pub started: String,
    /// How far it is.
    pub state: OperationState,
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// Not at its end.
    Running,
    /// At its end, and successful.
    Done,
    /// At its end, and failed.
    Failed(CloudError),
}

/// Which operations are listed. By one field: Compute Engine does not combine fields where one is a regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationFilter {
    /// Those on targets whose names match a regular expression.
    About(String),
    /// All of the project that have not ended.
    Running,
}

///
/// Lists are paged to the end. `get` answers `None` for what is absent; every other call answers `NotFound`.
pub trait Cloud: Send + Sync + 'static {
    /// All of a kind in this project and region whose names match a regular expression.
    fn list(&self, kind: Kind, names: &str) -> impl Future<Output = Result<Vec<Found>, CloudError>> + Send;
    /// One, if it exists.
    fn get(&self, id: &Id) -> impl Future<Output = Result<Option<Found>, CloudError>> + Send;
    /// Starts the creation of a resource.
    fn insert(
        &self,
        resource: &Resource,
        description: &str,
    ) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Changes one in place, unless it was changed by somebody else meanwhile (`Precondition`).
    fn patch(&self, resource: &Resource) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Starts the deletion of a resource.
    fn delete(&self, id: &Id) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// The endpoints of a group, with what their probes say.
    fn endpoints(
        &self,
        group: &Id,
    ) -> impl Future<Output = Result<BTreeMap<Endpoint, Seen>, CloudError>> + Send;
    /// The health of a group's nodes as its backend service sees it, by instance.
    fn health(
        &self,
        service: &str,
        group: &Id,
    ) -> impl Future<Output = Result<BTreeMap<String, Seen>, CloudError>> + Send;
    /// Adds endpoints to a group; one that is there already fails the operation.
    fn attach(
        &self,
        group: &Id,
        endpoints: &[Endpoint],
    ) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Removes endpoints of a group; one that is not there fails the operation.
    fn detach(
        &self,
        group: &Id,
        endpoints: &[Endpoint],
    ) -> impl Future<Output = Result<Operation, CloudError>> + Send;
    /// Operations on targets of this project, of any scope.
    fn operations(
        &self,
        filter: &OperationFilter,
    ) -> impl Future<Output = Result<Vec<Operation>, CloudError>> + Send;
    /// The state of an accepted operation; `None`: Compute Engine has forgotten it.
    fn operation(
        &self,
        accepted: &Operation,
    ) -> impl Future<Output = Result<Option<Operation>, CloudError>> + Send;
}
