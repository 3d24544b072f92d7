//! Any history of events, with kills after some milliseconds, stops and failed commits between, leaves in the kernel what a cold
//! start of the final objects does.
//!
//! The sync loop runs each history over the real kernel, on a clock that only moves while the loop waits. So a kill falls
//! between the two phases of a change, or between a failure and its repair. At the end the kernel has the model's desired state,
//! and nft lists the table as text and as JSON. A cold start in another namespace has the same elements, up to the order of
//! slots.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::ErrorKind,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Parser;
use portico_nodeproxy::{
    args::Args,
    dataplane::{Applied, Capabilities, Dataplane, DataplaneError, Observed, nftables::Nftables},
    health::Health,
    health_check::Published,
    input_event::{InputEvent, SOURCES, Times},
    metrics::Metrics,
    node::{Node, NodeState},
    sync::{Outside, Sync, SyncError},
};
use portico_proxy_core::{
    input::{
        Config as ModelConfig, Endpoint, EndpointSlice, Event, Hints, NodeInfo, Service, ServiceName,
        ServicePort, SlicePort, TrafficPolicy,
    },
    model::Model,
    plan::{State, Transaction},
    table::{Family, Key, Protocol, Value},
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{
    runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{netns::Namespace, repair::NoFlows, table::mk_config};

/// A step of a proxy's life.
#[derive(Clone, Debug)]
enum Step {
    /// It learns something.
    Learn(Event),
    /// So many milliseconds pass.
    Pause(u64),
    /// It is killed, and another one starts with all that is known.
    Kill,
    /// The same with a stop.
    Stop,
    /// Its next commit fails, or is made and seems to have failed.
    Fail(Fault),
}

/// How a commit fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Refused,
    AnswerLost,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mk_name(index: usize) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: format!("s{index}").into() }
}

prop_compose! {
    fn service()(
        index in 0usize..3,
        node_port in prop::option::of(0u16..2),
        vip in prop::option::of(0u8..2),
        (internal, external) in (any::<bool>(), any::<bool>()),
        affinity in prop::option::of(prop_oneof![Just(10u32), Just(20)]),
        ranges in 0usize..3,
        dual in any::<bool>(),
    ) -> Event {
        let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let nets = ["10.1.0.0/24", "198.51.100.0/24", "2001:db8::/64"];
        let second = dual.then(|| ip(&format!("fd96::{}", index + 1)));
        Event::Service(Service {
            name: mk_name(index),
            created: i64::try_from(index).expect("small"),
            cluster_ips: std::iter::once(ip(&format!("10.96.0.{}", index + 1))).chain(second).collect(),
            external_ips: Vec::new(),
            load_balancer_vips: vip.map(|v| ip(&format!("203.0.113.{v}"))).into_iter().collect(),
            ports: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| ServicePort {
                name: format!("{protocol}").into(),
                protocol,
                port: 80,
                node_port: node_port.map(|n| 30_000 + n),
            }).into(),
            internal_policy: policy(internal),
            external_policy: policy(external),
            affinity,
            source_ranges: nets[..ranges].iter().map(|net| net.parse().expect("a CIDR")).collect(),
            health_check_node_port: None,
        })
    }
}

prop_compose! {
    fn slice()(
        index in 0usize..3,
        v6 in any::<bool>(),
        endpoints in prop::collection::vec((0u8..8, prop::bool::weighted(0.8)), 0..6),
    ) -> Event {
        let endpoint = |(last, ready): (u8, bool)| Endpoint {
            address: ip(&if v6 { format!("fd01::{last}") } else { format!("10.1.0.{last}") }),
            ready,
            serving: true,
            terminating: !ready,
            node: Some(if last % 2 == 0 { "here" } else { "there" }.into()),
            zone_hints: Hints::default(),
            node_hints: Hints::default(),
        };
        Event::Slice(EndpointSlice {
            service: mk_name(index),
            name: format!("slice-{v6}").into(),
            ports: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| SlicePort {
                name: format!("{protocol}").into(),
                protocol,
                port: 8080,
            }).into(),
            endpoints: endpoints.into_iter().map(endpoint).collect(),
        })
    }
}

