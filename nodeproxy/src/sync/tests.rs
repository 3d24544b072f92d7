//! The loop against a kernel in memory, with a paused clock.

use std::{collections::BTreeMap, net::IpAddr};

use clap::Parser;
use portico_proxy_core::{
    input::{
        Config, Endpoint, EndpointSlice, Hints, Service, ServiceName, ServicePort, SlicePort, TrafficPolicy,
    },
    plan::State,
    table::{Backend, Frontend, Key, List, Protocol, Value},
};
use tokio::task::JoinHandle;

use super::{fake::FakeKernel, *};
use crate::{args::Args, input_event::Times, node::NodeState};

mod fail_static;
mod flows;
mod histories;
mod standing;

struct Bench {
    kernel: FakeKernel,
    inputs: mpsc::Sender<InputEvent>,
    health: Health,
    checks: watch::Receiver<Published>,
    first_programmed: watch::Receiver<bool>,
    untaint: watch::Receiver<bool>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SyncError>>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mk_bench(kernel: FakeKernel) -> Bench {
    mk_bench_serving(kernel, false)
}

/// One that serves some of the cluster's Services, or all.
fn mk_bench_serving(kernel: FakeKernel, some: bool) -> Bench {
    let (inputs, inbox) = mpsc::channel(64);
    let (health_checks, checks) = watch::channel(Published::default());
    let health = Health::default();
    let outside = Outside {
        dataplane: Box::new(kernel.clone()),
        flows: Box::new(kernel.clone()),
        health: health.clone(),
        metrics: Metrics::default(),
        health_checks,
    };
    let node = Node::new("here".into(), Args::parse_from(["portico-nodeproxy"]).traffic);
    let sync = Sync::new(Model::new(Config::default()), node, vec![Family::V4], outside);
    let ((signal, first_programmed), (taint, untaint)) = (watch::channel(false), watch::channel(false));
    let sync = sync.signalling_first(signal).untainting(taint).serving_some(some);
    let stop = CancellationToken::new();
    let task = tokio::spawn(sync.run(inbox, stop.clone()));
    Bench { kernel, inputs, health, checks, first_programmed, untaint, stop, task }
}

fn mk_name() -> ServiceName {
    ServiceName { namespace: "default".into(), name: "web".into() }
}

fn mk_service(protocol: Protocol) -> InputEvent {
    let service = Service {
        name: mk_name(),
        created: 1,
        cluster_ips: vec![ip("10.96.0.1")],
        external_ips: Vec::new(),
        load_balancer_vips: Vec::new(),
        ports: vec![ServicePort { name: "".into(), protocol, port: 80, node_port: Some(30080) }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        source_ranges: Vec::new(),
        health_check_node_port: Some(30999),
    };
    InputEvent::Change(Box::new(Event::Service(service)), Times::default())
}

fn mk_slice(protocol: Protocol, addresses: &[&str]) -> InputEvent {
    mk_slice_with(protocol, addresses, &[])
}

/// Some endpoints are ready, others terminate and still serve.
fn mk_slice_with(protocol: Protocol, ready: &[&str], terminating: &[&str]) -> InputEvent {
    let endpoint = |address: &&str, ready: bool| Endpoint {
        address: ip(address),
        ready,
        serving: true,
        terminating: !ready,
        node: Some("here".into()),
        zone_hints: Hints::default(),
        node_hints: Hints::default(),
    };
    let slice = EndpointSlice {
        service: mk_name(),
        name: "web-x".into(),
        ports: vec![SlicePort { name: "".into(), protocol, port: 8080 }],
        endpoints: (ready.iter().map(|it| endpoint(it, true)))
            .chain(terminating.iter().map(|it| endpoint(it, false)))
            .collect(),
    };
    InputEvent::Change(Box::new(Event::Slice(slice)), Times::default())
}

fn mk_node() -> InputEvent {
    InputEvent::Node(Some(NodeState { addresses: vec![ip("192.0.2.1")], ..NodeState::default() }))
}

fn mk_vip(protocol: Protocol) -> Frontend {
    Frontend { address: ip("10.96.0.1"), protocol, port: 80 }
}

impl Bench {
    async fn send(&self, inputs: impl IntoIterator<Item = InputEvent>) {
        for input in inputs {
            self.inputs.send(input).await.expect("the loop listens");
        }
    }

    async fn list_all(&self) {
        self.send(SOURCES.map(InputEvent::Listed)).await;
    }

    /// With a paused clock this returns once the loop only waits.
    async fn settle(&self) {
        tokio::time::sleep(DESTRUCTIVE_AFTER * 3).await;
    }

    async fn started(protocol: Protocol, addresses: &[&str]) -> Self {
        let bench = mk_bench(FakeKernel::default());
        bench.send([mk_node(), mk_service(protocol), mk_slice(protocol, addresses)]).await;
        bench.list_all().await;
        bench.settle().await;
        bench
    }

    fn has(&self, key: Key) -> bool {
        self.kernel.inside().state.elements.contains_key(&key)
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_every_source_has_sent_its_first_list() {
    let bench = mk_bench(FakeKernel::default());
    bench.send([mk_node(), mk_service(Protocol::Tcp), InputEvent::Listed(Source::Services)]).await;
    bench.settle().await;
    assert_eq!(bench.kernel.inside().reads, 0);
    assert!(!bench.health.healthz().healthy);
    bench.list_all().await;
    bench.settle().await;
    let inside = bench.kernel.inside();
    assert_eq!((inside.reads, inside.applied.len()), (1, 1), "one read, one transaction");
    assert!(bench.health.healthz().healthy);
}

fn mk_first() -> [InputEvent; 7] {
    [
        mk_service(Protocol::Tcp),
        mk_slice(Protocol::Tcp, &["10.1.0.1"]),
        InputEvent::First(Source::Services),
        InputEvent::First(Source::EndpointSlices),
        mk_node(),
        InputEvent::Listed(Source::Node),
        InputEvent::Listed(Source::Addresses),
    ]
}

#[tokio::test(start_paused = true)]
async fn on_a_fresh_node_the_first_services_work_before_the_rest_is_known() {
    let bench = mk_bench(FakeKernel::default());
    let [first @ .., last] = mk_first();
    bench.send(first).await;
    bench.settle().await;
    assert!(!*bench.first_programmed.borrow(), "the node's addresses are not known");
    bench.send([last]).await;
    bench.settle().await;
    assert!(*bench.first_programmed.borrow());
    assert!(bench.has(Key::Service(mk_vip(Protocol::Tcp))));
    assert!(!bench.health.healthz().healthy, "the rest is missing");
    bench.list_all().await;
    bench.settle().await;
    assert!(bench.health.healthz().healthy);
    assert_eq!(bench.kernel.inside().applied.len(), 1, "what stands is read back and not written again");
}

#[tokio::test(start_paused = true)]
async fn on_a_node_with_rules_nothing_is_written_before_the_first_sync() {
    let kernel = FakeKernel::default();
    kernel.inside().state.elements.insert(Key::ClusterIp(ip("10.96.0.9")), Value::Present);
    let before = kernel.inside().state.clone();
    let bench = mk_bench(kernel);
    bench.send(mk_first()).await;
    bench.settle().await;
    assert!(*bench.first_programmed.borrow(), "the lists may come");
    assert_eq!(bench.kernel.inside().state, before, "what stands serves until everything is known");
    bench.list_all().await;
    bench.settle().await;
    assert!(bench.has(Key::Service(mk_vip(Protocol::Tcp))) && !bench.has(Key::ClusterIp(ip("10.96.0.9"))));
}

#[tokio::test(start_paused = true)]
async fn a_first_write_that_fails_holds_up_no_list_and_is_repaired() {
    let kernel = FakeKernel::default();
    kernel.inside().failures.push_back(DataplaneError::Changed { operation: "write".to_owned() });
    let bench = mk_bench(kernel);
    bench.send(mk_first()).await;
    bench.list_all().await;
    bench.settle().await;
    assert!(*bench.first_programmed.borrow() && bench.has(Key::Service(mk_vip(Protocol::Tcp))));
}

#[tokio::test(start_paused = true)]
async fn the_startup_taint_is_removed_once_all_is_programmed_and_again_if_it_comes_back() {
    let node = |held_back| {
        InputEvent::Node(Some(NodeState {
            addresses: vec![ip("192.0.2.1")],
            held_back,
            ..NodeState::default()
        }))
    };
    let bench = mk_bench(FakeKernel::default());
    bench.send([node(true), mk_service(Protocol::Tcp)]).await;
    bench.settle().await;
    assert!(!*bench.untaint.borrow(), "nothing stands");
    bench.list_all().await;
    bench.settle().await;
    assert!(*bench.untaint.borrow());
    for held_back in [false, true] {
        bench.send([node(held_back)]).await;
        bench.settle().await;
        assert_eq!(*bench.untaint.borrow(), held_back);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_changes_nothing_that_is_right() {
    let first = Bench::started(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"]).await;
    first.stop.cancel();
    first.task.await.expect("no panic").expect("stopped");
    let before = first.kernel.inside().state.clone();
    let transactions = first.kernel.inside().applied.len();

    let second = mk_bench(first.kernel.clone());
    second
        .send([mk_slice(Protocol::Tcp, &["10.1.0.2", "10.1.0.1"]), mk_service(Protocol::Tcp), mk_node()])
        .await;
    second.list_all().await;
    second.settle().await;
    let inside = second.kernel.inside();
    assert_eq!((inside.applied.len(), &inside.state), (transactions, &before));
}

#[tokio::test(start_paused = true)]
async fn a_restart_reads_while_the_lists_come_in_and_repairs_what_changed_since() {
    let first = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    first.stop.cancel();
    first.task.await.expect("no panic").expect("stopped");
    let before = first.kernel.inside().state.clone();
    let reads = first.kernel.inside().reads;

    let second = mk_bench(first.kernel.clone());
    second.send(mk_first()).await;
    second.settle().await;
    assert_eq!(second.kernel.inside().reads, reads + 1, "the lists are not complete");
    second.kernel.flush();
    second.send([mk_slice(Protocol::Tcp, &["10.1.0.1"])]).await;
    second.list_all().await;
    tokio::time::sleep(AUDIT_EVERY * 2).await;
    assert_eq!(second.kernel.inside().state, before);
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_go_out_together_within_milliseconds() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    let (began, before) = (Instant::now(), bench.kernel.inside().applied.len());
    bench
        .send([
            mk_slice(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"]),
            mk_slice(Protocol::Tcp, &["10.1.0.1", "10.1.0.2", "10.1.0.3"]),
        ])
        .await;
    bench.settle().await;
    let inside = bench.kernel.inside();
    let (moment, _) = inside.applied[before];
    assert!(moment - began <= COALESCE * 2, "took {:?}", moment - began);
    assert_eq!(inside.state.slots(&mk_vip(Protocol::Tcp), List::Cluster).len(), 3);
    let puts = inside.applied[before..].iter().filter(|(_, t)| !t.puts.is_empty()).count();
    assert_eq!(puts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_surplus_slot_stays_until_no_packet_can_be_on_its_way_there() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"]).await;
    let surplus = Key::Endpoint(mk_vip(Protocol::Tcp), 1);
    bench.send([mk_slice(Protocol::Tcp, &["10.1.0.1"])]).await;
    tokio::time::sleep(DESTRUCTIVE_AFTER / 2).await;
    assert!(bench.has(surplus), "a packet may still come");
    bench.settle().await;
    assert!(!bench.has(surplus));
    let inside = bench.kernel.inside();
    let [.., (additive, _), (destructive, _)] = &inside.applied[..] else { panic!("two transactions") };
    assert!(*destructive - *additive >= DESTRUCTIVE_AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_refused_transaction_leads_to_a_fresh_read_and_the_right_state() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    let reads = bench.kernel.inside().reads;
    for _ in 0..3 {
        let source = std::io::ErrorKind::WouldBlock.into();
        let error = DataplaneError::Refused { operation: "put".to_owned(), source };
        bench.kernel.inside().failures.push_back(error);
    }
    bench.send([mk_slice(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"])]).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(bench.has(Key::Endpoint(mk_vip(Protocol::Tcp), 1)));
    assert_eq!(bench.kernel.inside().reads, reads + 3);
}

#[tokio::test(start_paused = true)]
async fn tables_that_another_program_flushes_come_back() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    let before = bench.kernel.inside().state.clone();
    bench.kernel.flush();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.kernel.inside().state, before);
    let reads = bench.kernel.inside().reads;
    tokio::time::sleep(AUDIT_EVERY * 5).await;
    assert_eq!(bench.kernel.inside().reads, reads, "nobody changed anything since");
}

#[tokio::test(start_paused = true)]
async fn an_event_after_a_flush_repairs_at_once() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"]).await;
    bench.kernel.flush();
    bench.send([mk_slice(Protocol::Tcp, &["10.1.0.1", "10.1.0.9"])]).await;
    tokio::time::sleep(DESTRUCTIVE_AFTER / 2).await;
    assert!(bench.has(Key::Service(mk_vip(Protocol::Tcp))));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_work_ends_the_loop() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    let error = DataplaneError::Permission { operation: "put".to_owned() };
    bench.kernel.inside().failures.push_back(error);
    bench.send([mk_slice(Protocol::Tcp, &[])]).await;
    let ended = bench.task.await.expect("no panic").expect_err("the loop ends");
    assert_eq!((ended.reason(), ended.retry()), ("Permission", false));
}

#[tokio::test(start_paused = true)]
async fn a_new_node_address_moves_the_node_ports() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    let at = |address| Key::Service(Frontend { address: ip(address), protocol: Protocol::Tcp, port: 30080 });
    assert!(bench.has(at("192.0.2.1")));
    let moved = NodeState { addresses: vec![ip("192.0.2.7")], leaving: true, ..NodeState::default() };
    bench.send([InputEvent::Node(Some(moved))]).await;
    bench.settle().await;
    assert!(bench.has(at("192.0.2.7")) && !bench.has(at("192.0.2.1")));
    assert!(!bench.health.healthz().healthy, "the node leaves");
}

#[tokio::test(start_paused = true)]
async fn health_check_node_ports_are_published_with_their_endpoints() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"]).await;
    let published = bench.checks.borrow().clone();
    let check = published.checks[&mk_name()];
    assert_eq!((check.port, check.v4, check.v6), (30999, Some(2), None));
    assert!(published.addresses.contains(&ip("192.0.2.1")));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_leaves_nothing_behind() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1"]).await;
    let gone = [Event::ServiceGone(mk_name()), Event::SliceGone { service: mk_name(), name: "web-x".into() }];
    bench.send(gone.map(|event| InputEvent::Change(Box::new(event), Times::default()))).await;
    bench.settle().await;
    assert_eq!(bench.kernel.inside().state, State::default());
    assert!(!bench.has(Key::ClusterIp(ip("10.96.0.1"))));
}
