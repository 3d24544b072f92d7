//! Written objects exist, nft lists them, they read back equal, and a transaction is refused or repaired as a
//! whole.

use std::{net::IpAddr, time::Instant};

use portico_netlink::nftables::{self as kernel, Client, Table};
use portico_nodeproxy::dataplane::{
    Applied, Dataplane, DataplaneError,
    nftables::{Config, LocalDetector, Nftables},
};
use portico_proxy_core::{
    plan::{Put, State, Transaction, diff},
    table::{
        AFFINITY_TAG, Alias, Backend, Balance, Family, Frontend, Key, LOCAL_SLOTS, List, Pick, Protocol,
        Recall, Value, Verdict,
    },
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::netns::{Namespace, note};

/// Runs a test in a namespace of its own with the dataplane open in it.
fn with_tables(test: impl FnOnce(&Namespace, &mut Nftables) + Send + 'static) {
    let Some(namespace) = Namespace::new() else { return };
    let config = mk_config();
    let mut tables = namespace.run(move || Nftables::open(config)).expect("opens");
    test(&namespace, &mut tables);
}

fn mk_config() -> Config {
    Config { local_detector: LocalDetector::addresses(), ..Config::default() }
}

/// Brings the kernel to a state, as the sync loop does.
fn sync(tables: &mut Nftables, desired: &State) -> Applied {
    let observed = tables.read().expect("reads").state;
    let plan = diff(&observed, desired);
    let applied = tables.apply(&plan.additive).expect("commits");
    tables.apply(&plan.destructive).expect("commits");
    applied
}

fn read_whole(tables: &mut Nftables) -> State {
    let observed = tables.read().expect("reads");
    assert_eq!(observed.rebuild, None);
    observed.state
}

fn ip(v6: bool, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number]) } else { IpAddr::from([10, 96, high, low]) }
}

fn mk_frontend(v6: bool, number: u16) -> Frontend {
    Frontend { address: ip(v6, number), protocol: Protocol::Tcp, port: 80 }
}

fn mk_backend(v6: bool, number: u16) -> Value {
    Value::Backend(Backend { address: ip(v6, 0x4000 | number), port: 8080 })
}

fn mk_alias(v6: bool, number: u16) -> Alias {
    let address =
        if v6 { IpAddr::from([0x100, 0, 0, 0, 0, 0, 0, number]) } else { IpAddr::from([240, 0, 0, 2]) };
    Alias { address, protocol: Protocol::Tcp }
}

/// A state with every kind of element, chain and map.
fn mk_everything(v6: bool) -> State {
    let f = |number| mk_frontend(v6, number);
    let net = |text4: &str, text6: &str| if v6 { text6.parse() } else { text4.parse() }.expect("a network");
    let mut all = Vec::new();
    let mut number = 1;
    for list in [List::Cluster, List::Local] {
        for masquerade in [false, true] {
            let balance = Verdict::Balance(Balance { endpoints: 2, list, masquerade });
            let recall = Verdict::Recall(Recall { seconds: 10_800, pool: 0x00c0_ffee, list, masquerade });
            for verdict in [balance, recall] {
                all.push((Key::Service(f(number)), Value::Verdict(verdict)));
                number += 1;
            }
        }
    }
    let alias = mk_alias(v6, 2);
    for list in [List::Cluster, List::Local] {
        let pick = Verdict::Pick(Pick { endpoints: 2, list });
        let id = AFFINITY_TAG | 0x00c0_ffee;
        all.extend([
            (Key::AffinityPick(alias, list), Value::Verdict(pick)),
            (Key::AffinitySlot(alias, list.first_slot() + 1), Value::Id(id)),
            (Key::AffinityEndpoint(alias, list, id), mk_backend(v6, 3)),
        ]);
    }
    let balance = Balance { endpoints: 1, list: List::Local, masquerade: false };
    let family = if v6 { Family::V6 } else { Family::V4 };
    all.extend([
        (Key::Service(f(20)), Value::Verdict(Verdict::External)),
        (Key::Local(f(20)), Value::Verdict(Verdict::Balance(balance))),
        (Key::Short(f(20)), Value::Verdict(Verdict::Balance(Balance { list: List::Cluster, ..balance }))),
        (Key::NoEndpoints(f(21)), Value::Verdict(Verdict::Reject)),
        (Key::NoEndpoints(f(22)), Value::Verdict(Verdict::Drop)),
        (Key::Endpoint(f(1), 0), mk_backend(v6, 1)),
        (Key::Endpoint(f(1), LOCAL_SLOTS), mk_backend(v6, 2)),
        (Key::AffinityPort(f(2)), Value::Alias(alias.address)),
        (Key::NodeAddress(ip(v6, 30)), Value::Present),
        (Key::NodePortStandIn(family, Protocol::Tcp), Value::Alias(ip(v6, 31))),
        (Key::NodePort(family, Protocol::Tcp, 30_080), Value::Present),
        (Key::NodePortNoEndpoints(family, Protocol::Tcp, 30_081), Value::Verdict(Verdict::Reject)),
        (Key::ClusterIp(ip(v6, 1)), Value::Present),
        (Key::Hairpin(ip(v6, 0x4001), Protocol::Udp, 53), Value::Present),
        (Key::Firewalled(f(20)), Value::Present),
        (Key::SourceRange(f(20), net("192.0.2.0/24", "2001:db8::/32")), Value::Present),
        (Key::SourceRange(f(20), net("198.51.100.7/32", "2001:db9::7/128")), Value::Present),
        (Key::PodCidr(net("10.244.0.0/24", "fd01::/64")), Value::Present),
        (Key::PodCidr(net("10.244.1.0/24", "fd01:0:0:1::/64")), Value::Present),
        (Key::PodCidr(net("255.255.255.0/24", "ff00::/8")), Value::Present),
        (Key::NodePod(net("10.244.0.0/24", "fd01::/64")), Value::Present),
        (Key::ServiceCidr(net("10.96.0.0/16", "fd00::/108")), Value::Present),
    ]);
    all.into_iter().collect()
}

