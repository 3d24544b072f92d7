//! The surroundings that all scenarios of one suite share. Each suite implements [`Setup`] for its own.

use std::ops::Deref;

use super::SharedCluster;
use crate::session::Inside;

/// A suite's surroundings: its cluster, and whatever the suite has beside it.
pub trait Setup: Deref<Target = SharedCluster> + Send + Sync + Sized + 'static {
    /// Name of the suite: the first part of its trials' names, and its folder under `target/e2e`.
    const SUITE: &'static str;

    /// How many scenarios run at once, unless `--test-threads` says otherwise.
    const PARALLEL: usize;

    /// Starts everything, and returns when all of it works.
    fn start(inside: &Inside) -> impl Future<Output = anyhow::Result<Self>>;

    /// State of the parts beside the cluster, as headings and texts, to be kept when a scenario fails.
    fn evidence(&self) -> impl Future<Output = Vec<(String, anyhow::Result<String>)>>;
}
