//! Starts one named task for each watch and server, and ends when one of them does.
//!
//! Owns the wiring and the shutdown. SIGTERM and SIGINT end the process and leave the rules, so traffic
//! continues while a successor starts. Invariant: a task that ends early ends the process.

use std::{future::Future, time::Duration};

use anyhow::{Context, bail};
use futures::FutureExt;
use kube::Client;
use portico_proxy_core::{input::Config, model::Model};
use portico_runtime::{
    chain,
    http::{self, Connections},
    tasks::Tasks,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch as channel},
};
use tokio_util::sync::CancellationToken;

use crate::{
    affinity, api_client,
    args::{Args, ClusterArgs, DataplaneKind, TrafficArgs, conntrack::ConntrackArgs, local::DetectLocalMode},
    conntrack::{self, Flows, settings},
    dataplane::{
        Dataplane, Degradation, nftables,
        userspace::{faults, files},
    },
    dataplane_setup::{self, DataplaneSetup},
    diagnose::{
        self, Inquiry, ReadKernel, Responder, affinity::ReadAffinity, command::Agreement, socket, ways::Ways,
    },
    events::{self, About, Notice},
    health::Health,
    health_check::{self, Servers},
    metrics::{self, Metrics},
    node::{self, Node},
    serve,
    sync::{Outside, Sync},
    taint,
    watch::{self, InputSender, first},
};

/// Capacity of the loop's channel. Watches wait when it is full, so memory is bounded while a large list comes
/// in.
const INPUTS: usize = 1024;
/// Capacity of the channel of inquiries.
const INQUIRIES: usize = 8;
/// Longest time for tasks to end.
const GRACE: Duration = Duration::from_secs(5);

/// Answers a question, or runs the process until a signal or the early end of a task.
pub async fn run(mut args: Args) -> anyhow::Result<Agreement> {
    if let Some(command) = args.command.take() {
        return diagnose::command::run(command).await;
    }
    serve_node(args).await.map(|()| Agreement::Agrees)
}

async fn serve_node(args: Args) -> anyhow::Result<()> {
    args.traffic.local.check()?;
    if !args.cleanup {
        tune(&args.conntrack);
        files::raise_limit();
    }
    let metrics = Metrics::default();
    let setup = dataplane_setup::build(&args, nftables_config(&args), &metrics.userspace)?;
    if args.cleanup {
        let mut dataplane = setup.dataplane;
        tokio::task::spawn_blocking(move || dataplane.cleanup())
            .await?
            .context("--cleanup left something behind")?;
        tracing::info!("every trace of Portico is gone from this node's kernel");
        return if args.stay { wait(&mut Tasks::default()).await } else { Ok(()) };
    }
    let stop = CancellationToken::new();
    let mut tasks = Tasks::default();
    start(&args, setup, metrics, &mut tasks, &stop).await?;
    let ended = wait(&mut tasks).await;
    stop.cancel();
    let drained = tokio::time::timeout(GRACE, tasks.drain()).await;
    if drained.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    ended
}

/// Writes the settings of connection tracking. A failure is logged, and nothing depends on it.
fn tune(args: &ConntrackArgs) {
    if let Err(error) = conntrack::load() {
        tracing::warn!(error = chain(&error), "connection tracking cannot be asked");
    }
    for unset in settings::apply(args, settings::processors()) {
        tracing::warn!(error = chain(&unset), "a setting of connection tracking stays as it is");
    }
}

fn nftables_config(args: &Args) -> nftables::Config {
    let Args { traffic, conntrack, .. } = args;
    nftables::Config {
        masquerade_mark: 1 << traffic.masquerade_bit,
        masquerade_all: traffic.masquerade_all,
        local_detector: node::local_detector(traffic),
        drop_invalid: !settings::is_liberal(conntrack),
        ..nftables::Config::default()
    }
}

