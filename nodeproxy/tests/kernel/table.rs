//! The packet table of `portico_proxy_core::packets`, with real packets: model, plan, kernel, and what clients then get.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use portico_nodeproxy::dataplane::{
    Dataplane,
    nftables::{Config, Nftables},
};
use portico_proxy_core::{
    input::Config as ModelConfig,
    model::Model,
    oracle::Source,
    packets::{self, CASES, Case, Client, Expect, FAR_POD, NODE, OTHER_POD, OUTSIDE, POD},
    plan::{State, diff},
    table::{Family, Key, Value, Verdict},
};

use crate::{
    netns::Namespace,
    world::{Got, connect_client, connect_pod, dial, forwards},
};

/// The pods of the table, by the number with which they answer. The far pod is behind this node, too, but the model thinks
/// that it is elsewhere.
const PODS: [Ipv4Addr; 3] = [POD, OTHER_POD, FAR_POD];
/// How often a case is dialled that may go to more than one pod: each is missed once in 2^24 runs.
const TRIES: usize = 24;

struct Table {
    client: Namespace,
    node: Namespace,
    pods: [Namespace; 3],
}

impl Table {
    fn new() -> Option<Self> {
        let table = Self {
            client: Namespace::new()?,
            node: Namespace::new()?,
            pods: [Namespace::new()?, Namespace::new()?, Namespace::new()?],
        };
        forwards(&table.node);
        connect_client(&table.node, &table.client, [(NODE.into(), OUTSIDE.into())]);
        for (number, (pod, address)) in table.pods.iter().zip(PODS).enumerate() {
            connect_pod(&table.node, pod, number, &[address.into()]);
        }
        Some(table)
    }

    fn namespace(&self, client: Client) -> &Namespace {
        match client {
            Client::Pod => &self.pods[1],
            Client::Endpoint => &self.pods[0],
            Client::Node => &self.node,
            Client::Outside => &self.client,
        }
    }

    /// What a case gets, each possible answer once.
    fn answers(&self, case: &Case) -> BTreeSet<String> {
        let tries = if matches!(case.expect, Expect::Pods(_)) { TRIES } else { 1 };
        (0..tries).map(|_| describe(dial(self.namespace(case.from), case.packet().to), case.from)).collect()
    }
}

/// An answer in words that do not depend on which of its addresses the node is seen by.
fn describe(got: Got, from: Client) -> String {
    match got {
        Got::Pod(number, seen) => {
            // The node itself is masqueraded to an address that it may have had anyway.
            let source = match seen {
                seen if seen == IpAddr::V4(NODE) => Source::Masqueraded,
                seen if seen == IpAddr::V4(from.address()) => Source::Preserved,
                other => return format!("{} sees {other}", PODS[number]),
            };
            format!("{} sees {source:?}", PODS[number])
        }
        Got::Refused => "refused".to_owned(),
        Got::Silence | Got::NoRoute => "silence".to_owned(),
    }
}

fn expected(case: &Case) -> BTreeSet<String> {
    match case.expect {
        Expect::Pods(pods) => pods.iter().map(|(pod, source)| format!("{pod} sees {source:?}")).collect(),
        // What is not ours goes to the host outside, which listens on no such port and says so itself.
        Expect::Refused | Expect::NotOurs => BTreeSet::from(["refused".to_owned()]),
        Expect::Dropped => BTreeSet::from(["silence".to_owned()]),
    }
}

fn is_sticky(state: &State, case: &Case) -> bool {
    let verdict = state.elements.get(&Key::Service(case.packet().to));
    matches!(verdict, Some(Value::Verdict(Verdict::Balance(balance))) if balance.affinity.is_some())
}

#[test]
fn real_packets_get_what_the_packet_table_says() {
    let Some(table) = Table::new() else { return };
    let config = Config { local_detector: BTreeSet::from([Family::V4]), ..Config::default() };
    let mut tables = table.node.run(move || Nftables::open(config)).expect("opens");
    let mut model = Model::new(ModelConfig::default());
    for event in packets::world() {
        model.apply(event);
    }
    let observed = tables.read().expect("reads").state;
    let plan = diff(&observed, model.ledger().desired());
    tables.apply(&plan.widen).expect("widens");
    assert_eq!(observed, State::default());
    let wrong: BTreeMap<_, _> = CASES
        .iter()
        .map(|case| (case.name, (table.answers(case), expected(case))))
        .filter(|(name, (got, expected))| {
            let sticky =
                CASES.iter().any(|case| case.name == *name && is_sticky(model.ledger().desired(), case));
            // One client of a frontend with affinity sees one of its pods, again and again.
            if sticky { got.len() != 1 || !got.is_subset(expected) } else { got != expected }
        })
        .collect();
    assert!(wrong.is_empty(), "(case, (got, expected)): {wrong:#?}");
    assert_eq!(&tables.read().expect("reads").state, model.ledger().desired());
}
