//! The process: one named task per watch and worker, leader election before any work, and an orderly end.
//!
//! Owns: starting and stopping. Leaves to others: everything that is started.
//! Invariants: a task that dies ends the process; nothing is written before the lease is held; on SIGTERM work stops
//! first, then the lease is handed over, so that the next leader never meets this one.
//!
//! What it needs of the API server, and nothing more:
//! ```text
//! services                       get list watch patch      ours: the finalizer
//! services/status                patch                     addresses and conditions, by server-side apply
//! nodes                          list watch
//! endpointslices (discovery)     list watch
//! namespaces "kube-system"       get                       the cluster's UID
//! events (events.k8s.io)         create
//! leases (coordination), in its own namespace: create; get update on its own lease
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use backon::{ExponentialBuilder, Retryable};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use portico_provider::{ClusterUid, LoadBalancerProvider};
use portico_provider_aws::AwsProvider;
use portico_provider_bare_metal::BareMetalProvider;
use portico_provider_gce::GceProvider;
use portico_provider_local::LocalProvider;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::args::{Args, AwsArgs, Election, GceArgs, ProcessArgs, ProviderArgs, ProviderKind, WorkArgs};
use crate::cluster::ApiServer;
use crate::events;
use crate::fence::{Fence, FenceKeeper, fence};
use crate::leader::{self, store::ApiLease};
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::reconcile::{Operator, Parts, Settings};
use crate::tasks::Tasks;
use crate::watch::{ENDPOINTS_SETTLE, Router, follow};
use crate::world::World;

/// Runs until SIGTERM or SIGINT, or until something that must not end, ends.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { classes, provider, election, work, process } = args;
    let classes = classes.rule(provider.provider)?;
    let instance = election.instance();
    let election = election.election()?;
    let client = Client::try_default().await.context("no way to the API server")?;
    let cluster = cluster_uid(&client).await?;
    let WorkArgs { resync, .. } = work;
    let setup = Setup {
        client,
        election,
        instance,
        work,
        process,
        settings: Settings { classes, cluster: cluster.clone(), resync },
    };
    let ProviderArgs {
        provider,
        local_endpoint,
        local_token_file,
        bare_metal_publish_node_addresses: publish_node_addresses,
        aws,
        gce,
    } = provider;
    match provider {
        ProviderKind::BareMetal => {
            let config = portico_provider_bare_metal::Config { publish_node_addresses };
            setup.operate(BareMetalProvider::new(config)).await
        }
        ProviderKind::Local => {
            let endpoint = local_endpoint.context("--local-endpoint is missing")?;
            let file = local_token_file.context("--local-token-file is missing")?;
            let read = tokio::fs::read_to_string(&file).await;
            let token =
                read.with_context(|| format!("--local-token-file {} cannot be read", file.display()))?;
            let config = portico_provider_local::Config { endpoint, token: token.trim().to_owned(), cluster };
            setup.operate(LocalProvider::new(config)?).await
        }
        ProviderKind::Aws => {
            let provider = aws_provider(aws, cluster).await?;
            setup.operate(provider).await
        }
        ProviderKind::Gce => {
            let internal = setup.settings.classes.class == GKE_INTERNAL_CLASS;
            let config = gce_config(gce, internal, cluster)?;
            setup.operate(GceProvider::connect(config).await?).await
        }
    }
}

async fn aws_provider(args: AwsArgs, cluster: ClusterUid) -> anyhow::Result<AwsProvider> {
    let AwsArgs { region, vpc_id, cluster_name, backend_security_group, poll: pace, endpoint_url } = args;
    let region = region.context("--aws-region is missing")?;
    let vpc = vpc_id.context("--aws-vpc-id is missing")?;
    let cloud = portico_provider_aws::cloud::Sdk::connect(region, endpoint_url, None).await;
    let config = portico_provider_aws::Config { vpc, backend_security_group, cluster_name, cluster, pace };
    Ok(AwsProvider::new(cloud, config)?)
}

/// GKE's class for internal load balancers: `--load-balancer-class` takes it over.
const GKE_INTERNAL_CLASS: &str = "networking.gke.io/l4-regional-internal";

fn gce_config(
    args: GceArgs,
    internal: bool,
    cluster: ClusterUid,
) -> anyhow::Result<portico_provider_gce::Config> {
    let GceArgs { project, region, network, subnetwork, endpoint } = args;
    Ok(portico_provider_gce::Config {
        project: project.context("--gce-project is missing")?,
        region: region.context("--gce-region is missing")?,
        network,
        subnetwork,
        internal,
        endpoint,
        cluster,
    })
}

/// The cluster's UID: that of a Namespace which nobody can delete.
async fn cluster_uid(client: &Client) -> anyhow::Result<ClusterUid> {
    let api: Api<Namespace> = Api::all(client.clone());
    let read = || async { api.get("kube-system").await };
    let patience = ExponentialBuilder::default().with_max_times(7);
    let told = |error: &kube::Error, after: Duration| {
        tracing::warn!(error = crate::operation::chain(error), ?after, "API server does not answer yet");
    };
    let namespace = read.retry(patience).notify(told).await.context("the cluster's UID cannot be read")?;
    let uid = namespace.metadata.uid.context("Namespace kube-system has no UID")?;
    Ok(uid.parse()?)
}

