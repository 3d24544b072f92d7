//! The subcommands: what they read, and how they end.
//!
//! ```text
//! run ─▶ run.rs            plan, gc ─▶ one listing of the cluster ─▶ an Operator whose fence never opens ─▶ stdout
//!                          status ──▶ one listing of Services ─▶ stdout
//! ```
//! Owns: exit codes, printing, and reading the cluster once. Leaves to others: every decision (`reconcile` and below).
//! Invariants: standard output holds the answer and nothing else; errors and logs are on standard error. Exit code 0 means that
//! there is nothing to do, 3 that there is, 1 that it failed. Wrong flags end with 2 (clap).

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use portico_provider::{ClusterUid, LoadBalancerProvider};
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::args::{Command, Output, Reach};
use crate::cache::class_parameters::LoadBalancerClassParameters;
use crate::cache::pods::PodState;
use crate::cache::store::{Cache, Change, Followed};
use crate::cache::watch::Router;
use crate::metrics::Metrics;
use crate::process::fence::{Fence, FenceKeeper, fence};
use crate::provision::Policy;
use crate::provision::trigger::Drift;
use crate::reconcile::Reconciler;
use crate::reconcile::api::{ApiServer, ReadOnly};
use crate::reconcile::events;
use crate::reconcile::queue::Queue;
use crate::reconcile::settings::{Parts, Scope, Settings};

mod gc;
mod plan;
mod status;

/// There is something to do.
const TO_DO: u8 = 3;

/// A reconciler that writes nothing.
type ReadOnlyReconciler<P> = Reconciler<P, ReadOnly<ApiServer>>;

/// Does what the command line says.
pub async fn main(command: Command) -> anyhow::Result<ExitCode> {
    // Boxed: with a provider's futures in them they are large.
    match command {
        Command::Run(args) => Box::pin(crate::process::run::run(*args)).await.map(|()| ExitCode::SUCCESS),
        Command::Plan(args) => Box::pin(plan::plan(*args)).await,
        Command::Gc(args) => Box::pin(gc::gc(*args)).await,
        Command::Status(args) => status::status(args).await,
    }
}

fn code(to_do: bool) -> ExitCode {
    if to_do { ExitCode::from(TO_DO) } else { ExitCode::SUCCESS }
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("standard output")
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// The cluster, by KUBECONFIG or from inside.
struct Reached {
    client: Client,
    cluster: ClusterUid,
    settings: Settings,
}

impl Reached {
    async fn of(reach: &Reach) -> anyhow::Result<Self> {
        let Reach { running: _, classes, provider, nodes } = reach;
        let (groups, endpoints) = (classes.groups(), classes.endpoints());
        let classes = classes.clone().rule(provider.provider)?;
        let client = crate::reconcile::api::client().await.context("no way to the API server")?;
        let cluster = crate::process::run::cluster_uid(&client).await?;
        let policy =
            Policy { resync: Duration::from_mins(10), read_only: true, drift: Drift::Report, concurrency: 1 };
        let scope = Scope { classes, cluster: cluster.clone(), groups, endpoints };
        let settings = Settings { scope, policy, nodes: nodes.limits() };
        Ok(Self { client, cluster, settings })
    }

    /// An operator that knows the cluster as it is now, and writes nothing to it.
    async fn reconciler<P: LoadBalancerProvider>(
        &self,
        provider: P,
    ) -> anyhow::Result<(Arc<ReadOnlyReconciler<P>>, FenceKeeper, Fence)> {
        let metrics = Metrics::register(&mut Registry::default());
        let (reporter, _nobody_sends) = events::reporter("portico-operator", &metrics);
        let (keeper, fence) = fence();
        let cache = self.cache(self.settings.scope.follows_pods(&provider.capabilities())).await?;
        let api = ReadOnly(ApiServer::new(self.client.clone(), fence.clone(), reporter));
        let queue = Arc::new(Queue::default());
        let parts = Parts { provider, api, cache, queue, fence: fence.clone(), metrics };
        Ok((Reconciler::new(parts, self.settings.clone()), keeper, fence))
    }

    /// The cluster as it is now.
    async fn cache(&self, pods: bool) -> anyhow::Result<Arc<Cache>> {
        let cache = Arc::new(Cache::default());
        let router = Router::new(Arc::clone(&cache), Arc::new(Queue::default()));
        list::<Service>(&self.client, &router).await?;
        list::<Node>(&self.client, &router).await?;
        list::<EndpointSlice>(&self.client, &router).await?;
        list::<LoadBalancerClassParameters>(&self.client, &router).await?;
        if pods {
            list::<PodState>(&self.client, &router).await?;
        }
        Ok(cache)
    }
}

/// Reads all objects of one kind into a cache.
async fn list<K>(client: &Client, router: &Router) -> anyhow::Result<()>
where
    K: Followed + kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let wanted = ListParams { field_selector: K::FIELDS.map(str::to_owned), ..ListParams::default() };
    match Api::<K>::all(client.clone()).list(&wanted).await {
        Ok(objects) => {
            router.take(Change::<K>::Begin, Duration::ZERO);
            for mut object in objects {
                object.trim();
                router.take(Change::Stage(object), Duration::ZERO);
            }
            router.take(Change::<K>::Finish, Duration::ZERO);
        }
        Err(kube::Error::Api(status)) if status.code == 404 => router.absent::<K>(),
        Err(error) => return Err(error).with_context(|| format!("objects of kind {kind} cannot be listed")),
    }
    Ok(())
}

/// Lines of equal columns, each as wide as it has to be.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Prints one document, or what people read.
fn answer<T: Serialize>(output: Output, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match output {
        Output::Json => print_json(value),
        Output::Text => print(&text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["SERVICE", "STATE"]), row(&["default/wëb", "as wanted"]), row(&["a/b", ""])];
        assert_eq!(table(&rows), "SERVICE       STATE\ndefault/wëb   as wanted\na/b");
    }
}
