//! Fields of keys and data: their lengths, and the notes that make nft print them as addresses, ports and ids.
//!
//! The kernel stores a set's datatype number and its user data for nft and ignores both. The number of a
//! concatenation has six bits for each field. Random slots have no datatype that nft could parse back, so maps
//! with slots as keys have `typeof … numgen random mod 2` in their user data instead.

use portico_netlink::nftables::{Family, SetKind};

/// Type of an entry of a set's user data (libnftnl's `enum nftnl_udata_set_types`).
const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
/// nft's `enum byteorder`.
const NO_ORDER: u32 = 0;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;
/// nft's `enum expr_types`, as stored in user data.
const CONCATENATION: u32 = 13;
const PAYLOAD: u32 = 7;
const META: u32 = 9;
const NUMGEN: u32 = 23;

/// One field of a key or of a map's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// An address of the table's family.
    Address,
    /// A layer-4 protocol.
    Protocol,
    /// A transport-layer port.
    Port,
    /// A slot, from `numgen`.
    Slot,
    /// An affinity id, a packet priority.
    Id,
}

impl Field {
    /// Bytes, not padded.
    pub(super) fn length(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::Ip) | (Self::Slot | Self::Id, _) => 4,
            (Self::Address, Family::Ip6) => 16,
            (Self::Protocol, _) => 1,
            (Self::Port, _) => 2,
        }
    }

    /// nft's number of the datatype (`enum datatypes`).
    fn datatype(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::Ip) => 7,
            (Self::Address, Family::Ip6) => 8,
            (Self::Protocol, _) => 12,
            (Self::Port, _) => 13,
            (Self::Slot, _) => 4,
            (Self::Id, _) => 23,
        }
    }

    /// The expression that stands for the field in a `typeof`: its kind and its user data.
    fn expression(self, family: Family) -> Entry {
        let payload = |header: u32, field: u32| typeof_entry(PAYLOAD, &[number(0, header), number(1, field)]);
        match (self, family) {
            (Self::Address, Family::Ip) => payload(12, 12), // ip daddr
            (Self::Address, Family::Ip6) => payload(13, 9), // ip6 daddr
            (Self::Protocol, _) => typeof_entry(META, &[number(0, 16)]), // meta l4proto
            (Self::Port, _) => payload(11, 2),              // th dport
            (Self::Slot, _) => typeof_entry(NUMGEN, &[number(0, 1), number(1, 2), number(2, 0)]),
            (Self::Id, _) => typeof_entry(META, &[number(0, 2)]), // meta priority
        }
    }
}

/// Bytes of all fields, each of several padded to four: `nft` fails to list a longer key of one field.
pub(super) fn length(fields: &[Field], family: Family) -> u32 {
    if let [field] = fields {
        return field.length(family);
    }
    fields.iter().map(|field| field.length(family).next_multiple_of(4)).sum()
}

/// nft's number for a concatenation of fields.
pub(super) fn datatype(fields: &[Field], family: Family) -> u32 {
    fields.iter().fold(0, |number, field| (number << 6) | field.datatype(family))
}

/// The kind of a map with these fields as data; without fields it is a set.
pub(super) fn data_kind(fields: &[Field], family: Family) -> SetKind {
    if fields.is_empty() {
        return SetKind::Set;
    }
    SetKind::Data { datatype: datatype(fields, family), length: length(fields, family) }
}

/// User data of a set, or of a map of verdicts (`data` is `None`) or of data.
pub(super) fn userdata(key: &[Field], data: Option<&[Field]>, family: Family) -> Vec<u8> {
    let mut all = number(KEY_BYTE_ORDER, byte_order(key));
    if let Some(data) = data {
        all.extend(number(DATA_BYTE_ORDER, byte_order(data)));
        if key.contains(&Field::Slot) {
            all.extend(entry(KEY_TYPEOF, &typeof_fields(key, family)));
            all.extend(entry(DATA_TYPEOF, &typeof_fields(data, family)));
        }
    }
    all
}

fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [Field::Slot | Field::Id] => HOST_ORDER,
        [_] => NETWORK_ORDER,
        _ => NO_ORDER,
    }
}

/// An entry of user data: type, length, value.
type Entry = Vec<u8>;

fn entry(kind: u8, value: &[u8]) -> Entry {
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [&[kind, length], value].concat()
}

fn number(kind: u8, value: u32) -> Entry {
    entry(kind, &value.to_ne_bytes())
}

fn typeof_entry(expression: u32, data: &[Entry]) -> Entry {
    [number(0, expression), entry(1, &data.concat())].concat()
}

fn typeof_fields(fields: &[Field], family: Family) -> Entry {
    match fields {
        [one] => one.expression(family),
        many => {
            let fields = (0..).zip(many).map(|(index, field)| entry(index, &field.expression(family)));
            typeof_entry(CONCATENATION, &fields.collect::<Vec<_>>())
        }
    }
}
