//! The process: one named task per watch and worker, leader election before any work, and an orderly end.
//!
//! Owns: starting and stopping. Leaves to others: everything that is started.
//! Invariants: a task that dies ends the process. Nothing is written before the lease is held, nor after it is lost. On SIGTERM
//! work stops first, then the lease is handed over, so that the next leader never meets this one.
//!
//! Its rights at the API server:
//! ```text
//! services                       get list watch patch      ours: the finalizer
//! services/status                patch                     addresses and conditions, by server-side apply
//! nodes                          list watch
//! endpointslices (discovery)     list watch
//! pods                           list watch                where load balancers may send to them
//! loadbalancerclassparameters    list watch
//! …/status                       patch                     what became of them
//! namespaces "kube-system"       get                       the cluster's UID
//! events (events.k8s.io)         create patch
//! leases (coordination), in its own namespace: create; get patch on its own lease
//! tokenreviews, subjectaccessreviews: create               who may read /plan
//! ```
//! With `--read-only` nothing is written: get, list and watch are enough, and there is no lease.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use backon::{ExponentialBuilder, Retryable};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use portico_limits::Limiter;
use portico_provider::{ClusterUid, LoadBalancerProvider};
use portico_runtime::http;
use portico_runtime::tasks::Tasks;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::args::{Args, Election, ProcessArgs, WorkArgs};
use crate::background::audit::Auditor;
use crate::background::gc::Collector;
use crate::background::resync::keep_listing;
use crate::cache::class_parameters::LoadBalancerClassParameters;
use crate::cache::pods::PodState;
use crate::cache::store::Cache;
use crate::cache::watch::{ENDPOINTS_SETTLE, PODS_SETTLE, Router, follow};
use crate::metrics::Metrics;
use crate::metrics::limiters::LimiterMetrics;
use crate::process::admin::{self, Admin};
use crate::process::connect::{self, connect};
use crate::process::fence::{Fence, FenceKeeper, fence};
use crate::process::leader::{self, store::ApiLease};
use crate::reconcile::api::{self, ApiServer, Cluster, ReadOnly};
use crate::reconcile::events;
use crate::reconcile::queue::Queue;
use crate::reconcile::settings::{Parts, Settings};
use crate::reconcile::{Reconciler, class_parameters, plan, worker};

/// How long handing the lease over may take. With `--shutdown-grace` it is less than a pod has to end, which is 30 s.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, or until something that must not end, ends.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { classes, provider, election, work, process } = args;
    let (groups, endpoints) = (classes.groups(), classes.endpoints());
    let classes = classes.rule(provider.provider)?;
    let instance = election.instance();
    // Who writes nothing needs no leave to write, and must not keep it from others.
    let election = if work.read_only { None } else { election.election()? };
    let client = api::client().await.context("no way to the API server")?;
    let cluster = cluster_uid(&client).await?;
    let settings = work.settings(classes, groups, endpoints, cluster.clone());
    let setup = Setup { client, election, instance, work, process, settings };
    Box::pin(connect(provider, cluster, setup)).await
}

