//! Remembered clients with real packets: the rows of `portico_proxy_core::packets::affinity` on both dataplanes, and a flood at one
//! namespace's Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, UdpSocket},
};

use portico_netlink::nftables::{self as kernel, Batch, Client, Data, Element, Table as KernelTable};
use portico_nodeproxy::dataplane::{Dataplane, nftables::Nftables};
use portico_proxy_core::{
    affinity::MOST,
    input::{Config as ModelConfig, Event},
    model::Model,
    oracle::Packet,
    packets::{
        self,
        affinity::{Again, ROWS, Row},
    },
    plan::{AffinityMap, diff},
    table::{Alias, Family, Frontend, Key, Protocol, Recall, Value},
};

use crate::{
    netns::{Namespace, note},
    table::{PODS, Table, describe, expected, mk_config, traced_with_affinity},
    test_network::{
        Got, PLAIN, STICKY, TestNetwork, addresses, alias_of, ask, dial, dial_here, endpoints, id_of, serve,
        sticky,
    },
    userspace::{hidden, mk_userspace},
};

/// New connections of a client that may go to more than one endpoint.
const TRIES: usize = 24;

/// A model of the node and the row's Service.
fn mk_model(service: Vec<Event>) -> Model {
    let mut model = Model::new(ModelConfig::default());
    for event in packets::empty_cluster().into_iter().chain(service) {
        model.apply(event);
    }
    model
}

/// A client's way to dial: each time with a new connection, or always with the same one.
enum Dialler {
    Anew,
    Same(UdpSocket),
}

impl Dialler {
    fn new(row: &Row, from: &Namespace, v6: bool) -> Self {
        if row.how == Again::Anew {
            return Self::Anew;
        }
        let any = if v6 { "::" } else { "0.0.0.0" };
        Self::Same(from.run(move || UdpSocket::bind((any, 0))).expect("binds"))
    }

    fn dial(&self, from: &Namespace, to: Frontend) -> Got {
        match self {
            Self::Anew => dial(from, to),
            Self::Same(socket) => ask(socket, to),
        }
    }
}

/// Rows that get something else than they should, with what they get and should.
fn wrong(
    table: &Table,
    mut program: impl FnMut(&Model),
    mut second_check: impl FnMut(&Model, &Packet, &Row, bool),
    should: impl Fn(&packets::Case) -> BTreeSet<String>,
) -> BTreeMap<String, [BTreeSet<String>; 2]> {
    let mut wrong = BTreeMap::new();
    for (row, v6) in ROWS.iter().flat_map(|row| [(row, false), (row, true)]) {
        let (from, case) = (table.namespace(row.from), row.again(v6));
        let dialler = Dialler::new(row, from, v6);
        program(&mk_model(row.before()));
        let first = dialler.dial(from, row.first(v6).to);
        let number = PODS.iter().position(|pod| *pod == row.had);
        assert!(matches!(first, Got::Pod(pod, _) if Some(pod) == number), "{}: {first:?}", row.name);
        let after = mk_model(row.after());
        program(&after);
        second_check(&after, &case.packet(), row, v6);
        let should = should(&case);
        let tries = if should.len() > 1 { TRIES } else { 3 };
        let tries = if should.contains("silence") { 1 } else { tries };
        let got: BTreeSet<_> =
            (0..tries).map(|_| describe(dialler.dial(from, case.packet().to), &case)).collect();
        if got != should {
            let family = if v6 { Family::V6 } else { Family::V4 };
            wrong.insert(format!("{} ({family})", row.name), [got, should]);
        }
    }
    wrong
}

fn sync(tables: &mut Nftables, model: &Model) {
    let observed = tables.read().expect("reads").state;
    let plan = diff(&observed, model.shadow().desired());
    tables.apply(&plan.additive).expect("commits");
    tables.apply(&plan.destructive).expect("commits");
}

#[test]
fn clients_with_affinity_get_what_the_rows_say_and_the_tracer_agrees() {
    let Some(table) = Table::new() else { return };
    let mut tables = table.node.run(|| Nftables::open(mk_config())).expect("opens");
    let shared = std::cell::RefCell::new(&mut tables);
    let wrong = wrong(
        &table,
        |model| sync(&mut shared.borrow_mut(), model),
        |model, packet, row, v6| {
            if row.how == Again::SameConnection {
                return;
            }
            let (trace, check) = traced_with_affinity(&mut shared.borrow_mut(), model, packet);
            assert_eq!(trace.outcome(), row.again(v6).outcome(), "{}: {trace}", row.name);
            assert!(check.agrees(), "{}: {check}", row.name);
            let last = trace.service.and_then(|service| service.last);
            assert_eq!(last.is_some(), model.affinity_id(&packet.to, row.had(v6)).is_some(), "{}", row.name);
        },
        expected,
    );
    assert!(wrong.is_empty(), "(row, [got, expected]): {wrong:#?}");
}

