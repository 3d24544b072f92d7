//! The matrix of `portico_proxy_core::packets::matrix` on the real kernel: every policy with every place, every client and every address,
//! over both families. For each cell the oracle, the tracer, the kernel's elements and real packets say the same.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
};

use portico_nodeproxy::dataplane::Dataplane;
use portico_proxy_core::{
    check::Wanted,
    input::Config as ModelConfig,
    model::Model,
    oracle::{self, Outcome, Source},
    packets::{
        self, Client, NODE, POD_PORT,
        matrix::{CLIENTS, Cell, cells, services},
        twin,
    },
    table::Backend,
    trace,
    walk::PacketContext,
};

use crate::{
    table::{PODS, Table, mk_config, program_model},
    test_network::{Got, dial_here, serve},
};

/// Connections of a cell that may go to two endpoints: one of them is missed once in 2^24 runs of the cell.
const TRIES: usize = 24;

/// An answer as the oracle says it.
fn outcome(answers: impl IntoIterator<Item = Got>, cell: &Cell) -> Result<Outcome, String> {
    let v6 = cell.packet.to.address.is_ipv6();
    let in_family = |v4: std::net::Ipv4Addr| -> IpAddr { if v6 { twin(v4).into() } else { v4.into() } };
    let node = in_family(NODE);
    let mut outcomes = BTreeSet::new();
    let mut backends = std::collections::BTreeMap::new();
    for got in answers {
        match got {
            Got::Pod(number, seen) => {
                let address = PODS.get(number).map_or(node, |pod| in_family(*pod));
                // The node itself is masqueraded to an address that it may have had anyway.
                let source = match seen {
                    seen if seen == node => Source::Masqueraded,
                    seen if seen == cell.packet.source => Source::Preserved,
                    other => return Err(format!("{address} sees {other}")),
                };
                backends.insert(Backend { address, port: POD_PORT }, source);
            }
            Got::Refused => _ = outcomes.insert("refused"),
            Got::Silence | Got::NoRoute => _ = outcomes.insert("silence"),
        }
    }
    let others: Vec<_> = outcomes.into_iter().collect();
    match (backends.is_empty(), &others[..]) {
        (false, []) => Ok(Outcome::Backends(backends)),
        (true, ["refused"]) => Ok(Outcome::Refused),
        (true, ["silence"]) => Ok(Outcome::Dropped),
        (_, mixed) => Err(format!("{backends:?} and {mixed:?}")),
    }
}

/// Dials all cells of a client at once; what is dropped costs a second and more.
fn dial_all(table: &Table, from: Client, cells: Vec<(Cell, usize)>) -> Vec<(Cell, Vec<Got>)> {
    table.namespace(from).run(move || {
        let dialling: Vec<_> = cells
            .into_iter()
            .map(|(cell, tries)| {
                let dial = move || (0..tries).map(|_| dial_here(cell.packet.to)).collect();
                (cell, thread::spawn(dial))
            })
            .collect();
        dialling.into_iter().map(|(cell, dialled)| (cell, dialled.join().expect("dials"))).collect()
    })
}

#[test]
fn every_policy_at_every_place_is_the_same_to_the_oracle_the_tracer_the_kernel_and_a_packet() {
    let Some(table) = Table::new() else { return };
    let mut model = Model::new(ModelConfig::default());
    for event in packets::empty_cluster().into_iter().chain(services()) {
        model.apply(event);
    }
    let mut tables = program_model(&table.node, mk_config(), &model);
    for address in [NODE.into(), twin(NODE).into()] {
        table.node.run(move || serve(PODS.len(), SocketAddr::new(address, POD_PORT)));
    }
    let found = tables.read().expect("reads");
    let mut wrong = Vec::new();
    for from in CLIENTS {
        let mut dialled = Vec::new();
        for cell in cells().into_iter().filter(|cell| cell.from == from) {
            let said = oracle::outcome(&model, &cell.packet);
            let traced = trace::trace(&model, &cell.packet).outcome();
            let check = Wanted::by_packet(&model, &cell.packet).check(&found.state, found.rebuild.clone());
            let check = check.walked(&found.state, PacketContext::of(&model), &cell.packet, &traced);
            if traced != said || !check.agrees() {
                wrong.push(format!("{cell:?}: oracle {said}, trace {traced}, {check}"));
            }
            let several = matches!(&said, Outcome::Backends(backends) if backends.len() > 1);
            dialled.push((cell, if several { TRIES } else { 1 }));
        }
        for (cell, answers) in dial_all(&table, from, dialled) {
            let (got, said) = (outcome(answers, &cell), oracle::outcome(&model, &cell.packet));
            if got.as_ref() != Ok(&said) {
                wrong.push(format!("{cell:?}: oracle {said}, packets {got:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells: {wrong:#?}", wrong.len());
}
