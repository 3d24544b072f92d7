//! Messages that no kernel should send: attributes of every kind in every place, numbers of the wrong length,
//! lists that are cut off, flipped bytes. Every reader ends, in a value or in an error.
//!
//! A fuzz target that runs with the other tests. Its messages have the shape that the readers expect, so that
//! they pass the first checks; then the test damages them.

use proptest::prelude::*;

use crate::{
    addresses::Address,
    attribute::{Reader, Writer},
    conntrack::Flow,
    message::{self, Messages},
    nftables::{Chain, Change, Element, Rule, Set, Table},
};

/// An attribute: its type, and bytes or more attributes.
#[derive(Clone, Debug)]
enum Node {
    Leaf(u16, Vec<u8>),
    Branch(u16, Vec<Node>),
}

/// Values that readers know, of the right length and of others.
fn mk_value() -> impl Strategy<Value = Vec<u8>> {
    let words = ["portico", "lookup", "immediate", "nat", "dynset", "payload", "filter", "services"];
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        prop_oneof![Just(1usize), Just(2), Just(4), Just(8), Just(16)]
            .prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length)),
        proptest::sample::select(words.to_vec()).prop_map(|word| [word.as_bytes(), &[0]].concat()),
    ]
}

fn mk_nodes() -> impl Strategy<Value = Vec<Node>> {
    let leaf = (0u16..16, mk_value()).prop_map(|(kind, value)| Node::Leaf(kind, value));
    let node = leaf.prop_recursive(5, 60, 6, |inner| {
        (0u16..16, proptest::collection::vec(inner, 0..6)).prop_map(|(kind, nodes)| Node::Branch(kind, nodes))
    });
    proptest::collection::vec(node, 0..8)
}

fn write(writer: &mut Writer, nodes: &[Node]) {
    for node in nodes {
        match node {
            Node::Leaf(kind, value) => writer.bytes(*kind, value),
            Node::Branch(kind, nodes) => writer.nested(*kind, |writer| write(writer, nodes)),
        }
    }
}

/// Hands bytes to every reader of attributes, and a message of them to every reader of messages. The results
/// are ignored.
fn read(bytes: &[u8], kind: u16, header: [u8; 8]) {
    for family in [2, 10, header[0]] {
        drop((Table::decode(family, bytes), Chain::decode(family, bytes)));
        drop((Set::decode(family, bytes), Rule::decode(family, bytes)));
    }
    for attribute in Reader::new(bytes).flatten() {
        drop(Element::decode(&attribute));
    }
    for payload in [bytes.to_vec(), [&header[..4], bytes].concat(), [&header[..], bytes].concat()] {
        let mut buffer = Vec::new();
        if message::append(&mut buffer, kind, 0, 7, |writer| writer.raw(&payload)).is_err() {
            continue;
        }
        for message in Messages::new(&buffer).flatten() {
            drop((Flow::decode(&message), Address::decode(&message)));
            drop((message.reply(), message.status().map(|_| ()), Change::default().note(&message)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_ends_whatever_it_is_sent(
        nodes in mk_nodes(),
        kind in any::<u16>(),
        header in any::<[u8; 8]>(),
        broken in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut writer = Writer::new();
        write(&mut writer, &nodes);
        let mut bytes = writer.finish().unwrap_or_default();
        read(&bytes, kind, header);
        if !bytes.is_empty() {
            for (at, byte) in broken {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            read(&bytes, kind, header);
        }
    }
}
