//! Attributes to expressions, in normal form: what the kernel adds by itself (a range's second end, default flags, another
//! name for the same register) is left out again.

use super::{
    Comparison, CtKey, Data, DynamicSet, DynamicSetOperation, Expression, Lookup, LookupResult, MetaKey, Nat,
    Packets, PayloadBase, Register,
    encode::{ICMP_UNREACHABLE, IPV4_ADDRESS, IPV4_CHECKSUM, PSEUDO_HEADER, TCP_RESET},
};
use crate::{
    Error, Result,
    attribute::{Attribute, Reader},
    nftables::Family,
};

/// Attributes of one expression by their types.
struct Fields<'a>(Vec<Attribute<'a>>);

impl<'a> Fields<'a> {
    fn get(&self, kind: u16) -> Option<&Attribute<'a>> {
        self.0.iter().find(|attribute| attribute.kind == kind)
    }

    fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.u32().ok()
    }

    /// A number that is absent, or has the value that the kernel writes by default.
    fn is_default(&self, kind: u16, default: u32) -> bool {
        self.get(kind).is_none_or(|attribute| attribute.u32() == Ok(default))
    }

    fn register(&self, kind: u16) -> Option<Register> {
        Register::decode(self.u32(kind)?)
    }

    fn text(&self, kind: u16) -> Option<String> {
        self.get(kind)?.string().ok()
    }

    fn constant(&self, kind: u16) -> Option<Vec<u8>> {
        match Data::decode(self.get(kind)?).ok()? {
            Data::Value(bytes) => Some(bytes),
            Data::Verdict(_) => None,
        }
    }
}

impl Register {
    /// Reads both of the kernel's ways to name a register: 1 to 4 for 16-byte ones, 8 to 23 for words.
    fn decode(number: u32) -> Option<Self> {
        let word = match number {
            1..=4 => (number - 1) * 4,
            8..=23 => number - 8,
            _ => return None,
        };
        u8::try_from(word).ok().map(Self)
    }
}

impl Expression {
    /// Reads one expression of a list.
    pub(crate) fn decode(attribute: &Attribute<'_>) -> Result<Self> {
        let (mut name, mut data) = (None, &[][..]);
        for attribute in attribute.nested() {
            let attribute = attribute?;
            match attribute.kind {
                1 => name = Some(attribute.string()?),
                2 => data = attribute.value,
                _ => {}
            }
        }
        let name = name.ok_or_else(|| Error::Malformed("an expression without a name".into()))?;
        let fields = Fields(Reader::new(data).collect::<Result<_>>()?);
        Ok(Self::known(&name, &fields).unwrap_or_else(|| Self::Other { name, data: data.to_vec() }))
    }

    fn known(name: &str, f: &Fields<'_>) -> Option<Self> {
        match name {
            "payload" => Self::payload(f),
            "meta" => Self::meta(f),
            "ct" => Self::ct(f),
            "cmp" => Self::compare(f),
            "bitwise" => Self::bitwise(f),
            "immediate" => Self::immediate(f),
            "lookup" => Lookup::decode(f).map(Self::Lookup),
            "numgen" => Self::random_number(f),
            "nat" => Nat::decode(f).map(Self::DestinationNat),
            "masq" => (f.u32(1)? == 0x10 && f.get(2).is_none()).then_some(Self::Masquerade),
            "reject" => match f.u32(1)? {
                ICMP_UNREACHABLE => Some(Self::Reject { code: f.get(2)?.u8().ok()? }),
                TCP_RESET => Some(Self::TcpReset),
                _ => None,
            },
            "fib" => Self::source_address_type(f),
            "dynset" => DynamicSet::decode(f).map(Self::DynamicSet),
            "counter" => {
                Some(Self::Counter(Packets(f.get(2).and_then(|packets| packets.u64().ok()).unwrap_or(0))))
            }
            _ => None,
        }
    }

    fn payload(f: &Fields<'_>) -> Option<Self> {
        if f.get(5).is_some() {
            return Self::address_store(f);
        }
        let base = match f.u32(2)? {
            1 => PayloadBase::Network,
            2 => PayloadBase::Transport,
            _ => return None,
        };
        Some(Self::Payload { base, offset: f.u32(3)?, length: f.u32(4)?, into: f.register(1)? })
    }

    fn address_store(f: &Fields<'_>) -> Option<Self> {
        let (offset, length) = (f.u32(3)?, f.u32(4)?);
        let header = if length == IPV4_ADDRESS {
            f.u32(6)? == 1 && f.u32(7)? == IPV4_CHECKSUM
        } else {
            length == 16 && f.is_default(6, 0) && f.is_default(7, 0)
        };
        let plain = f.u32(2)? == PayloadBase::Network as u32 && header && f.u32(8)? == PSEUDO_HEADER;
        plain.then_some(Self::AddressStore { offset, length, from: f.register(5)? })
    }

