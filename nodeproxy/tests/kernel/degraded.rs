//! A kernel without some features, played on one that has them all: the rules for such a kernel, with real packets. The choice of
//! the rules is tested in the dataplane.

use std::collections::BTreeSet;

use portico_netlink::probe::Feature;
use portico_nodeproxy::dataplane::{
    Dataplane,
    nftables::{Config, Nftables},
};
use portico_proxy_core::{
    input::{Config as ModelConfig, Lack},
    model::Model,
    packets::{self, CASES, Client, Expect},
    plan::{State, diff},
    table::{Family, Key},
};

use crate::{
    table::{Table, mk_config},
    test_network::{Got, dial},
};

const OPTIONAL: [Feature; 4] =
    [Feature::Reject, Feature::RouteTypes, Feature::DynamicMaps, Feature::ConcatenatedRanges];

fn mk_lacking() -> Config {
    let lacks = [Family::V4, Family::V6].map(|family| (family, OPTIONAL.into())).into();
    Config { lacks, ..mk_config() }
}

fn mk_model() -> Model {
    let lacks = BTreeSet::from([Lack::SessionAffinity, Lack::SourceRanges]);
    let mut model = Model::new(ModelConfig { lacks, ..ModelConfig::default() });
    for event in packets::cluster_events() {
        model.apply(event);
    }
    model
}

fn open(table: &Table, model: &Model) -> Nftables {
    let mut tables = table.node.run(|| Nftables::open(mk_lacking())).expect("opens");
    let observed = tables.read().expect("reads").state;
    tables.apply(&diff(&observed, model.shadow().desired()).additive).expect("commits");
    tables
}

#[test]
fn without_all_that_is_optional_everything_else_works_and_nobody_gets_in_who_should_not() {
    let Some(table) = Table::new() else { return };
    let model = mk_model();
    let mut tables = open(&table, &model);
    for case in CASES.iter().filter(|case| case.to.1 != portico_proxy_core::table::Protocol::Sctp) {
        let got = dial(table.namespace(case.from), case.packet().to);
        let firewalled = model.shadow().desired().elements.contains_key(&Key::Firewalled(case.packet().to));
        // The node's own way to Services under policy Local is what route types are for.
        let own = case.from == Client::Node && case.name.contains("externalTrafficPolicy Local");
        match (case.expect, got) {
            _ if own => {}
            (_, Got::Silence) if firewalled => {}
            (Expect::Pods(_), Got::Pod(..)) if !firewalled => {}
            // Where what is not ours goes nobody listens, and says so itself.
            (Expect::Refused | Expect::Dropped, Got::Silence) | (Expect::NotOurs, Got::Refused) => {}
            (expect, got) => unreachable!("{}: {expect:?}, and got {got:?}", case.name),
        }
    }
    let observed = tables.read().expect("reads");
    assert_eq!((observed.rebuild, &observed.state), (None, model.shadow().desired()));
    let listing = table.node.sh("nft list table ip portico");
    for word in ["source-ranges", "affinity-10800", "fib", "reject"] {
        assert!(!listing.contains(word), "{word} is in\n{listing}");
    }
}

#[test]
fn a_kernel_that_learns_a_feature_gets_the_whole_table() {
    let Some(table) = Table::new() else { return };
    let model = mk_model();
    drop(open(&table, &model));
    let mut whole = table.node.run(|| Nftables::open(mk_config())).expect("opens");
    assert!(whole.probe().expect("asks").degraded.is_empty());
    let observed = whole.read().expect("reads");
    assert!(observed.rebuild.is_some());
    assert_eq!(observed.state, State::default());
}
