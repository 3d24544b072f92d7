//! The packet table of `portico_proxy_core::packets`, with real packets: model, plan, kernel, and what clients then get.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use portico_nodeproxy::dataplane::{
    Dataplane, Observed,
    nftables::{Config, LocalDetector, Nftables},
};
use portico_proxy_core::{
    check::{Check, Wanted},
    input::Config as ModelConfig,
    model::Model,
    oracle::{Packet, Source},
    packets::{
        self, CASES, Case, Client, Expect, FAR_POD, FURTHER_NODE_ADDRESS, NODE, OTHER_FAR_POD,
        OTHER_NODE_ADDRESS, OTHER_POD, OUTSIDE, POD, UNALLOCATED, twin,
    },
    plan::{State, diff},
    table::{Key, Protocol, Value},
    trace::{self, Trace},
    walk::PacketContext,
};

use crate::{
    netns::Namespace,
    test_network::{Got, Wire, add_bridge, connect_client, connect_pod, dial, forwards},
};

/// The pods of the table, by the number with which they answer. The far pods are behind this node, too, but the model thinks
/// that they are elsewhere.
pub(crate) const PODS: [Ipv4Addr; 4] = [POD, OTHER_POD, FAR_POD, OTHER_FAR_POD];
/// The node's interfaces that lead to them ([`Client::interface`]).
const WIRES: [&str; 4] = ["p0", "p1", "far2", "far3"];
/// So many of them are pods of this node.
const HERE: usize = 2;
/// How often a case is dialled that may go to more than one pod: each is missed once in 2^24 runs.
const TRIES: usize = 24;

pub(crate) struct Table {
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    pub(crate) pods: [Namespace; 4],
}

impl Table {
    pub(crate) fn new() -> Option<Self> {
        Self::behind(None)
    }

    /// The same with the pods of this node behind a bridge, if one is named.
    pub(crate) fn behind(bridge: Option<&str>) -> Option<Self> {
        let table = Self {
            client: Namespace::new()?,
            node: Namespace::new()?,
            pods: [Namespace::new()?, Namespace::new()?, Namespace::new()?, Namespace::new()?],
        };
        forwards(&table.node);
        let pairs = [(NODE.into(), OUTSIDE.into()), (twin(NODE).into(), twin(OUTSIDE).into())];
        connect_client(&table.node, &table.client, pairs);
        for address in [OTHER_NODE_ADDRESS, FURTHER_NODE_ADDRESS] {
            table.node.sh(&format!("ip addr add {address}/24 dev c0"));
        }
        table
            .client
            .sh(&format!("ip addr add {UNALLOCATED} dev lo; ip addr add {} dev lo", twin(UNALLOCATED)));
        table.node.sh(&format!("ip route add {UNALLOCATED} via {OUTSIDE}"));
        table.node.sh(&format!("ip -6 route add {} via {}", twin(UNALLOCATED), twin(OUTSIDE)));
        if let Some(bridge) = bridge {
            add_bridge(&table.node, bridge);
        }
        for (number, (pod, address)) in table.pods.iter().zip(PODS).enumerate() {
            let wire = Wire { name: WIRES[number], bridge: bridge.filter(|_| number < HERE) };
            connect_pod(&table.node, pod, number, wire, &[address.into(), twin(address).into()]);
        }
        Some(table)
    }

    pub(crate) fn namespace(&self, client: Client) -> &Namespace {
        match client {
            Client::Pod => &self.pods[1],
            Client::Endpoint => &self.pods[0],
            Client::Node => &self.node,
            Client::FarPod => &self.pods[3],
            Client::Outside => &self.client,
        }
    }

    /// Results of a case, each possible one once.
    pub(crate) fn answers(&self, case: &Case) -> BTreeSet<String> {
        let tries = if matches!(case.expect, Expect::Pods(_)) { TRIES } else { 1 };
        (0..tries).map(|_| describe(dial(self.namespace(case.from), case.packet().to), case)).collect()
    }
}

/// An answer in words that do not depend on which of its addresses the node is seen by.
pub(crate) fn describe(got: Got, case: &Case) -> String {
    match got {
        Got::Pod(number, seen) => {
            // The node itself is masqueraded to an address that it may have had anyway.
            let source = match seen {
                seen if seen == case.in_family(NODE) => Source::Masqueraded,
                seen if seen == case.in_family(case.from.address()) => Source::Preserved,
                other => return format!("{} sees {other}", PODS[number]),
            };
            format!("{} sees {source:?}", PODS[number])
        }
        Got::Refused => "refused".to_owned(),
        Got::Silence | Got::NoRoute => "silence".to_owned(),
    }
}

pub(crate) fn expected(case: &Case) -> BTreeSet<String> {
    match case.expect {
        Expect::Pods(pods) => pods.iter().map(|(pod, source)| format!("{pod} sees {source:?}")).collect(),
        // What is not ours goes to the host outside, which listens on no such port and says so itself.
        Expect::Refused | Expect::NotOurs => BTreeSet::from(["refused".to_owned()]),
        Expect::Dropped => BTreeSet::from(["silence".to_owned()]),
    }
}