/// Starts the admin socket.
fn answer_questions(
    args: &Args,
    inquiries: mpsc::Sender<Inquiry>,
    (read, read_affinity): (ReadKernel, ReadAffinity),
    tasks: &mut Tasks,
    stop: &CancellationToken,
) {
    let path = &args.listen.admin_socket;
    let listener = match socket::listen(path) {
        Ok(listener) => listener,
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "no admin socket: trace and explain cannot ask this proxy; see --admin-socket");
            return;
        }
    };
    let responder = Responder::new(inquiries, read, read_affinity, Ways::of_kernel());
    let token = stop.clone();
    tasks.run("admin-socket", socket::serve(listener, responder, token));
}

async fn start(
    args: &Args,
    setup: DataplaneSetup,
    metrics: Metrics,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let name = args.cluster.hostname_override.clone().filter(|name| !name.trim().is_empty()).context(
        "the name of this node's Node object is not known: set --hostname-override or the environment variable NODE_NAME",
    )?;
    warn_about(&args.traffic);
    let health = Health::default();
    let client = api_client::of_flags(&args.cluster).await?;
    let node = Node::new(name.as_str().into(), args.traffic.clone());
    let (notices, reported) = mpsc::channel(events::BACKLOG);
    let (inquiries, asked) = mpsc::channel(INQUIRIES);
    let DataplaneSetup { dataplane, flows, read, read_affinity, count_clients, faults } = setup;
    let (sync, published) = sync(args, node, (dataplane, flows), &health, &metrics, &notices).await?;
    let sync = sync.answering(asked);
    if let Some(faults) = faults {
        let reporting = faults::report(faults, inquiries.clone(), notices.clone());
        spawn(tasks, "faults", stop, reporting.map(Ok));
    }
    let counting = affinity::watch(count_clients, metrics.clone(), inquiries.clone(), notices.clone());
    spawn(tasks, "affinity", stop, counting.map(Ok));
    answer_questions(args, inquiries, (read, read_affinity), tasks, stop);
    let (signal, first_programmed) = channel::channel(false);
    let sync = lift_taint(&args.cluster, sync.signalling_first(signal), &client, &name, tasks, stop);
    let (inputs, inbox) = mpsc::channel(INPUTS);
    let sender = InputSender::new(inputs, metrics.clone()).noticing(notices.clone());
    let connections = Connections::default();
    start_servers(args, &health, &metrics, &connections, tasks, stop).await?;
    spawn(tasks, "events", stop, events::send(reported, client.clone(), name.clone()).map(Ok));
    start_watches(&args.cluster, client, name, first_programmed, sender, tasks, stop);
    let (token, checks) = (stop.clone(), Servers::new(health.clone(), connections, notices));
    spawn(tasks, "health-checks", stop, health_check::follow(published, checks).map(Ok));
    tasks.spawn("sync", async move { Ok(sync.run(inbox, token).await?) });
    Ok(())
}

async fn sync(
    args: &Args,
    node: Node,
    (mut dataplane, flows): (Box<dyn Dataplane>, Box<dyn Flows>),
    health: &Health,
    metrics: &Metrics,
    notices: &mpsc::Sender<Notice>,
) -> anyhow::Result<(Sync, channel::Receiver<health_check::Published>)> {
    let (dataplane, found) = tokio::task::spawn_blocking(move || {
        let found = dataplane.probe();
        (dataplane, found)
    })
    .await?;
    let found = found.context("this machine cannot forward Services")?;
    for other_proxy in &found.other_proxies {
        tracing::warn!(other_proxy, "another Service proxy has rules on this node; remove them");
    }
    if found.families.is_empty() {
        bail!("this kernel can forward Services of neither IPv4 nor IPv6");
    }
    report_degraded(&found.degraded, health, metrics, notices);
    let config = Config {
        node_port_range: args.traffic.node_port_range.0.clone(),
        masquerade_all: args.traffic.masquerade_all,
        external_ips: args.traffic.allow_external_ips,
        proxied: args.dataplane == DataplaneKind::Userspace,
        pod_interfaces: args.traffic.local.pod_interfaces(),
        lacks: found.degraded.iter().filter_map(|degradation| degradation.lack).collect(),
    };
    let (health_checks, published) = channel::channel(health_check::Published::default());
    let outside =
        Outside { dataplane, flows, health: health.clone(), metrics: metrics.clone(), health_checks };
    let sync = Sync::new(Model::new(config), node, found.families, outside);
    Ok((sync.serving_some(args.cluster.service_proxy_name.is_some()), published))
}

