//! Tables, chains, rules and sets as values, to and from messages.
//!
//! Names are at most 255 bytes; the kernel refuses longer ones. Handles and use counts are the kernel's own affair and are
//! not part of a value, so what is dumped equals what was sent.

use super::{Expression, Family};
use crate::{
    Error, Result,
    attribute::{Reader, Writer},
};

/// `NFT_DATA_VERDICT`: the data type of verdict maps.
const VERDICT_TYPE: u32 = 0xffff_ff00;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const TIMEOUT: u32 = 0x10;
const EVALUATED: u32 = 0x20;
const CONCATENATED: u32 = 0x80;

/// A table, named by family and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// Family of the packets that it sees.
    pub family: Family,
    /// At most 255 bytes.
    pub name: String,
}

/// Hook of a base chain (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// Before routing of packets that arrive.
    Prerouting = 0,
    /// Packets to this host, after routing.
    Input = 1,
    /// Packets that pass through.
    Forward = 2,
    /// Packets from this host.
    Output = 3,
    /// Packets that leave.
    Postrouting = 4,
}

/// Type of a base chain (`filter`, `nat` or `route`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each connection.
    Nat,
    /// Like filter, and routes the packet again.
    Route,
}

/// Properties of a chain on a hook, beside its rules. Its policy is accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// Type of the chain.
    pub kind: ChainKind,
    /// Hook of the chain.
    pub hook: Hook,
    /// Order among chains on one hook; the smallest comes first.
    pub priority: i32,
}

/// A chain, without its rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Table that holds it.
    pub table: Table,
    /// At most 255 bytes.
    pub name: String,
    /// Hook, type and priority; `None` for chains that others jump to.
    pub base: Option<BaseChain>,
}

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Table of the chain.
    pub table: Table,
    /// Name of the chain.
    pub chain: String,
    /// Its instructions, in order. The first that does not match ends the rule.
    pub expressions: Vec<Expression>,
}

/// Values of a set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetKind {
    /// Nothing: it is a set.
    Set,
    /// A verdict for each key.
    Verdicts,
    /// Data of a fixed length. The type only serves programs that print it (nft's datatype numbers).
    Data {
        /// nft's number of the datatype.
        datatype: u32,
        /// Length of the data, in bytes.
        length: u32,
    },
}

/// A set or map, without its elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// Table that holds it.
    pub table: Table,
    /// At most 255 bytes.
    pub name: String,
    /// nft's number of the key's datatype; the kernel only keeps it.
    pub key_datatype: u32,
    /// Bytes of a key, each field of several padded to four.
    pub key_length: u32,
    /// Whether it is a map, and of what.
    pub kind: SetKind,
    /// Whether its keys are ranges.
    pub intervals: bool,
    /// For concatenated ranges: bytes of each field, not padded.
    pub fields: Vec<u32>,
    /// For sets that packets fill: milliseconds until an unused element is deleted.
    pub timeout: Option<u64>,
    /// Most elements it may have.
    pub size: Option<u32>,
    /// Notes that nft needs to print it: byte orders, and the expressions of `typeof`.
    pub userdata: Vec<u8>,
    /// Number of elements, from kernels that report it (`NFTA_SET_COUNT`). Ignored when a set is created.
    pub count: Option<u32>,
}

fn missing(what: &'static str) -> Error {
    Error::Malformed(format!("{what} is missing in a kernel object"))
}

fn family(number: u8) -> Result<Family> {
    Family::from_number(number).ok_or_else(|| Error::Malformed(format!("address family {number}")))
}

impl Table {
    /// Reads a table.
    pub(crate) fn decode(family_number: u8, attributes: &[u8]) -> Result<Self> {
        let name = Reader::find(attributes, 1)?.ok_or_else(|| missing("the table's name"))?.string()?;
        Ok(Self { family: family(family_number)?, name })
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { family, name } = self;
        write!(f, "{family} {name}")
    }
}

impl ChainKind {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    fn parse(name: Option<&str>) -> Result<Self> {
        [Self::Filter, Self::Nat, Self::Route]
            .into_iter()
            .find(|kind| Some(kind.name()) == name)
            .ok_or_else(|| Error::Malformed(format!("chain type {name:?}")))
    }
}

impl Chain {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.string(1, &self.table.name);
        w.string(3, &self.name);
        if let Some(base) = &self.base {
            w.nested(4, |hook| {
                hook.u32(1, base.hook as u32);
                hook.u32(2, base.priority.cast_unsigned());
            });
            w.u32(5, 1); // policy NF_ACCEPT
            w.string(7, base.kind.name());
        }
    }

    pub(crate) fn decode(family_number: u8, attributes: &[u8]) -> Result<Self> {
        let (mut name, mut hook, mut kind) = (None, None, None);
        for attribute in Reader::new(attributes) {
            let attribute = attribute?;
            match attribute.kind {
                3 => name = Some(attribute.string()?),
                4 => hook = Some(decode_hook(attribute.nested())?),
                7 => kind = Some(attribute.string()?),
                _ => {}
            }
        }
        let base = match (hook, kind) {
            (None, _) => None,
            (Some((hook, priority)), kind) => {
                Some(BaseChain { kind: ChainKind::parse(kind.as_deref())?, hook, priority })
            }
        };
        let name = name.ok_or_else(|| missing("the chain's name"))?;
        Ok(Self { table: Table::decode(family_number, attributes)?, name, base })
    }
}