#[test]
fn the_userspace_proxy_keeps_the_same_affinity() {
    let Some(table) = Table::new() else { return };
    let mut node = mk_userspace(&table.node);
    let wrong =
        wrong(&table, |model| node.sync(&table.node, model.shadow().desired()), |_, _, _, _| (), hidden);
    assert!(wrong.is_empty(), "(row, [got, expected]): {wrong:#?}");
}

/// Fills an affinity map with clients that never come again.
fn flood(node: &Namespace, map: &AffinityMap, port: Alias) {
    let (family, bytes): (_, fn(usize) -> Vec<u8>) = match map.family {
        Family::V4 => (kernel::Family::Ip, |number| (0x0b00_0000 + number).to_be_bytes()[4..].to_vec()),
        Family::V6 => (kernel::Family::Ip6, |number| [[0x20; 8], number.to_be_bytes()].concat()),
    };
    let alias = match port.address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let element = |number| Element {
        key: [bytes(number), alias.clone()].concat(),
        data: Some(Data::Value(0xa500_0002_u32.to_ne_bytes().to_vec())),
        ..Element::default()
    };
    let table = KernelTable { family, name: "portico".to_owned() };
    let mut client = node.run(Client::open).expect("opens");
    for first in (0..MOST).step_by(1000) {
        let mut batch = Batch::new();
        let elements = (first..MOST.min(first + 1000)).map(element);
        batch.add_elements(&table, &map.name(), elements).expect("fits");
        client.commit(batch).expect("there is room");
    }
}

#[test]
fn a_flood_at_one_namespaces_service_takes_no_affinity_from_another() {
    for v6 in [false, true] {
        let Some(mut network) = TestNetwork::new() else { return };
        let a = addresses(v6);
        let frontend = |number| Frontend { protocol: Protocol::Udp, ..a.frontend(number) };
        let (flooded, other) = (frontend(1), frontend(2));
        let mut state = a.base();
        for (f, pool) in [(flooded, 1), (other, 2)] {
            let port = alias_of(f);
            let verdict = sticky(&mut state, f, port, Recall { pool, ..STICKY }, &[a.pod(0), a.pod(1)]);
            state.insert(Key::Service(f), verdict);
            state.insert(Key::ClusterIp(f.address), Value::Present);
        }
        network.sync(&state);
        let family = if v6 { Family::V6 } else { Family::V4 };
        let map = |pool| AffinityMap { family, seconds: STICKY.seconds, pool };
        flood(&network.node, &map(1), alias_of(flooded));
        let counts: BTreeMap<_, _> = network.tables.clients().expect("counts").into_iter().collect();
        assert_eq!((counts.get(&map(1)), counts.get(&map(2))), (Some(&MOST), Some(&0)));
        let dials = |f| -> BTreeSet<_> { (0..TRIES).map(|_| dial(&network.client, f)).collect() };
        let pods = |answers: &BTreeSet<Got>| answers.iter().filter(|got| matches!(got, Got::Pod(..))).count();
        let (kept, balanced) = (dials(other), dials(flooded));
        assert_eq!((kept.len(), pods(&kept)), (1, 1), "it keeps its pod: {kept:?}");
        assert_eq!(
            (balanced.len(), pods(&balanced)),
            (2, 2),
            "it is served, and gets no entry: {balanced:?}"
        );
        let port = alias_of(other);
        let id = network.tables.affinity_entry(&map(2), a.client, &port).expect("looks up");
        assert!(id.is_some_and(|id| {
            kept.iter().all(|got| matches!(got, Got::Pod(pod, _) if id_of(&a.pod(*pod)) == id))
        }));
        assert_eq!(
            network.tables.affinity_entry(&map(3), a.client, &port).expect("looks up"),
            None,
            "no such map"
        );
        note(&format!(
            "{MOST} clients of one namespace: the other has {:?}",
            network.tables.clients().expect("counts")
        ));
    }
}

#[test]
fn a_host_program_answers_on_a_cluster_ip_that_the_node_has_and_only_the_node_itself_is_refused() {
    let Some(mut network) = TestNetwork::new() else { return };
    let a = addresses(false);
    let mut state = a.base();
    let address: IpAddr = [10, 96, 0, 77].into();
    let f = Frontend { address, ..a.frontend(1) };
    state.insert(Key::ClusterIp(address), Value::Present);
    let verdict = endpoints(&mut state, f, PLAIN, &[a.pod(0)]);
    state.insert(Key::Service(f), verdict);
    network.sync(&state);
    network.node.sh(&format!("ip addr add {address}/32 dev lo"));
    network.node.run(move || serve(1, (address, 82).into()));
    let lacking = Frontend { port: 82, ..f };
    assert_eq!(dial(&network.client, lacking), Got::Pod(1, a.client), "the host's program answers");
    assert_eq!(dial(&network.pods[0], lacking), Got::Pod(1, a.pods[0]));
    assert_eq!(network.node.run(move || dial_here(lacking)), Got::Refused);
    assert!(matches!(dial(&network.client, f), Got::Pod(0, _)), "the Service's port is the Service's");
}
