//! Recognition of pods by interface, with real packets: behind a bridge, and by a prefix of names. Also a restart with another
//! `--detect-local-mode`.

use std::collections::{BTreeMap, BTreeSet};

use portico_netlink::routes;
use portico_nodeproxy::dataplane::{
    Dataplane,
    nftables::{Config, LocalDetector, Nftables},
};
use portico_proxy_core::{
    input::{Config as ModelConfig, Event},
    interface::PodInterfaces,
    model::Model,
    packets::{
        self, NODE, OUTSIDE, POD,
        interfaces::{self, BRIDGE, PREFIX},
        invalid::INVALID_PACKETS,
        twin,
    },
    plan::diff,
    table::Family,
};

use crate::{
    invalid::{arrives, owner},
    netns::Namespace,
    table::{Table, program_model, traced, wrong},
};

/// First source port of the invalid packets.
const FIRST_INVALID: u16 = 22_000;

/// A value of `--detect-local-mode`, with what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    None,
    /// By addresses of IPv4 only.
    OneFamily,
    Addresses,
    Interfaces(PodInterfaces),
}

impl Mode {
    fn tables(self) -> Config {
        let local_detector = match self {
            Self::None => LocalDetector::default(),
            Self::OneFamily => LocalDetector::Addresses(BTreeSet::from([Family::V4])),
            Self::Addresses => LocalDetector::addresses(),
            Self::Interfaces(interfaces) => LocalDetector::Interfaces(interfaces),
        };
        Config { local_detector, ..Config::default() }
    }

    fn model(self) -> Model {
        let pod_interfaces = if let Self::Interfaces(interfaces) = self { Some(interfaces) } else { None };
        let mut model = Model::new(ModelConfig { pod_interfaces, ..ModelConfig::default() });
        let counts = |net: &ipnet::IpNet| match self {
            Self::None | Self::Interfaces(_) => false,
            Self::OneFamily => net.addr().is_ipv4(),
            Self::Addresses => true,
        };
        for mut event in packets::cluster_events() {
            if let Event::Node(node) = &mut event {
                node.pod_cidrs.retain(counts);
                node.node_pod_cidrs.retain(counts);
            }
            model.apply(event);
        }
        model
    }
}

fn named(name: &str) -> PodInterfaces {
    PodInterfaces::Named(name.parse().expect("a name"))
}

fn prefixed(prefix: &str) -> PodInterfaces {
    PodInterfaces::Prefixed(prefix.parse().expect("a prefix"))
}

/// Every row and every invalid packet, and what the tracer says of them.
fn rows_hold(detector: PodInterfaces, bridge: Option<&str>) {
    let Some(table) = Table::behind(bridge) else { return };
    let (mode, cases) = (Mode::Interfaces(detector), interfaces::cases());
    let model = mode.model();
    let mut tables = program_model(&table.node, mode.tables(), &model);
    let wrong = wrong(&table, &model, &cases);
    assert!(wrong.is_empty(), "(case, [got, expected]): {wrong:#?}");
    for (number, row) in (FIRST_INVALID..).zip(INVALID_PACKETS) {
        for v6 in [false, true] {
            let (from, to) = (table.namespace(row.from), owner(&table, row.to));
            let arrived = arrives(from, to, row.addresses(v6), number);
            assert_eq!(arrived, interfaces::arrives(row), "{}, IPv6 {v6}", row.name);
        }
    }
    for case in &cases {
        let (trace, check) = traced(&mut tables, &model, &interfaces::packet(case, &detector));
        assert_eq!(trace.outcome(), case.outcome(), "{}", case.name);
        assert!(check.agrees(), "{}: {check}", case.name);
    }
}

#[test]
fn real_packets_get_what_the_rows_say_where_pods_are_behind_a_bridge() {
    rows_hold(named(BRIDGE), Some(BRIDGE));
}

#[test]
fn real_packets_get_what_the_rows_say_where_pods_have_a_prefix() {
    rows_hold(prefixed(PREFIX), None);
}

#[test]
fn the_kernel_knows_the_interface_on_the_way_to_a_pod() {
    let Some(table) = Table::behind(Some(BRIDGE)) else { return };
    for (address, interface) in [(POD, BRIDGE), (OUTSIDE, "c0"), (NODE, "lo")] {
        for address in [address.into(), twin(address).into()] {
            let found = table.node.run(move || routes::interface_towards(address)).expect("asks");
            assert_eq!(found.as_deref(), Some(interface), "{address}");
        }
    }
    let Some(lonely) = Namespace::new() else { return };
    assert!(lonely.run(|| routes::interface_towards(POD.into())).is_err(), "there is no way");
}

