//! A cluster of this suite without Portico, with a client pod on each node, and portico-lb beside it.

use std::ops::Deref;

use portico_e2e::{
    account::Account,
    cluster::{Cluster, Options},
    scenario::{Setup, SharedCluster},
    session::Inside,
};

use super::super::images;

/// The cluster that releases are installed to.
pub(crate) struct InstallSetup(SharedCluster);

impl Deref for InstallSetup {
    type Target = SharedCluster;

    fn deref(&self) -> &SharedCluster {
        &self.0
    }
}

impl Setup for InstallSetup {
    const SUITE: &'static str = "install";
    const PARALLEL: usize = 1;

    async fn start(inside: &Inside) -> anyhow::Result<Self> {
        let options = Options { bare: true, images: images(), ..Options::default() };
        let cluster = Box::pin(Cluster::start(&inside.home, &options, &Account::new())).await?;
        let shared = SharedCluster::new(cluster, usize::MAX);
        shared.add_clients().await?;
        Ok(Self(shared))
    }

    async fn evidence(&self) -> Vec<(String, anyhow::Result<String>)> {
        let releases = self.cluster.kubectl(&["-n", "portico-system", "get", "all", "-o", "wide"]).await;
        vec![("Portico's namespace".to_owned(), releases)]
    }
}
