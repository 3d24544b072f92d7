//! Round trips of every expression, and decoders against arbitrary bytes.

use proptest::prelude::*;

use super::*;
use crate::{
    attribute::{Attribute, Reader, Writer},
    nftables::{Chain, Element, Family, Rule, Set, Table},
};

fn mk_register() -> impl Strategy<Value = Register> {
    (0u8..16).prop_map(Register)
}

fn mk_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..20)
}

fn mk_verdict() -> impl Strategy<Value = Verdict> {
    let chain = "[a-z][a-z0-9-]{0,20}";
    prop_oneof![
        Just(Verdict::Drop),
        Just(Verdict::Accept),
        Just(Verdict::Return),
        chain.prop_map(Verdict::Jump),
        chain.prop_map(Verdict::Goto),
        (-9i32..-5).prop_map(Verdict::Other),
    ]
}

fn mk_lookup() -> impl Strategy<Value = Expression> {
    let result = prop_oneof![
        Just(LookupResult::Member),
        Just(LookupResult::NotMember),
        Just(LookupResult::Verdict),
        mk_register().prop_map(LookupResult::Data),
    ];
    ("[a-z-]{1,30}", mk_register(), result)
        .prop_map(|(set, key, result)| Expression::Lookup(Lookup { set, key, result }))
}

fn mk_dynamic() -> impl Strategy<Value = Expression> {
    let operation = prop_oneof![
        Just(DynamicSetOperation::Add),
        Just(DynamicSetOperation::Update),
        Just(DynamicSetOperation::Delete)
    ];
    let timeout = proptest::option::of(1..1u64 << 40);
    ("[a-z-]{1,30}", operation, mk_register(), proptest::option::of(mk_register()), timeout).prop_map(
        |(set, operation, key, data, timeout)| {
            Expression::DynamicSet(DynamicSet { set, operation, key, data, timeout })
        },
    )
}

fn mk_load() -> impl Strategy<Value = Expression> {
    let base = prop_oneof![Just(PayloadBase::Network), Just(PayloadBase::Transport)];
    let meta = prop_oneof![Just(MetaKey::Priority), Just(MetaKey::Mark), Just(MetaKey::Layer4Protocol)];
    let ct = prop_oneof![Just(CtKey::State), Just(CtKey::Status)];
    prop_oneof![
        (base, 0u32..60, 1u32..17, mk_register())
            .prop_map(|(base, offset, length, into)| Expression::Payload { base, offset, length, into }),
        (any::<bool>(), 0u32..30, mk_register()).prop_map(|(v6, offset, from)| Expression::AddressStore {
            offset,
            length: if v6 { 16 } else { 4 },
            from
        }),
        (meta.clone(), mk_register()).prop_map(|(key, into)| Expression::MetaLoad { key, into }),
        (meta, mk_register()).prop_map(|(key, from)| Expression::MetaStore { key, from }),
        (ct, mk_register()).prop_map(|(key, into)| Expression::Ct { key, into }),
        (1u32.., any::<u32>(), mk_register()).prop_map(|(modulus, offset, into)| Expression::RandomNumber {
            modulus,
            offset,
            into
        }),
        mk_register().prop_map(|into| Expression::SourceAddressType { into }),
        (mk_register(), mk_bytes()).prop_map(|(into, value)| Expression::Immediate { into, value }),
    ]
}

fn mk_expression() -> impl Strategy<Value = Expression> {
    let how = prop_oneof![Just(Comparison::Equal), Just(Comparison::NotEqual)];
    let family = prop_oneof![Just(Family::Ip), Just(Family::Ip6)];
    prop_oneof![
        mk_load(),
        mk_lookup(),
        mk_dynamic(),
        mk_verdict().prop_map(Expression::Verdict),
        (how, mk_register(), mk_bytes()).prop_map(|(how, register, value)| Expression::Compare {
            how,
            register,
            value
        }),
        (mk_register(), mk_register(), any::<u64>(), any::<u64>()).prop_map(|(from, into, mask, xor)| {
            Expression::Bitwise {
                from,
                into,
                mask: mask.to_be_bytes().to_vec(),
                xor: xor.to_be_bytes().to_vec(),
            }
        }),
        (mk_register(), mk_register(), family)
            .prop_map(|(address, port, family)| Expression::DestinationNat(Nat { address, port, family })),
        Just(Expression::Masquerade),
        Just(Expression::TcpReset),
        Just(Expression::Counter(Packets::default())),
        any::<u8>().prop_map(|code| Expression::Reject { code }),
        ("[a-z]{3,8}x", proptest::collection::vec(any::<u8>(), 0..3)).prop_map(|(name, fields)| {
            let mut writer = Writer::new();
            for field in fields {
                writer.bytes(1, &[field]);
            }
            Expression::Other { name, data: writer.finish().expect("short") }
        }),
    ]
}

proptest! {
    #[test]
    fn a_rule_that_is_sent_reads_back_equal(expressions in proptest::collection::vec(mk_expression(), 0..12)) {
        let table = Table { family: Family::Ip6, name: "portico".into() };
        let rule = Rule { table, chain: "c".into(), expressions };
        let mut writer = Writer::new();
        rule.encode(&mut writer);
        let bytes = writer.finish().expect("short");
        prop_assert_eq!(Rule::decode(Family::Ip6 as u8, &bytes).expect("well formed"), rule);
    }

    #[test]
    fn an_element_that_is_sent_reads_back_equal_and_is_no_longer_than_it_says(
        key in mk_bytes(),
        key_end in proptest::option::of(mk_bytes()),
        data in proptest::option::of(prop_oneof![mk_bytes().prop_map(Data::Value), mk_verdict().prop_map(Data::Verdict)]),
        interval_end in any::<bool>(),
    ) {
        let element = Element { key, key_end, data, interval_end };
        let mut writer = Writer::new();
        element.encode(&mut writer);
        let bytes = writer.finish().expect("short");
        prop_assert!(bytes.len() <= element.encoded_size() + 16, "{} > {}", bytes.len(), element.encoded_size());
        let attribute = Reader::new(&bytes).next().expect("one").expect("well formed");
        prop_assert_eq!(Element::decode(&attribute).expect("well formed"), element);
    }

    #[test]
    fn no_decoder_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), name in "(payload|meta|ct|cmp|bitwise|immediate|lookup|numgen|nat|masq|reject|fib|dynset)") {
        drop(Table::decode(2, &bytes));
        drop(Chain::decode(2, &bytes));
        drop(Rule::decode(2, &bytes));
        drop(Set::decode(2, &bytes));
        drop(Element::decode(&Attribute { kind: 1, value: &bytes, offset: 0 }));
        let mut writer = Writer::new();
        writer.string(1, &name);
        writer.bytes(2, &bytes);
        let expression = writer.finish().expect("short");
        drop(Expression::decode(&Attribute { kind: 1, value: &expression, offset: 0 }));
    }
}