/// The cluster's UID: that of a Namespace which nobody can delete.
pub(crate) async fn cluster_uid(client: &Client) -> anyhow::Result<ClusterUid> {
    let api: Api<Namespace> = Api::all(client.clone());
    let read = || async { api.get("kube-system").await };
    let patience = ExponentialBuilder::default().with_max_times(7);
    let warn = |error: &kube::Error, after: Duration| {
        tracing::warn!(error = portico_runtime::chain(error), ?after, "API server does not answer yet");
    };
    let namespace = read.retry(patience).notify(warn).await.context("the cluster's UID cannot be read")?;
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

impl connect::Client for Setup {
    type Output = ();

    async fn with<P: LoadBalancerProvider>(
        self,
        provider: P,
        limiters: Vec<Arc<Limiter>>,
    ) -> anyhow::Result<()> {
        let (keeper, fence) = fence();
        if !self.work.read_only {
            for limiter in &limiters {
                limiter.behind(Arc::new(fence.clone()));
            }
        }
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        registry.register_collector(Box::new(LimiterMetrics(limiters)));
        let (reporter, sender) = events::reporter(&self.instance, &metrics);
        let reporting = Reporting { registry, metrics, sender };
        let cluster = ApiServer::new(self.client.clone(), fence.clone(), reporter);
        if self.work.read_only {
            // The keeper opens nothing here: not even a fault of ours could write.
            self.operate(provider, ReadOnly(cluster), reporting, None, fence).await
        } else {
            self.operate(provider, cluster, reporting, Some(keeper), fence).await
        }
    }
}

/// The outputs of the process: metrics and Events.
struct Reporting {
    registry: Registry,
    metrics: Metrics,
    sender: events::Sender,
}

impl Setup {
    async fn operate<P: LoadBalancerProvider, C: Cluster>(
        self,
        provider: P,
        api: C,
        reporting: Reporting,
        keeper: Option<FenceKeeper>,
        fence: Fence,
    ) -> anyhow::Result<()> {
        let Self { client, election, instance, work, process, settings } = self;
        let ProcessArgs { admin_address, logs: _ } = process;
        let Reporting { registry, metrics, sender } = reporting;
        let (cache, queue) = (Arc::new(Cache::default()), Arc::new(Queue::default()));
        let router = Router::new(Arc::clone(&cache), Arc::clone(&queue));
        let classes = settings.scope.classes.clone();
        tracing::info!(provider = provider.name(), cluster = %settings.scope.cluster, classes = classes.all().collect::<Vec<_>>().join(","),
            default_class = classes.default, instance, read_only = work.read_only, "starting");

        let parts = Parts {
            provider,
            api,
            cache: Arc::clone(&cache),
            queue,
            fence: fence.clone(),
            metrics: metrics.clone(),
        };
        let reconciler = Reconciler::new(parts, settings);
        let mut tasks = Tasks::default();
        let listener =
            http::listen(admin_address).with_context(|| format!("--admin-address {admin_address}"))?;
        let planning = Arc::clone(&reconciler);
        let admin = Admin::new(cache, registry, move || plan::known(&planning), client.clone());
        tasks.run("admin", admin::serve(listener, admin));
        watch(&mut tasks, &client, &router);
        if reconciler.scope().follows_pods(&reconciler.provisioner().capabilities()) {
            let pods = follow::<PodState>(Api::all(client.clone()), router.clone(), PODS_SETTLE);
            tasks.run("watch-pods", pods);
        }
        tasks.run("fan-out", router.clone().fan_out(classes));
        tasks.run("events", sender.run(client.clone(), fence.clone()));

        let stop = CancellationToken::new();
        match keeper {
            Some(keeper) => {
                tasks.spawn("leader", elect(client, election, keeper, metrics.clone(), stop.clone()));
            }
            None => tasks.spawn("leader", stop.clone().cancelled_owned().map(Ok)),
        }
        let leading =
            Leading { reconciler: Arc::clone(&reconciler), router, fence, metrics, work: work.clone() };
        tasks.spawn("work", leading.run());
        let ended = tasks.first_or(terminated()?).await;
        // Only who was asked to end has time for it: without the lease everything stands at once, and a fault is a crash.
        let grace = if ended.is_ok() { work.shutdown_grace } else { Duration::ZERO };
        shut_down(&reconciler, tasks, stop, grace).await;
        ended
    }
}

/// One task for each kind of object.
fn watch(tasks: &mut Tasks, client: &Client, router: &Router) {
    let now = Duration::ZERO;
    tasks.run("watch-services", follow::<Service>(Api::all(client.clone()), router.clone(), now));
    tasks.run("watch-nodes", follow::<Node>(Api::all(client.clone()), router.clone(), now));
    let slices = follow::<EndpointSlice>(Api::all(client.clone()), router.clone(), ENDPOINTS_SETTLE);
    tasks.run("watch-endpointslices", slices);
    let parameters = follow::<LoadBalancerClassParameters>(Api::all(client.clone()), router.clone(), now);
    tasks.run("watch-class-parameters", parameters);
}

/// The work of a leader: the listing, workers, the collector, the audit.
struct Leading<P: LoadBalancerProvider, C> {
    reconciler: Arc<Reconciler<P, C>>,
    router: Router,
    fence: Fence,
    metrics: Metrics,
    work: WorkArgs,
}

impl<P: LoadBalancerProvider, C: Cluster> Leading<P, C> {
    /// Waits for the lease, then works.
    async fn run(self) -> anyhow::Result<()> {
        let Self { reconciler, router, fence, metrics, work } = self;
        let WorkArgs { workers, audit_interval, read_only, ref orphans, .. } = work;
        if !read_only {
            fence.opened().await;
        }
        reconciler.synced().await;
        tracing::info!(read_only, "leading");
        let provisioner = Arc::clone(reconciler.provisioner());
        let listed = provisioner.list().await;
        let mut tasks = Tasks::default();
        let classes = reconciler.scope().classes.clone();
        tasks.run("inventory", keep_listing(provisioner, router, classes, listed));
        let collector = Collector::new(&reconciler, metrics, orphans.orphan_grace, orphans.limits());
        tasks.run("collector", collector.run());
        tasks.run("audit", Auditor::new(&reconciler, audit_interval).run());
        tasks.run("class-parameters", class_parameters::report(Arc::clone(&reconciler)));
        for _ in 0..workers {
            tasks.run("worker", worker::work(Arc::clone(&reconciler)));
        }
        tasks.first_or(std::future::pending()).await
    }
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

/// Waits for running attempts, then hands the lease over. An attempt that does not end in time is as after a crash.
async fn shut_down<P: LoadBalancerProvider, C: Cluster>(
    reconciler: &Reconciler<P, C>,
    mut tasks: Tasks,
    stop: CancellationToken,
    grace: Duration,
) {
    let provisioner = reconciler.provisioner();
    reconciler.close();
    provisioner.close();
    tasks.stop("work");
    if timeout(grace, provisioner.finished()).await.is_err() {
        tracing::warn!(unfinished = provisioner.unfinished(), "provider calls did not finish in time");
    }
    stop.cancel();
    if timeout(HAND_OVER, tasks.finished("leader")).await.is_err() {
        tracing::warn!(error = %anyhow!("timed out"), "lease not handed over");
    }
}