fn mk_node(addresses: usize) -> Event {
    let all = [ip("192.0.2.1"), ip("2001:db8::1"), ip("192.0.2.7")];
    Event::Node(NodeInfo {
        name: "here".into(),
        addresses: all[..2].to_vec(),
        node_port_addresses: all[..=addresses].to_vec(),
        pod_cidrs: vec!["10.1.0.0/16".parse().expect("a CIDR"), "fd01::/64".parse().expect("a CIDR")],
        node_pod_cidrs: vec!["10.1.0.0/30".parse().expect("a CIDR")],
        ..NodeInfo::default()
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service(),
        6 => slice(),
        1 => (0usize..3).prop_map(|index| Event::ServiceGone(mk_name(index))),
        1 => (0usize..3, any::<bool>()).prop_map(|(index, v6)| Event::SliceGone {
            service: mk_name(index),
            name: format!("slice-{v6}").into(),
        }),
        1 => (0usize..3).prop_map(mk_node),
        1 => any::<bool>().prop_map(|wide| Event::ServiceCidrs(vec![
            if wide { "10.96.0.0/16" } else { "10.96.0.0/24" }.parse().expect("a CIDR"),
        ])),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => event().prop_map(Step::Learn),
        5 => prop_oneof![0u64..12, 90u64..110, Just(700)].prop_map(Step::Pause),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
        1 => prop_oneof![Just(Fault::Refused), Just(Fault::AnswerLost)].prop_map(Step::Fail),
    ];
    prop::collection::vec(step, 1..25)
}

/// A namespace's tables, with faults in the way.
struct Faulty {
    tables: Nftables,
    faults: Faults,
}

type Faults = Arc<Mutex<VecDeque<Fault>>>;

impl Dataplane for Faulty {
    fn probe(&mut self) -> Result<Capabilities, DataplaneError> {
        self.tables.probe()
    }

    fn is_absent(&mut self) -> Result<bool, DataplaneError> {
        self.tables.is_absent()
    }

    fn read(&mut self) -> Result<Observed, DataplaneError> {
        self.tables.read()
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        let fault = self.faults.lock().expect("no panic").pop_front();
        let fail = || {
            Err(DataplaneError::Transport { operation: "commit".into(), source: ErrorKind::TimedOut.into() })
        };
        match fault {
            None => self.tables.apply(transaction),
            Some(Fault::Refused) => fail(),
            Some(Fault::AnswerLost) => self.tables.apply(transaction).and_then(|_| fail()),
        }
    }

    fn generation(&mut self) -> Result<u32, DataplaneError> {
        self.tables.generation()
    }

    fn cleanup(&mut self) -> Result<(), DataplaneError> {
        self.tables.cleanup()
    }
}

/// A proxy, and the API server's objects for its successor.
struct Life<'a> {
    node: &'a Namespace,
    known: BTreeMap<String, Event>,
    faults: Faults,
    inputs: mpsc::Sender<InputEvent>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SyncError>>,
}

/// Object of an event: the API server has the last one of each.
fn subject(event: &Event) -> String {
    match event {
        Event::Service(service) => format!("service {}", service.name),
        Event::ServiceGone(name) => format!("service {name}"),
        Event::Slice(slice) => format!("slice {} {}", slice.service, slice.name),
        Event::SliceGone { service, name } => format!("slice {service} {name}"),
        Event::Node(_) => "node".to_owned(),
        Event::ServiceCidrs(_) => "ranges".to_owned(),
    }
}

fn open(node: &Namespace) -> Nftables {
    node.run(|| Nftables::open(mk_config())).expect("opens")
}

fn mk_sync(node: &Namespace, faults: &Faults) -> Sync {
    let outside = Outside {
        dataplane: Box::new(Faulty { tables: open(node), faults: faults.clone() }),
        flows: Box::new(NoFlows),
        health: Health::default(),
        metrics: Metrics::default(),
        health_checks: watch::channel(Published::default()).0,
    };
    let this = Node::new("here".into(), Args::parse_from(["portico-nodeproxy"]).traffic);
    let sync = Sync::new(Model::new(ModelConfig::default()), this, vec![Family::V4, Family::V6], outside);
    sync.serving_some(true)
}

impl<'a> Life<'a> {
    /// The objects come in another order than they did.
    async fn start(node: &'a Namespace, known: BTreeMap<String, Event>, faults: Faults) -> Self {
        let (inputs, inbox) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let task = tokio::spawn(mk_sync(node, &faults).run(inbox, stop.clone()));
        let life = Self { node, known, faults, inputs, stop, task };
        life.send(InputEvent::Node(Some(NodeState::default()))).await;
        for event in life.known.values().rev() {
            life.send(InputEvent::Change(Box::new(event.clone()), Times::default())).await;
        }
        for source in SOURCES {
            life.send(InputEvent::Listed(source)).await;
        }
        life
    }

