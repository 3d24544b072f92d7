//! The scenario library: what the suites of `tests/scenarios` share.
//!
//! ```text
//! cargo test -p portico-e2e --test scenarios [FILTER]
//!   └─ Suite (cluster, clouds, chaos: one after the other, each in a sandbox of its own)
//!        └─ Setup: the cluster and clouds of the suite, started by the first scenario that runs
//!             └─ Fixture: the Kubernetes namespace of one scenario, its objects and its clients
//! ```
//! Owns: how suites and scenarios run, the shared cluster, objects, traffic, and what is kept of a failure. Leaves to
//! others: the scenarios themselves, and what a suite has besides its cluster (`tests/scenarios`).
//! Invariant: a scenario whose surroundings are missing fails, unless `PORTICO_SKIP` names them.

mod evidence;
mod fixture;
mod harness;
mod missing;
pub mod objects;
pub mod observe;
pub mod operators;
pub mod processes;
mod setup;
mod shared_cluster;
mod suite;
pub mod traffic;

pub use fixture::Fixture;
pub use harness::Scenario;
pub use missing::Missing;
pub use setup::Setup;
pub use shared_cluster::{SOON, SharedCluster};
pub use suite::{Suite, main};