fn decode_hook(attributes: Reader<'_>) -> Result<(Hook, i32)> {
    let (mut hook, mut priority) = (None, None);
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            1 => hook = Some(Hook::parse(attribute.u32()?)?),
            2 => priority = Some(attribute.u32()?.cast_signed()),
            _ => {}
        }
    }
    Ok((
        hook.ok_or_else(|| missing("a chain's hook"))?,
        priority.ok_or_else(|| missing("a chain's priority"))?,
    ))
}

impl Hook {
    fn parse(number: u32) -> Result<Self> {
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting]
            .into_iter()
            .find(|hook| *hook as u32 == number)
            .ok_or_else(|| Error::Malformed(format!("hook number {number}")))
    }
}

impl Rule {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.string(1, &self.table.name);
        w.string(2, &self.chain);
        w.nested(4, |list| self.expressions.iter().for_each(|expression| expression.encode(list)));
    }

    pub(crate) fn decode(family_number: u8, attributes: &[u8]) -> Result<Self> {
        let (mut chain, mut expressions) = (None, Vec::new());
        for attribute in Reader::new(attributes) {
            let attribute = attribute?;
            match attribute.kind {
                2 => chain = Some(attribute.string()?),
                4 => {
                    for expression in attribute.nested() {
                        expressions.push(Expression::decode(&expression?)?);
                    }
                }
                _ => {}
            }
        }
        let chain = chain.ok_or_else(|| missing("the rule's chain"))?;
        Ok(Self { table: Table::decode(family_number, attributes)?, chain, expressions })
    }
}

impl Set {
    fn flags(&self) -> u32 {
        let map = if self.kind == SetKind::Set { 0 } else { MAP };
        let intervals = if self.intervals { INTERVAL } else { 0 };
        let concatenated = if self.fields.is_empty() { 0 } else { CONCATENATED };
        let dynamic = if self.timeout.is_some() { TIMEOUT | EVALUATED } else { 0 };
        map | intervals | concatenated | dynamic
    }

    /// Writes the set. `id` names it for other messages of the same batch; the kernel wants one.
    pub(crate) fn encode(&self, w: &mut Writer, id: u32) {
        w.string(1, &self.table.name);
        w.string(2, &self.name);
        w.u32(3, self.flags());
        w.u32(4, self.key_datatype);
        w.u32(5, self.key_length);
        match self.kind {
            SetKind::Set => {}
            SetKind::Verdicts => {
                w.u32(6, VERDICT_TYPE);
                w.u32(7, 16);
            }
            SetKind::Data { datatype, length } => {
                w.u32(6, datatype);
                w.u32(7, length);
            }
        }
        if self.size.is_some() || !self.fields.is_empty() {
            w.nested(9, |description| self.encode_description(description));
        }
        w.u32(10, id);
        if let Some(timeout) = self.timeout {
            w.u64(11, timeout);
        }
        if !self.userdata.is_empty() {
            w.bytes(13, &self.userdata);
        }
    }

    fn encode_description(&self, w: &mut Writer) {
        if let Some(size) = self.size {
            w.u32(1, size);
        }
        if !self.fields.is_empty() {
            w.nested(2, |list| {
                self.fields.iter().for_each(|length| list.nested(1, |field| field.u32(1, *length)));
            });
        }
    }

    pub(crate) fn decode(family_number: u8, attributes: &[u8]) -> Result<Self> {
        let table = Table::decode(family_number, attributes)?;
        let (mut flags, mut datatype, mut length) = (0, None, 0);
        let mut set = Self {
            table,
            name: String::new(),
            key_datatype: 0,
            key_length: 0,
            kind: SetKind::Set,
            intervals: false,
            fields: Vec::new(),
            timeout: None,
            size: None,
            userdata: Vec::new(),
            count: None,
        };
        for attribute in Reader::new(attributes) {
            let attribute = attribute?;
            match attribute.kind {
                2 => set.name = attribute.string()?,
                3 => flags = attribute.u32()?,
                4 => set.key_datatype = attribute.u32()?,
                5 => set.key_length = attribute.u32()?,
                6 => datatype = Some(attribute.u32()?),
                7 => length = attribute.u32()?,
                9 => set.decode_description(attribute.nested())?,
                11 => set.timeout = Some(attribute.u64()?),
                13 => set.userdata = attribute.value.to_vec(),
                20 => set.count = Some(attribute.u32()?),
                _ => {}
            }
        }
        set.intervals = flags & INTERVAL != 0;
        set.kind = match datatype {
            None => SetKind::Set,
            Some(VERDICT_TYPE) => SetKind::Verdicts,
            Some(datatype) => SetKind::Data { datatype, length },
        };
        if set.name.is_empty() { Err(missing("the set's name")) } else { Ok(set) }
    }

    fn decode_description(&mut self, attributes: Reader<'_>) -> Result<()> {
        for attribute in attributes {
            let attribute = attribute?;
            match attribute.kind {
                1 => self.size = Some(attribute.u32()?),
                2 => {
                    for field in attribute.nested() {
                        let field = field?;
                        let length =
                            Reader::find(field.value, 1)?.ok_or_else(|| missing("a field's length"))?;
                        self.fields.push(length.u32()?);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