    async fn send(&self, input: InputEvent) {
        self.inputs.send(input).await.expect("the loop listens");
    }

    async fn learn(&mut self, event: Event) {
        self.known.insert(subject(&event), event.clone());
        self.send(InputEvent::Change(Box::new(event), Times::default())).await;
    }

    async fn take(mut self, step: Step) -> Self {
        match step {
            Step::Learn(event) => self.learn(event).await,
            Step::Pause(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Fail(fault) => self.faults.lock().expect("no panic").push_back(fault),
            Step::Kill => {
                self.task.abort();
                drop(self.task.await);
                return Self::start(self.node, self.known, self.faults).await;
            }
            Step::Stop => {
                self.stop.cancel();
                self.task.await.expect("no panic").expect("stopped");
                return Self::start(self.node, self.known, self.faults).await;
            }
        }
        self
    }

    /// The programmed state once nothing is pending; the model's desired state is the same.
    async fn settled(&self) -> State {
        // Longer than the longest pause between two tries.
        tokio::time::sleep(Duration::from_mins(1)).await;
        let observed = open(self.node).read().expect("reads");
        assert_eq!(observed.rebuild, None);
        let mut model = Model::new(ModelConfig::default());
        for event in self.known.values() {
            model.apply(event.clone());
        }
        model.adopt(&observed.state);
        assert!(model.shadow().is_settled(), "{}", model.shadow().plan());
        observed.state
    }
}

/// Keys with their values, but for slots; and the backends of each list.
type Unordered = (BTreeSet<(Key, Option<Value>)>, BTreeSet<(Key, Value)>);

/// The programmed state, without the order of slots.
fn unordered(state: &State) -> Unordered {
    let slot_of = |key: &Key| match *key {
        Key::Endpoint(f, slot) => Some(Key::Endpoint(f, slot & 0x10_0000)),
        Key::AffinitySlot(f, slot) => Some(Key::AffinitySlot(f, slot & 0x10_0000)),
        _ => None,
    };
    let keys = state.elements.iter().map(|(key, value)| (*key, slot_of(key).is_none().then_some(*value)));
    let backends = state.elements.iter().filter_map(|(key, value)| Some((slot_of(key)?, *value)));
    (keys.collect(), backends.collect())
}

/// Lists the tables as nft sees them.
fn listed(node: &Namespace) {
    let text = node.sh("nft list ruleset");
    assert!(text.contains("table ip portico") && text.contains("table ip6 portico"), "{text}");
    let json = node.sh("nft -j list ruleset");
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
}

/// The programmed state after a history and one more start, and after a cold start from the same objects
/// elsewhere.
async fn live([lived_in, fresh]: &[Namespace; 2], steps: Vec<Step>) -> [State; 3] {
    let first = BTreeMap::from([(subject(&mk_node(1)), mk_node(1))]);
    let mut lived = Life::start(lived_in, first, Faults::default()).await;
    for step in steps {
        lived = lived.take(step).await;
    }
    let ended = lived.settled().await;
    listed(lived_in);
    let generation = open(lived_in).generation().expect("a number");
    lived = lived.take(Step::Kill).await;
    let again = lived.settled().await;
    assert_eq!(
        open(lived_in).generation().expect("a number"),
        generation,
        "a start changes nothing that is right"
    );
    let started = Life::start(fresh, lived.known.clone(), Faults::default()).await.settled().await;
    [ended, again, started]
}

#[test]
fn any_history_with_crashes_ends_as_a_cold_start_does() {
    if Namespace::new().is_none() {
        return;
    }
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&steps(), |steps| {
        let namespaces = [(); 2].map(|()| Namespace::new().expect("as before"));
        let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let [ended, again, started] = runtime.expect("a runtime").block_on(live(&namespaces, steps));
        prop_assert_eq!(&ended, &again);
        prop_assert_eq!(unordered(&ended), unordered(&started));
        prop_assert_eq!((&ended.chains, &ended.affinity), (&started.chains, &started.affinity));
        Ok(())
    });
    run.expect("every history ends there");
}
