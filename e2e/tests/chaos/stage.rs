//! What both clouds' trials share: one API server.
//!
//! Owns: starting it with the first trial that runs. Leaves to others: all objects in it.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options},
    portico::Parts,
    session::Inside,
};
use serde_json::json;
use tokio::sync::OnceCell;

/// A place for a cluster.
#[derive(Clone)]
pub(crate) struct Stage<P> {
    place: Option<P>,
    cluster: Arc<OnceCell<Result<Arc<Cluster>, String>>>,
}

impl Stage<Inside> {
    pub(crate) fn set(place: Option<Inside>) -> Self {
        Self { place, cluster: Arc::new(OnceCell::new()) }
    }

    /// The control plane, without nodes, and without Portico: the operators are processes that can be killed.
    pub(crate) async fn cluster(&self) -> anyhow::Result<Arc<Cluster>> {
        let inside = self.place.as_ref().context("outside of a sandbox no chaos can run")?;
        let portico = Parts { operator: None, nodeproxy: false, values: json!({}) };
        let options = Options { nodes: 0, portico, ..Options::default() };
        let start = || async {
            let started = Box::pin(Cluster::start(&inside.home, &options, &Account::quiet())).await;
            started.map(Arc::new).map_err(|error| format!("{error:#}"))
        };
        let started = self.cluster.get_or_init(start).await.clone();
        started.map_err(|error| anyhow!("the API server did not start: {error}"))
    }
}