#[test]
fn nft_lists_interfaces_as_one_would_write_them_and_takes_the_text_back() {
    let Some(node) = Namespace::new() else { return };
    for (interfaces, text) in [
        (named("cni0"), "\"cni0\""),
        (prefixed("veth"), "\"veth*\""),
        (prefixed("v"), "\"v*\""),
        (named("fifteen-bytes-x"), "\"fifteen-bytes-x\""),
    ] {
        restart(&node, Mode::Interfaces(interfaces));
        for family in ["ip", "ip6"] {
            let listing = node.sh(&format!("nft list table {family} portico"));
            for rule in [
                format!("daddr @cluster-ips iifname != {text} meta mark set"),
                format!("\t\tiifname {text} meta priority set"),
                format!("ct state invalid iifname {text} tcp sport < 32768 tcp flags ! syn,rst"),
            ] {
                assert!(listing.contains(&rule), "{rule:?} is not in\n{listing}");
            }
        }
        node.sh("nft list table ip portico | unshare --net nft -f -");
    }
}

/// The rules of each chain, as nft prints them.
fn chains(node: &Namespace) -> BTreeMap<String, Vec<String>> {
    let listing: serde_json::Value = serde_json::from_str(&node.sh("nft -j list ruleset")).expect("JSON");
    let mut chains = BTreeMap::<_, Vec<_>>::new();
    for rule in listing["nftables"].as_array().expect("a list").iter().filter_map(|object| object.get("rule"))
    {
        let chain = format!("{} {}", rule["family"], rule["chain"]).replace('"', "");
        chains.entry(chain).or_default().push(rule["expr"].to_string());
    }
    chains
}

/// Chains of whose rules the mode is part.
fn is_about_pods(chain: &str) -> bool {
    ["dispatch", "external", "input", "forward"].iter().any(|name| chain.ends_with(&format!(" {name}")))
}

/// Starts over an existing table; returns the reason to rebuild its fixed part, if there is one, and the number
/// of transactions.
fn restart(node: &Namespace, mode: Mode) -> (Option<String>, usize) {
    let (config, model) = (mode.tables(), mode.model());
    let mut tables = node.run(move || Nftables::open(config)).expect("opens");
    let observed = tables.read().expect("reads");
    let plan = diff(&observed.state, model.shadow().desired());
    let mut transactions = 0;
    for transaction in [&plan.additive, &plan.destructive] {
        if !transaction.is_empty() || (observed.rebuild.is_some() && transactions == 0) {
            transactions += tables.apply(transaction).expect("applies").transactions;
        }
    }
    let after = tables.read().expect("reads");
    assert_eq!((after.rebuild, &after.state), (None, model.shadow().desired()), "{mode:?}");
    (observed.rebuild, transactions)
}

#[test]
fn a_restart_with_another_mode_reprograms_exactly_that_and_one_with_the_same_nothing() {
    let Some(node) = Namespace::new() else { return };
    let modes = [
        Mode::None,
        Mode::OneFamily,
        Mode::Addresses,
        Mode::Interfaces(named("cni0")),
        Mode::Interfaces(named("veth")),
        Mode::Interfaces(prefixed("veth")),
        Mode::Interfaces(prefixed("fifteen-bytes-x")),
    ];
    for (before, after) in modes.iter().flat_map(|before| modes.map(|after| (*before, after))) {
        restart(&node, before);
        let stood = chains(&node);
        let (rebuilt, transactions) = restart(&node, after);
        let about = format!("{before:?}, then {after:?}: {rebuilt:?}");
        assert_eq!(
            (rebuilt.is_some(), transactions),
            (before != after, usize::from(before != after)),
            "{about}"
        );
        let stands = chains(&node);
        let names: BTreeSet<_> = stood.keys().chain(stands.keys()).collect();
        let changed: BTreeSet<_> =
            names.into_iter().filter(|name| stood.get(*name) != stands.get(*name)).collect();
        assert_eq!(changed.is_empty(), before == after, "{about}");
        assert!(changed.iter().all(|chain| is_about_pods(chain)), "{about}: {changed:?}");
    }
}
