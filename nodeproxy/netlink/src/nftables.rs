//! nf_tables: its objects as values, batches of changes, dumps.
//!
//! Follows `include/uapi/linux/netfilter/nf_tables.h`. Dumps decode to the same values that were sent, so a
//! table can be compared by `==`: registers, default flags and the order of attributes have one normal form.

mod batch;
mod client;
mod element;
mod expression;
mod object;
mod watch;

pub use batch::{Batch, Elements};
pub use client::Client;
pub use element::{Data, Element, Verdict};
pub use expression::{
    Comparison, CtKey, DynamicSet, DynamicSetOperation, Expression, Lookup, LookupResult, MetaKey, Nat,
    Packets, PayloadBase, Register,
};
pub use object::{BaseChain, Chain, ChainKind, Hook, Rule, Set, SetKind, Table};
pub use watch::{Change, Watch};

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// `ip`: IPv4 packets.
    Ip = 2,
    /// `ip6`: IPv6 packets.
    Ip6 = 10,
}

impl Family {
    /// The name that nft uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// The family with a number, if it is one of these.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Ip, Self::Ip6].into_iter().find(|family| *family as u8 == number)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Message types of the nf_tables subsystem (`enum nf_tables_msg_types`), with the subsystem's number 10.
pub(crate) mod kind {
    const SUBSYSTEM: u16 = 10 << 8;
    pub(crate) const NEW_TABLE: u16 = SUBSYSTEM;
    pub(crate) const GET_TABLE: u16 = SUBSYSTEM + 1;
    pub(crate) const DELETE_TABLE: u16 = SUBSYSTEM + 2;
    pub(crate) const NEW_CHAIN: u16 = SUBSYSTEM + 3;
    pub(crate) const GET_CHAIN: u16 = SUBSYSTEM + 4;
    pub(crate) const DELETE_CHAIN: u16 = SUBSYSTEM + 5;
    pub(crate) const NEW_RULE: u16 = SUBSYSTEM + 6;
    pub(crate) const GET_RULE: u16 = SUBSYSTEM + 7;
    pub(crate) const DELETE_RULE: u16 = SUBSYSTEM + 8;
    pub(crate) const NEW_SET: u16 = SUBSYSTEM + 9;
    pub(crate) const GET_SET: u16 = SUBSYSTEM + 10;
    pub(crate) const DELETE_SET: u16 = SUBSYSTEM + 11;
    pub(crate) const NEW_ELEMENT: u16 = SUBSYSTEM + 12;
    pub(crate) const GET_ELEMENT: u16 = SUBSYSTEM + 13;
    pub(crate) const DELETE_ELEMENT: u16 = SUBSYSTEM + 14;
    pub(crate) const NEW_GENERATION: u16 = SUBSYSTEM + 15;
    pub(crate) const GET_GENERATION: u16 = SUBSYSTEM + 16;
}