/// Reports missing features of this kernel to log, metrics, health and Events.
fn report_degraded(
    degraded: &[Degradation],
    health: &Health,
    metrics: &Metrics,
    notices: &mpsc::Sender<Notice>,
) {
    for degradation in degraded {
        tracing::warn!(%degradation, "something does not work on this node");
        metrics.lacks(degradation.feature, degradation.family);
        let note = format!("{degradation}; a kernel that has it, and a restart of the node proxy, mend that");
        let notice = Notice { about: About::Node, reason: "MissingKernelFeature", action: "Probe", note };
        if notices.try_send(notice).is_err() {
            tracing::debug!(%degradation, "no room for an Event");
        }
    }
    health.set_degraded(degraded.iter().map(|d| (d.family, d.to_string())).collect());
}

async fn start_servers(
    args: &Args,
    health: &Health,
    metrics: &Metrics,
    connections: &Connections,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listen = &args.listen;
    let healthz =
        serve::bind("--healthz-bind-address", listen.healthz_bind_address, listen.bind_timeout).await?;
    let exposed =
        serve::bind("--metrics-bind-address", listen.metrics_bind_address, listen.bind_timeout).await?;
    let mode = match args.dataplane {
        DataplaneKind::Nftables => "nftables",
        DataplaneKind::Userspace => "userspace",
    };
    let health_router = serve::health_router(health.clone(), metrics.clone());
    let metrics_router = serve::metrics_router(metrics::registry(metrics), mode);
    let servers = [(healthz, health_router), (exposed, metrics_router)];
    for (listener, router) in servers {
        let (connections, stop) = (connections.clone(), stop.clone());
        tasks.run("http", http::serve(listener, router, connections, stop));
    }
    Ok(())
}

/// Starts the task that removes the startup taint, if the flag is set.
fn lift_taint(
    cluster: &ClusterArgs,
    sync: Sync,
    client: &Client,
    node: &str,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> Sync {
    if !cluster.remove_startup_taint {
        return sync;
    }
    let (untaint, due) = channel::channel(false);
    spawn(tasks, "startup-taint", stop, taint::follow(due, client.clone(), node.to_owned()).map(Ok));
    sync.untainting(untaint)
}

fn start_watches(
    cluster: &ClusterArgs,
    client: Client,
    node: String,
    first_programmed: first::FirstProgrammed,
    sender: InputSender,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) {
    let objects =
        watch::objects(client.clone(), cluster.service_proxy_name.clone(), first_programmed, sender.clone());
    let node = watch::node(client.clone(), node, sender.clone());
    let service_cidrs = watch::service_cidrs(client, sender.clone());
    spawn(tasks, "services-and-slices", stop, objects.map(Ok));
    spawn(tasks, "node", stop, node.map(Ok));
    spawn(tasks, "service-cidrs", stop, service_cidrs.map(Ok));
    spawn(tasks, "addresses", stop, async move { Ok(watch::addresses(sender).await?) });
}

/// Spawns a task that should not end before `stop`.
fn spawn(
    tasks: &mut Tasks,
    name: &'static str,
    stop: &CancellationToken,
    task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(name, async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = task => ended,
        }
    });
}

/// Waits for a signal to end, or for the first task that ends.
async fn wait(tasks: &mut Tasks) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let name = tasks.first_or(signalled.map(Ok)).await?;
    tracing::info!(signal = name, "ending; what is in the kernel stays");
    Ok(())
}

fn warn_about(traffic: &TrafficArgs) {
    let local = &traffic.local;
    if local.detect_local_mode == DetectLocalMode::ClusterCidr && local.cluster_cidr.is_empty() {
        tracing::warn!(
            "--cluster-cidr is not set: no client is taken for a pod, so clients of ClusterIPs outside the cluster are not \
             masqueraded, and pods reach externalTrafficPolicy: Local Services only where these have endpoints"
        );
    }
}