fn mk_both_families() -> State {
    let mut state = mk_everything(false);
    let State { elements, chains, affinity } = mk_everything(true);
    state.elements.extend(elements);
    state.chains.extend(chains);
    state.affinity.extend(affinity);
    state
}

#[test]
fn an_empty_kernel_gets_the_skeleton_and_reads_back_whole_and_empty() {
    with_tables(|_, tables| {
        let observed = tables.read().expect("reads");
        assert!(observed.rebuild.expect("there is no table yet").contains("there is none yet"));
        tables.apply(&Transaction::default()).expect("writes the skeleton");
        assert_eq!(read_whole(tables), State::default());
    });
}

#[test]
fn every_kind_of_element_chain_and_map_reads_back_equal() {
    with_tables(|_, tables| {
        let state = mk_both_families();
        sync(tables, &state);
        assert_eq!(read_whole(tables), state);
        assert!(diff(&read_whole(tables), &state).is_empty(), "a restart changes nothing");
    });
}

/// The count with which a large set is listed once (`read.rs`).
#[test]
fn a_kernel_that_counts_elements_counts_those_that_stand() {
    with_tables(|namespace, tables| {
        let mut state = mk_both_families();
        for number in 100..300 {
            state.insert(Key::ClusterIp(ip(false, number)), Value::Present);
        }
        sync(tables, &state);
        let mut client = namespace.run(Client::open).expect("opens");
        let table = Table { family: kernel::Family::Ip, name: "portico".to_owned() };
        let sets = client.sets(&table).expect("lists");
        // Ranges are two elements each, and kernels differ in how they count them.
        let counted: Vec<_> =
            sets.iter().filter(|set| !set.intervals).filter_map(|set| Some((set, set.count?))).collect();
        if counted.is_empty() {
            return note("skipped: this kernel does not say how many elements a set has");
        }
        for (set, count) in counted {
            let found = client.elements(&table, &set.name, Some).expect("lists");
            assert_eq!(count as usize, found.len(), "{}", set.name);
        }
    });
}

#[test]
fn nft_lists_every_rule_as_text_and_json_and_takes_the_text_back() {
    with_tables(|namespace, tables| {
        sync(tables, &mk_both_families());
        let text = namespace.sh("nft list ruleset");
        let json = namespace.sh("nft -j list ruleset");
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        if namespace.sh("nft --version").contains("v1.0.6") {
            assert_eq!(
                text,
                include_str!("ruleset.nft"),
                "docs/nftables.md and ruleset.nft must say the same"
            );
        }
        for odd in ["[", "0x0a60", "unknown"] {
            assert!(!text.contains(odd), "{odd:?} is not readable:\n{text}");
        }
        // nft 1.0.6 aborts on writing keys as long as those of affinity-T-… in ip6, so only ip is written back.
        namespace.sh("nft list table ip portico | unshare --net nft -f -");
    });
}

