//! The loop over the real kernel while another program flushes, deletes and edits our tables.

use std::time::{Duration, Instant};

use clap::Parser;
use portico_nodeproxy::{
    args::Args,
    conntrack::{Flows, FlowsError},
    dataplane::{
        Dataplane, Observed,
        nftables::{Config, LocalDetector, Nftables},
    },
    health::Health,
    health_check::Published,
    input_event::{InputEvent, SOURCES, Times},
    metrics::Metrics,
    node::Node,
    sync::{Outside, Sync},
};
use portico_proxy_core::{
    flows::StaleFlows, input::Config as ModelConfig, model::Model, packets, plan::State, table::Family,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::netns::{Namespace, note};

/// How long a repair may take on a machine with other things to do.
const PATIENCE: Duration = Duration::from_mins(1);

/// No flow is tracked.
pub(crate) struct NoFlows;

impl Flows for NoFlows {
    fn delete(&mut self, _stale: &[StaleFlows]) -> Result<usize, FlowsError> {
        Ok(0)
    }
}

fn open(node: &Namespace) -> Nftables {
    let config = Config { local_detector: LocalDetector::addresses(), ..Config::default() };
    node.run(move || Nftables::open(config)).expect("opens")
}

/// A loop that knows the packet table's cluster and programs the namespace.
fn mk_sync(node: &Namespace) -> Sync {
    let outside = Outside {
        dataplane: Box::new(open(node)),
        flows: Box::new(NoFlows),
        health: Health::default(),
        metrics: Metrics::default(),
        health_checks: watch::channel(Published::default()).0,
    };
    let this = Node::new("here".into(), Args::parse_from(["portico-nodeproxy"]).traffic);
    Sync::new(Model::new(ModelConfig::default()), this, vec![Family::V4, Family::V6], outside)
}

fn wanted() -> State {
    let mut model = Model::new(ModelConfig::default());
    for event in packets::cluster_events() {
        model.apply(event);
    }
    model.shadow().desired().clone()
}

/// Waits until the kernel has exactly what it should, and returns how long that took.
fn repaired(tables: &mut Nftables, wanted: &State, after: &str) -> Duration {
    let began = Instant::now();
    loop {
        // A read that falls into a change may fail, and the next will not.
        if let Ok(Observed { state, rebuild: None }) = tables.read()
            && state == *wanted
        {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "not repaired after: {after}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn any_change_of_our_tables_by_another_program_is_repaired_without_any_event() {
    let Some(node) = Namespace::new() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (inputs, inbox) = mpsc::channel(256);
    let stop = CancellationToken::new();
    let task = runtime.spawn(mk_sync(&node).run(inbox, stop.clone()));
    for event in packets::cluster_events() {
        inputs
            .blocking_send(InputEvent::Change(Box::new(event), Times::default()))
            .expect("the loop listens");
    }
    for source in SOURCES {
        inputs.blocking_send(InputEvent::Listed(source)).expect("the loop listens");
    }
    let (mut tables, wanted) = (open(&node), wanted());
    repaired(&mut tables, &wanted, "the start");
    for damage in [
        "nft flush ruleset",
        "nft delete table ip portico",
        "nft flush chain ip6 portico dispatch",
        "nft insert rule ip portico dispatch drop",
        "nft delete element ip portico services '{ 10.96.0.1 . tcp . 80 }'",
        "nft add element ip portico cluster-ips '{ 192.0.2.77 }'",
        "nft add chain ip portico theirs",
    ] {
        node.sh(damage);
        let took = repaired(&mut tables, &wanted, damage);
        note(&format!("repaired after {took:?}: {damage}"));
    }
    stop.cancel();
    runtime.block_on(task).expect("no panic").expect("stopped");
    drop(inputs);
}