/// All that does not depend on the provider.
struct Setup {
    client: Client,
    election: Option<Election>,
    instance: String,
    work: WorkArgs,
    process: ProcessArgs,
    settings: Settings,
}

impl Setup {
    async fn operate<P: LoadBalancerProvider>(self, provider: P) -> anyhow::Result<()> {
        let Self { client, election, instance, work, process, settings } = self;
        let ProcessArgs { admin_address, log_format: _ } = process;
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (keeper, fence) = fence();
        let (reporter, sender) = events::reporter(&instance, &metrics);
        let (world, queue) = (Arc::new(World::default()), Arc::new(Queue::default()));
        let router = Router::new(Arc::clone(&world), Arc::clone(&queue));
        let cluster = ApiServer::new(client.clone(), fence.clone(), reporter);
        let classes = settings.classes.clone();
        tracing::info!(provider = provider.name(), cluster = %settings.cluster, class = classes.class,
            default_class = classes.default, instance, "starting");

        let mut tasks = Tasks::default();
        let listener =
            admin::bind(admin_address).await.with_context(|| format!("--admin-address {admin_address}"))?;
        let admin = Admin { world: Arc::clone(&world), registry: Arc::new(registry) };
        tasks.spawn("admin", admin::serve(listener, admin).map(|served| served.map_err(Into::into)));
        tasks.run(
            "watch-services",
            follow::<Service>(Api::all(client.clone()), router.clone(), Duration::ZERO),
        );
        tasks.run("watch-nodes", follow::<Node>(Api::all(client.clone()), router.clone(), Duration::ZERO));
        let slices = follow::<EndpointSlice>(Api::all(client.clone()), router.clone(), ENDPOINTS_SETTLE);
        tasks.run("watch-endpointslices", slices);
        tasks.run("fan-out", router.clone().fan_out(classes));
        tasks.run("events", sender.run(client.clone()));

        let stop = CancellationToken::new();
        tasks.spawn("leader", elect(client, election, keeper, metrics.clone(), stop.clone()));
        let parts = Parts { provider, cluster, world, queue, fence: fence.clone(), metrics };
        let operator = Operator::new(parts, settings);
        tasks.spawn("work", lead(Arc::clone(&operator), router, fence, work.clone()));
        let ended = tasks.first_or(terminated()?).await;
        shut_down(&operator, tasks, stop, work.shutdown_grace).await;
        ended
    }
}

/// Waits for the lease, then works: lists what exists, looks at Services, collects what nobody claims.
async fn lead<P: LoadBalancerProvider>(
    operator: Arc<Operator<P, ApiServer>>,
    router: Router,
    mut fence: Fence,
    work: WorkArgs,
) -> anyhow::Result<()> {
    let WorkArgs { workers, resync, orphan_grace, shutdown_grace: _ } = work;
    fence.opened().await;
    operator.synced().await;
    tracing::info!("leading");
    let first = operator.list().await;
    let mut tasks = Tasks::default();
    tasks.run("inventory", Arc::clone(&operator).keep_listing(router, first, resync));
    tasks.run("collector", Arc::clone(&operator).collect(orphan_grace));
    for _ in 0..workers {
        tasks.run("worker", Arc::clone(&operator).work());
    }
    tasks.first_or(std::future::pending()).await
}

async fn elect(
    client: Client,
    election: Option<Election>,
    keeper: FenceKeeper,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Some(Election { namespace, name, candidate }) = election else {
        // Alone by decree: open for as long as any process lives.
        keeper.open(Instant::now() + Duration::from_hours(876_000));
        metrics.leading(true);
        stop.cancelled().await;
        keeper.close();
        return Ok(());
    };
    let store = ApiLease::new(client, &namespace, &name);
    let led = leader::lead(&store, &candidate, &keeper, &metrics, &stop).await;
    led.inspect_err(|error| tracing::error!(%error, reason = error.reason(), "no longer leading"))?;
    Ok(())
}

/// Resolves on SIGTERM or SIGINT.
fn terminated() -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
        }
        Ok(())
    })
}

/// Finishes what is under way, then hands the lease over. What does not finish in time is as after a crash.
async fn shut_down<P: LoadBalancerProvider>(
    operator: &Operator<P, ApiServer>,
    mut tasks: Tasks,
    stop: CancellationToken,
    grace: Duration,
) {
    operator.queue.close();
    tasks.stop("work");
    operator.goes.close();
    if timeout(grace, operator.goes.wait()).await.is_err() {
        tracing::warn!(unfinished = operator.goes.len(), "provider calls did not finish in time");
    }
    stop.cancel();
    if timeout(grace, tasks.finished("leader")).await.is_err() {
        tracing::warn!(error = %anyhow!("timed out"), "lease not handed over");
    }
}