#[test]
fn an_element_that_is_there_already_fails_the_whole_transaction_and_is_named() {
    with_tables(|_, tables| {
        let before = mk_everything(false);
        sync(tables, &before);
        let fresh = Put { key: Key::ClusterIp(ip(false, 99)), value: Value::Present, was: None };
        let twice =
            Put { key: Key::Endpoint(mk_frontend(false, 1), 0), value: mk_backend(false, 9), was: None };
        let transaction = Transaction { puts: vec![fresh, twice], ..Transaction::default() };
        let error = tables.apply(&transaction).expect_err("the endpoint exists");
        assert!(matches!(error, DataplaneError::Changed { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("endpoints 10.96.0.1:80/tcp slot 0x0"), "{text}");
        assert!(tables.apply(&Transaction::default()).is_err(), "nothing is trusted until it is read");
        assert_eq!(read_whole(tables), before);
    });
}

#[test]
fn removing_what_is_not_there_is_named_too() {
    with_tables(|_, tables| {
        sync(tables, &mk_everything(true));
        let removals = vec![Key::ClusterIp(ip(true, 1)), Key::ClusterIp(ip(true, 77))];
        let error =
            tables.apply(&Transaction { removals, ..Transaction::default() }).expect_err("one is not there");
        assert!(error.to_string().contains("cluster-ips fd00::4d"), "{error}");
        assert_eq!(read_whole(tables), mk_everything(true));
    });
}

#[test]
fn overlapping_ranges_are_refused_by_name_and_not_taken_for_a_change_by_others() {
    with_tables(|_, tables| {
        sync(tables, &State::default());
        let put = |net: &str| Put {
            key: Key::PodCidr(net.parse().expect("a network")),
            value: Value::Present,
            was: None,
        };
        let puts = vec![put("10.0.0.0/8"), put("10.1.0.0/16")];
        let error = tables.apply(&Transaction { puts, ..Transaction::default() }).expect_err("they overlap");
        assert!(matches!(error, DataplaneError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("pod-cidrs 10.1.0.0/16"), "{error}");
    });
}

#[test]
fn a_table_that_another_program_changed_is_rebuilt_with_its_elements_in_one_transaction() {
    with_tables(|namespace, tables| {
        let state = mk_both_families();
        for foreign in [
            "nft add rule ip portico dispatch counter",
            "nft insert rule ip6 portico postrouting drop",
            "nft flush chain ip portico lb-2",
            "nft add chain ip portico mine",
            "nft add set ip portico mine '{ type ipv4_addr; }'",
            "nft add element ip portico services '{ 10.9.9.9 . icmp . 1 : a400:1 }'",
            "nft add element ip portico classes '{ a400:99 : drop }'",
            "nft delete element ip portico balances '{ a400:1 }'",
            // What an older version leaves.
            "nft add map ip portico affinity-10800 '{ type ipv4_addr . ipv4_addr : classid; flags dynamic,timeout; timeout 3h; }'",
            "nft add chain ip6 portico lb-2-aff-10800",
            "nft delete table ip6 portico",
            "nft flush ruleset",
        ] {
            sync(tables, &state);
            namespace.sh(foreign);
            let observed = tables.read().expect("reads");
            assert!(observed.rebuild.is_some(), "{foreign} went unnoticed");
            let generation = tables.generation().expect("asks");
            let applied = tables.apply(&diff(&observed.state, &state).additive).expect("rebuilds");
            assert_eq!(
                (applied.transactions, tables.generation().expect("asks")),
                (1, generation + 1),
                "no gap"
            );
            assert_eq!(read_whole(tables), state);
        }
    });
}

#[test]
fn other_settings_are_another_skeleton() {
    with_tables(|namespace, tables| {
        sync(tables, &mk_both_families());
        for config in [
            Config { masquerade_mark: 0x8000, ..mk_config() },
            Config { masquerade_all: true, ..mk_config() },
            Config::default(),
        ] {
            let mut other = namespace.run(move || Nftables::open(config)).expect("opens");
            let reason = other.read().expect("reads").rebuild.expect("the rules differ");
            assert!(reason.contains("rule"), "{reason}");
            sync(&mut other, &mk_both_families());
            assert_eq!(read_whole(&mut other), mk_both_families());
        }
    });
}

#[test]
fn other_tables_do_not_matter_and_stay() {
    with_tables(|namespace, tables| {
        namespace.sh("nft add table ip mine; nft add chain ip mine c; nft add table inet portico");
        sync(tables, &mk_everything(false));
        assert_eq!(read_whole(tables), mk_everything(false));
        tables.cleanup().expect("cleans up");
        tables.cleanup().expect("and again");
        assert_eq!(namespace.sh("nft list tables"), "table ip mine\ntable inet portico\n");
    });
}

#[test]
fn a_probe_finds_both_families_and_kube_proxy_and_leaves_nothing() {
    with_tables(|namespace, tables| {
        let found = tables.probe().expect("asks");
        assert_eq!(found.families, [Family::V4, Family::V6]);
        assert_eq!(found.other_proxies, Vec::<String>::new());
        assert_eq!(namespace.sh("nft list tables"), "");
        namespace
            .sh("nft add table ip kube-proxy; nft add table ip6 nat; nft add chain ip6 nat KUBE-SERVICES");
        let other_proxies = tables.probe().expect("asks").other_proxies;
        assert_eq!(other_proxies.len(), 2, "{other_proxies:?}");
    });
}

/// Small states, so that random ones share keys.
fn mk_state() -> impl Strategy<Value = State> {
    let balance = (1u32..4, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(endpoints, local, masquerade, affinity)| {
            let list = if local { List::Local } else { List::Cluster };
            if affinity {
                Verdict::Recall(Recall { seconds: 30, pool: endpoints, list, masquerade })
            } else {
                Verdict::Balance(Balance { endpoints, list, masquerade })
            }
        },
    );
    let refusal = prop_oneof![Just(Verdict::Reject), Just(Verdict::Drop)];
    let frontend = (any::<bool>(), 1u16..4).prop_map(|(v6, number)| mk_frontend(v6, number));
    let verdicts = (0..5usize, frontend.clone(), balance, refusal).prop_map(|(map, f, balance, refusal)| {
        // The kernel follows verdicts: nat only from nat hooks, and no circles.
        let (key, verdict) = [
            (Key::Service(f), balance),
            (Key::Service(f), Verdict::External),
            (Key::Short(f), balance),
            (Key::Local(f), balance),
            (Key::NoEndpoints(f), refusal),
        ][map];
        (key, Value::Verdict(verdict))
    });
    let backends =
        (any::<bool>(), frontend.clone(), 0u32..4, 1u16..5).prop_map(|(by_id, f, number, backend)| {
            let key = if by_id {
                let alias = Alias { address: f.address, protocol: f.protocol };
                Key::AffinityEndpoint(alias, List::Local, AFFINITY_TAG | number)
            } else {
                Key::Endpoint(f, number)
            };
            (key, mk_backend(f.address.is_ipv6(), backend))
        });
    let members = (0..5usize, frontend, 0u8..4).prop_map(|(set, f, third)| {
        let net =
            if f.address.is_ipv6() { format!("fd01:{third}::/32") } else { format!("10.{third}.0.0/16") };
        let net = net.parse().expect("a network");
        let hairpin = Key::Hairpin(f.address, f.protocol, f.port);
        let keys = [
            Key::ClusterIp(f.address),
            hairpin,
            Key::Firewalled(f),
            Key::SourceRange(f, net),
            Key::PodCidr(net),
        ];
        (keys[set], Value::Present)
    });
    let pair = prop_oneof![verdicts, backends, members];
    proptest::collection::vec(pair, 0..60).prop_map(|pairs| {
        let elements: std::collections::HashMap<_, _> = pairs.into_iter().collect();
        elements.into_iter().collect()
    })
}

#[test]
fn after_any_transactions_the_kernel_has_what_the_model_says() {
    with_tables(|_, tables| {
        let tables = std::cell::RefCell::new(tables);
        let config = ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() };
        let run = TestRunner::new(config).run(&proptest::collection::vec(mk_state(), 1..5), |states| {
            for state in states {
                let tables = &mut **tables.borrow_mut();
                sync(tables, &state);
                prop_assert_eq!(read_whole(tables), state);
            }
            Ok(())
        });
        run.expect("the kernel follows the model");
    });
}

#[test]
fn thirty_thousand_services_are_programmed_by_one_transaction() {
    with_tables(|_, tables| {
        let mut state = State::default();
        let balance = Balance { endpoints: 2, list: List::Cluster, masquerade: false };
        for number in 0..30_000u16 {
            let f = mk_frontend(false, number);
            state.insert(Key::Service(f), Value::Verdict(Verdict::Balance(balance)));
            state.insert(Key::ClusterIp(f.address), Value::Present);
            for slot in 0..2 {
                state.insert(Key::Endpoint(f, slot), mk_backend(false, number.wrapping_mul(2)));
            }
        }
        let applied = sync(tables, &state);
        let start = Instant::now();
        assert_eq!(read_whole(tables), state);
        note(&format!("30,000 Services of 2 endpoints: {applied}; read back in {:?}", start.elapsed()));
        // One endpoint replaced, and one Service from two endpoints to three.
        let key = Key::Endpoint(mk_frontend(false, 7), 1);
        let put = Put { key, value: mk_backend(false, 9), was: state.elements.get(&key).copied() };
        let applied =
            tables.apply(&Transaction { puts: vec![put], ..Transaction::default() }).expect("replaces");
        note(&format!("one endpoint replaced: {applied}"));
        let mut more = read_whole(tables);
        let grown = mk_frontend(false, 8);
        more.insert(Key::Endpoint(grown, 2), mk_backend(false, 1));
        more.insert(
            Key::Service(grown),
            Value::Verdict(Verdict::Balance(Balance { endpoints: 3, ..balance })),
        );
        note(&format!("two endpoints to three: {}", sync(tables, &more)));
        assert_eq!(read_whole(tables), more);
    });
}
