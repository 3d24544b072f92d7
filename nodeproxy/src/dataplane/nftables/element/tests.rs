//! Every element reads back as it was written.

use std::collections::BTreeSet;

use portico_proxy_core::{
    plan::Chain,
    table::{AFFINITY_TAG, Balance, Pick, Recall},
};
use proptest::prelude::*;

use super::*;

fn mk_address(v6: bool) -> impl Strategy<Value = IpAddr> {
    any::<u128>().prop_map(move |bits| {
        if v6 {
            IpAddr::V6(bits.into())
        } else {
            IpAddr::V4(u32::try_from(bits >> 96).unwrap_or_default().into())
        }
    })
}

fn mk_frontend(v6: bool) -> impl Strategy<Value = Frontend> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (mk_address(v6), protocol, any::<u16>()).prop_map(|(address, protocol, port)| Frontend {
        address,
        protocol,
        port,
    })
}

fn mk_net(v6: bool) -> impl Strategy<Value = IpNet> {
    (mk_address(v6), 0..=if v6 { 128u8 } else { 32 })
        .prop_map(|(address, prefix)| IpNet::new(address, prefix).expect("in range").trunc())
}

/// A verdict of a dispatch map.
fn mk_verdict() -> impl Strategy<Value = Value> {
    let list = |local| if local { List::Local } else { List::Cluster };
    let balance =
        (1u32..5000, any::<bool>(), any::<bool>()).prop_map(move |(endpoints, local, masquerade)| {
            Verdict::Balance(Balance { endpoints, list: list(local), masquerade })
        });
    let recall = (1u32..90_000, any::<u32>(), any::<bool>(), any::<bool>()).prop_map(
        move |(seconds, pool, local, masquerade)| {
            Verdict::Recall(Recall { seconds, pool, list: list(local), masquerade })
        },
    );
    prop_oneof![balance, recall, Just(Verdict::External)].prop_map(Value::Verdict)
}

/// The numbers of the chains that a value needs.
fn mk_classes(key: &Key, value: &Value) -> Classes {
    let mut classes = Classes::default();
    if let Some(target) = value.target() {
        classes.add(Chain { family: key.family(), target });
    }
    classes
}

fn mk_backend(v6: bool) -> impl Strategy<Value = Value> {
    (mk_address(v6), any::<u16>()).prop_map(|(address, port)| Value::Backend(Backend { address, port }))
}

fn mk_pair(v6: bool) -> BoxedStrategy<(Key, Value)> {
    let verdict = (0..3usize, mk_frontend(v6), mk_verdict())
        .prop_map(|(map, f, value)| ([Key::Service(f), Key::Short(f), Key::Local(f)][map], value));
    let refusal = prop_oneof![Just(Verdict::Reject), Just(Verdict::Drop)];
    let family = if v6 { Family::V6 } else { Family::V4 };
    let refusal = (0..2usize, mk_frontend(v6), refusal).prop_map(move |(map, f, verdict)| {
        let keys = [Key::NoEndpoints(f), Key::NodePortNoEndpoints(family, f.protocol, f.port)];
        let verdict = if map == 0 { verdict } else { Verdict::Reject };
        (keys[map], Value::Verdict(verdict))
    });
    let alias = |f: Frontend| Alias { address: f.address, protocol: f.protocol };
    let backend = (0..3usize, mk_frontend(v6), any::<u32>(), mk_backend(v6)).prop_map(
        move |(map, f, number, value)| {
            let keys = [
                Key::Endpoint(f, number),
                Key::AffinityEndpoint(alias(f), List::Cluster, number),
                Key::AffinityEndpoint(alias(f), List::Local, number),
            ];
            (keys[map], value)
        },
    );
    let slot = (mk_frontend(v6), any::<u32>(), 0..1u32 << 24)
        .prop_map(move |(f, slot, hash)| (Key::AffinitySlot(alias(f), slot), Value::Id(AFFINITY_TAG | hash)));
    let port = (mk_frontend(v6), mk_address(v6))
        .prop_map(|(f, address)| (Key::AffinityPort(f), Value::Alias(address)));
    let pick = (mk_frontend(v6), 1u32..5000, any::<bool>()).prop_map(move |(f, endpoints, local)| {
        let list = if local { List::Local } else { List::Cluster };
        (Key::AffinityPick(alias(f), list), Value::Verdict(Verdict::Pick(Pick { endpoints, list })))
    });
    let stand_in = (mk_frontend(v6), mk_address(v6))
        .prop_map(move |(f, address)| (Key::NodePortStandIn(family, f.protocol), Value::Alias(address)));
    let member = (0..6usize, mk_frontend(v6), mk_net(v6)).prop_map(move |(set, f, net)| {
        let keys = [
            Key::ClusterIp(f.address),
            Key::NodeAddress(f.address),
            Key::NodePort(family, f.protocol, f.port),
            Key::Hairpin(f.address, f.protocol, f.port),
            Key::Firewalled(f),
            Key::SourceRange(f, net),
        ];
        (keys[set], Value::Present)
    });
    prop_oneof![verdict, refusal, backend, slot, port, pick, stand_in, member].boxed()
}

/// Neighbouring networks of eight bits, among them the very last, which has no end.
fn mk_range(v6: bool, byte: u8) -> IpNet {
    let text = if v6 { format!("{byte:02x}00::/8") } else { format!("{byte}.0.0.0/8") };
    text.parse().expect("a network")
}

proptest! {
    #[test]
    fn an_element_reads_back_as_it_was_written((key, value) in prop_oneof![mk_pair(false), mk_pair(true)]) {
        let classes = mk_classes(&key, &value);
        let elements = encode(&key, Some(&value), &classes);
        prop_assert_eq!(decode(key.family(), key.map(), elements, &classes), Ok(vec![(key, value)]));
    }

    #[test]
    fn ranges_read_back_in_whatever_order_the_kernel_lists_them(
        v6 in any::<bool>(),
        bytes in proptest::collection::btree_set(prop_oneof![any::<u8>(), Just(254), Just(255)], 0..8),
        rotate in 0usize..16,
    ) {
        let all: BTreeSet<IpNet> = bytes.into_iter().map(|byte| mk_range(v6, byte)).collect();
        let mut elements: Vec<_> = all.iter().flat_map(|net| encode(&Key::PodCidr(*net), None, &Classes::default())).collect();
        let by = rotate % elements.len().max(1);
        elements.rotate_left(by);
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut read = decode(family, "pod-cidrs", elements, &Classes::default()).expect("ranges");
        read.sort_unstable();
        let wanted: Vec<_> = all.into_iter().map(|net| (Key::PodCidr(net), Value::Present)).collect();
        prop_assert_eq!(read, wanted);
    }

    #[test]
    fn arbitrary_elements_never_panic(
        key in proptest::collection::vec(any::<u8>(), 0..60),
        key_end in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
        data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..30)),
        interval_end in any::<bool>(),
        map in "(services|endpoints|affinity-ports|affinity-picks|affinity-slots|affinity-endpoints|hairpin|source-ranges|pod-cidrs|unknown)",
    ) {
        let element = Element { key, key_end, data: data.map(Data::Value), interval_end };
        drop(decode(Family::V4, &map, vec![element.clone(), element.clone()], &Classes::default()));
        drop(decode(Family::V6, &map, vec![element], &Classes::default()));
    }
}