    fn meta(f: &Fields<'_>) -> Option<Self> {
        let key = match f.u32(2)? {
            2 => MetaKey::Priority,
            3 => MetaKey::Mark,
            6 => MetaKey::InputInterfaceName,
            16 => MetaKey::Layer4Protocol,
            _ => return None,
        };
        match f.register(1) {
            Some(into) => Some(Self::MetaLoad { key, into }),
            None => f.register(3).map(|from| Self::MetaStore { key, from }),
        }
    }

    fn ct(f: &Fields<'_>) -> Option<Self> {
        let key = match f.u32(2)? {
            0 => CtKey::State,
            2 => CtKey::Status,
            _ => return None,
        };
        f.get(3).is_none().then_some(Self::Ct { key, into: f.register(1)? })
    }

    fn compare(f: &Fields<'_>) -> Option<Self> {
        let how = match f.u32(2)? {
            0 => Comparison::Equal,
            1 => Comparison::NotEqual,
            2 => Comparison::Less,
            _ => return None,
        };
        Some(Self::Compare { how, register: f.register(1)?, value: f.constant(3)? })
    }

    fn bitwise(f: &Fields<'_>) -> Option<Self> {
        let (mask, xor) = (f.constant(4)?, f.constant(5)?);
        let plain = f.is_default(6, 0) && f.u32(3)? as usize == mask.len() && mask.len() == xor.len();
        plain.then_some(Self::Bitwise { from: f.register(1)?, into: f.register(2)?, mask, xor })
    }

    fn immediate(f: &Fields<'_>) -> Option<Self> {
        match (f.u32(1)?, Data::decode(f.get(2)?).ok()?) {
            (0, Data::Verdict(verdict)) => Some(Self::Verdict(verdict)),
            (number, Data::Value(value)) => Some(Self::Immediate { into: Register::decode(number)?, value }),
            _ => None,
        }
    }

    fn random_number(f: &Fields<'_>) -> Option<Self> {
        let offset = if f.get(4).is_some() { f.u32(4)? } else { 0 };
        (f.u32(3)? == 1).then_some(Self::RandomNumber { modulus: f.u32(2)?, offset, into: f.register(1)? })
    }

    fn source_address_type(f: &Fields<'_>) -> Option<Self> {
        (f.u32(2)? == 3 && f.u32(3)? == 1).then_some(Self::SourceAddressType { into: f.register(1)? })
    }
}

impl Lookup {
    fn decode(f: &Fields<'_>) -> Option<Self> {
        let inverted = f.get(5).is_some() && f.u32(5)? & 1 != 0;
        let result = match (f.get(3), inverted) {
            (None, false) => LookupResult::Member,
            (None, true) => LookupResult::NotMember,
            (Some(_), true) => return None,
            (Some(target), false) => match target.u32().ok()? {
                0 => LookupResult::Verdict,
                number => LookupResult::Data(Register::decode(number)?),
            },
        };
        Some(Self { set: f.text(1)?, key: f.register(2)?, result })
    }
}

impl Nat {
    fn decode(f: &Fields<'_>) -> Option<Self> {
        let (address, port) = (f.register(3)?, f.register(5)?);
        let one_address = f.get(4).is_none() || f.register(4) == Some(address);
        let one_port = f.get(6).is_none() || f.register(6) == Some(port);
        // The kernel notes by itself that addresses (1) and ports (2) are given.
        let plain = f.get(7).is_none() || f.u32(7)? & !3 == 0;
        let family = Family::from_number(u8::try_from(f.u32(2)?).ok()?)?;
        (f.u32(1)? == 1 && one_address && one_port && plain).then_some(Self { address, port, family })
    }
}

impl DynamicSet {
    fn decode(f: &Fields<'_>) -> Option<Self> {
        let operation = match f.u32(3)? {
            0 => DynamicSetOperation::Add,
            1 => DynamicSetOperation::Update,
            2 => DynamicSetOperation::Delete,
            _ => return None,
        };
        let plain = f.get(7).is_none() && f.get(10).is_none() && f.is_default(9, 0);
        let timeout = match f.get(6) {
            None => None,
            Some(attribute) => Some(attribute.u64().ok()?).filter(|milliseconds| *milliseconds != 0),
        };
        let data = if f.get(5).is_some() { Some(f.register(5)?) } else { None };
        plain.then_some(Self { set: f.text(1)?, operation, key: f.register(4)?, data, timeout })
    }
}
