//! Any history of events, with crashes and restarts between, leaves in the kernel what a cold start of the final objects does.
//!
//! Each history runs on the real kernel: after every step that ends a transaction pair, what is read back is what the model
//! says; at the end, nft lists the table as text and as JSON, and a cold start in another namespace has the same elements,
//! up to the order of slots.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use portico_nodeproxy::dataplane::{Dataplane, nftables::Nftables};
use portico_proxy_core::{
    input::{
        Config as ModelConfig, Endpoint, EndpointSlice, Event, Hints, NodeFacts, Service, ServiceName,
        ServicePort, SlicePort, TrafficPolicy,
    },
    ledger::Moment,
    model::Model,
    plan::State,
    table::{Key, Protocol, Value},
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{netns::Namespace, table::mk_config};

/// What happens to a proxy.
#[derive(Clone, Debug)]
enum Step {
    /// It learns something, and does nothing yet.
    Learn(Event),
    /// It makes what may be made at once.
    Widen,
    /// It removes what has been out of reach.
    Narrow,
    /// It dies, and another one starts with all that is known.
    Restart,
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
    Event::Node(NodeFacts {
        name: "here".into(),
        addresses: all[..2].to_vec(),
        node_port_addresses: all[..=addresses].to_vec(),
        pod_cidrs: vec!["10.1.0.0/16".parse().expect("a CIDR"), "fd01::/64".parse().expect("a CIDR")],
        node_pod_cidrs: vec!["10.1.0.0/30".parse().expect("a CIDR")],
        ..NodeFacts::default()
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
        6 => event().prop_map(Step::Learn),
        4 => Just(Step::Widen),
        2 => Just(Step::Narrow),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

/// A proxy, and what the API server would tell its successor.
struct Life {
    tables: Nftables,
    model: Model,
    known: BTreeMap<String, Event>,
    now: Moment,
}

/// What an event is about: the last one of each is what stands in the API server.
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

impl Life {
    fn new(node: &Namespace) -> Self {
        let mut life = Self {
            tables: open(node),
            model: Model::new(ModelConfig::default()),
            known: BTreeMap::new(),
            now: 0,
        };
        life.learn(mk_node(1));
        life.look();
        life
    }

    fn learn(&mut self, event: Event) {
        self.known.insert(subject(&event), event.clone());
        self.model.apply(event);
    }

    /// As at every start and after every error.
    fn look(&mut self) {
        let observed = self.tables.read().expect("reads");
        self.model.adopt(&observed.state);
    }

    fn widen(&mut self) {
        self.now += 1;
        let transaction = self.model.ledger().widen();
        self.tables.apply(&transaction).expect("widens");
        self.model.ledger_mut().applied(&transaction, self.now);
    }

    fn narrow(&mut self) {
        self.now += 1;
        let transaction = self.model.ledger().narrow(self.now);
        self.tables.apply(&transaction).expect("narrows");
        self.model.ledger_mut().applied(&transaction, self.now);
    }

    /// Nothing of the old process is left but what stands in the kernel; the objects come in another order.
    fn restart(&mut self, node: &Namespace) {
        self.tables = open(node);
        self.model = Model::new(ModelConfig::default());
        for event in self.known.values().rev() {
            self.model.apply(event.clone());
        }
        self.look();
    }

    fn settle(&mut self) -> State {
        self.widen();
        self.narrow();
        let observed = self.tables.read().expect("reads");
        assert_eq!(observed.rebuild, None);
        assert!(self.model.ledger().is_settled());
        assert_eq!(&observed.state, self.model.ledger().desired(), "the kernel has what the model says");
        observed.state
    }
}

/// Keys with their values, but for slots; and the backends of each list.
type Unordered = (BTreeSet<(Key, Option<Value>)>, BTreeSet<(Key, Value)>);

/// What stands, whichever endpoint is in which slot.
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

fn live(node: &Namespace, steps: Vec<Step>) -> Life {
    let mut life = Life::new(node);
    for step in steps {
        match step {
            Step::Learn(event) => life.learn(event),
            Step::Widen => life.widen(),
            Step::Narrow => life.narrow(),
            Step::Restart => life.restart(node),
        }
    }
    life
}

#[test]
fn any_history_with_crashes_ends_as_a_cold_start_does() {
    if Namespace::new().is_none() {
        return;
    }
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&steps(), |steps| {
        let [lived_in, fresh] = [(); 2].map(|()| Namespace::new().expect("as before"));
        let mut lived = live(&lived_in, steps);
        let ended = lived.settle();
        listed(&lived_in);
        let mut cold = Life::new(&fresh);
        for event in lived.known.values() {
            cold.learn(event.clone());
        }
        let started = cold.settle();
        prop_assert_eq!(unordered(&ended), unordered(&started));
        prop_assert_eq!((&ended.chains, &ended.affinity), (&started.chains, &started.affinity));
        lived.restart(&lived_in);
        prop_assert!(lived.model.ledger().widen().is_empty(), "a restart changes nothing that is right");
        Ok(())
    });
    run.expect("every history ends there");
}