pub(crate) fn is_sticky(state: &State, case: &Case) -> bool {
    state.alias(&case.packet().to).is_some()
}

pub(crate) fn mk_config() -> Config {
    Config { local_detector: LocalDetector::addresses(), ..Config::default() }
}

/// The table's cluster in a node's kernel.
pub(crate) fn program(node: &Namespace, config: Config) -> (Nftables, Model) {
    let mut model = Model::new(ModelConfig::default());
    for event in packets::cluster_events() {
        model.apply(event);
    }
    (program_model(node, config, &model), model)
}

/// The desired state of a model in a node's empty kernel.
pub(crate) fn program_model(node: &Namespace, config: Config, model: &Model) -> Nftables {
    let mut tables = node.run(move || Nftables::open(config)).expect("opens");
    let observed = tables.read().expect("reads").state;
    assert_eq!(observed, State::default());
    tables.apply(&diff(&observed, model.shadow().desired()).additive).expect("commits");
    tables
}

/// What `portico-nodeproxy trace --kernel` says about a packet.
pub(crate) fn traced(tables: &mut Nftables, model: &Model, packet: &Packet) -> (Trace, Check) {
    let trace = trace::trace(model, packet);
    let Observed { state, rebuild } = tables.read().expect("reads");
    let check = Wanted::by_packet(model, packet).check(&state, rebuild);
    let check = check.walked(&state, PacketContext::of(model), packet, &trace.outcome());
    (trace, check)
}

/// The same, with the client looked up in the kernel first.
pub(crate) fn traced_with_affinity(tables: &mut Nftables, model: &Model, packet: &Packet) -> (Trace, Check) {
    let id = model
        .affinity_of(&packet.to)
        .and_then(|(port, map)| tables.affinity_entry(&map, packet.source, &port).expect("looks up"));
    let last = id.and_then(|id| {
        let service = model.service_of(&packet.to)?;
        model.elements_of(service).find_map(|(key, value)| match (key, value) {
            (Key::AffinityEndpoint(_, _, of), Value::Backend(backend)) if of == id => Some(backend),
            _ => None,
        })
    });
    let trace = trace::trace_with_affinity(model, packet, last);
    let Observed { state, rebuild } = tables.read().expect("reads");
    let check = Wanted::by_packet(model, packet).check(&state, rebuild);
    let context = PacketContext { affinity_id: id, ..PacketContext::of(model) };
    let check = check.walked(&state, context, packet, &trace.outcome());
    (trace, check)
}

/// Rows that get something else than they should, with what they get and should. Those over SCTP are in `sctp.rs`, which needs
/// no sockets of that kind.
pub(crate) fn wrong(
    table: &Table,
    model: &Model,
    cases: &[Case],
) -> BTreeMap<&'static str, [BTreeSet<String>; 2]> {
    let mut wrong = BTreeMap::new();
    for case in cases.iter().filter(|case| case.to.1 != Protocol::Sctp) {
        let (got, expected) = (table.answers(case), expected(case));
        // One client of a frontend with affinity sees one of its pods, again and again.
        let is_right = if is_sticky(model.shadow().desired(), case) {
            got.len() == 1 && got.is_subset(&expected)
        } else {
            got == expected
        };
        if !is_right {
            wrong.insert(case.name, [got, expected]);
        }
    }
    wrong
}

#[test]
fn the_tracer_and_the_kernel_agree_on_every_row_until_another_program_changes_an_element() {
    let Some(node) = Namespace::new() else { return };
    let (mut tables, model) = program(&node, mk_config());
    for case in CASES {
        let (trace, check) = traced(&mut tables, &model, &case.packet());
        assert_eq!(trace.outcome(), case.outcome(), "{}", case.name);
        assert!(check.agrees(), "{}: {check}", case.name);
    }
    let case = &CASES[0];
    node.sh("nft delete element ip portico endpoints '{ 10.96.0.1 . tcp . 80 . 1 }'");
    let (_, check) = traced(&mut tables, &model, &case.packet());
    let named: Vec<_> =
        check.differences.iter().map(|d| (d.map.as_str(), d.key.as_str(), d.found.as_deref())).collect();
    assert_eq!(named, [("ip endpoints", "10.96.0.1:80/tcp slot 0x1", None)], "{check}");
    assert!(check.outcome.is_some(), "a packet would notice: {check}");
    node.sh("nft flush chain ip portico dispatch");
    let (_, check) = traced(&mut tables, &model, &case.packet());
    assert!(check.damage.is_some_and(|damage| damage.contains("chain dispatch has 0 rules")));
}

#[test]
fn real_packets_get_what_the_packet_table_says() {
    let Some(table) = Table::new() else { return };
    let (mut tables, model) = program(&table.node, mk_config());
    let wrong = wrong(&table, &model, CASES);
    assert!(wrong.is_empty(), "(case, [got, expected]): {wrong:#?}");
    assert_eq!(&tables.read().expect("reads").state, model.shadow().desired());
}
