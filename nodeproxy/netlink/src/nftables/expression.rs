//! Expressions: the instructions of which a rule is made.
//!
//! A closed list of those that Portico uses; any other one, or a known one with options that are not known here, decodes
//! to [`Expression::Other`] with its bytes. Registers are counted in words of four bytes, whatever way the kernel names
//! them.

use std::hash::{Hash, Hasher};

use super::element::{Data, Verdict};

mod decode;
mod encode;
#[cfg(test)]
mod tests;

/// A register: the index of a four-byte word, 0 to 15. Longer values occupy the words that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(pub u8);

/// Base of a payload offset (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PayloadBase {
    /// The IP header.
    Network = 1,
    /// The TCP, UDP or SCTP header.
    Transport = 2,
}

/// Properties of a packet (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MetaKey {
    /// Queueing priority, a number in the machine's order.
    Priority = 2,
    /// Packet mark, a number in the machine's order.
    Mark = 3,
    /// Name of the interface on which the packet arrived, 16 bytes with zeros behind it; only zeros for what this node sends.
    InputInterfaceName = 6,
    /// Layer-4 protocol, one byte.
    Layer4Protocol = 16,
}

/// Properties of a packet's connection (`enum nft_ct_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CtKey {
    /// Bits of `enum ip_conntrack_info`; 8 is new.
    State = 0,
    /// Bits of `enum ip_conntrack_status`; 0x20 is dnat.
    Status = 2,
}

/// How [`Expression::Compare`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Comparison {
    /// The rule continues if they are equal.
    Equal = 0,
    /// The rule continues if they differ.
    NotEqual = 1,
    /// The rule continues if the register is smaller, both read from the first byte on.
    Less = 2,
}

/// Use of the result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupResult {
    /// The rule continues if the key is a member.
    Member,
    /// The rule continues if the key is no member.
    NotMember,
    /// The map's verdict is followed; a miss ends the rule.
    Verdict,
    /// Writes the map's data to a register; a miss ends the rule.
    Data(Register),
}

/// Looks a key up in a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lookup {
    /// Name of the set or map.
    pub set: String,
    /// First register of the key.
    pub key: Register,
    /// Use of the result.
    pub result: LookupResult,
}

/// Rewrites the destination of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nat {
    /// Register of the new address.
    pub address: Register,
    /// Register of the new port.
    pub port: Register,
    /// Family of the address.
    pub family: super::Family,
}

/// Operation of a [`DynamicSet`] (`enum nft_dynset_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DynamicSetOperation {
    /// Adds the element if there is none.
    Add = 0,
    /// Adds the element, or renews its timeout; keeps its data.
    Update = 1,
    /// Removes the element.
    Delete = 2,
}

/// Changes a dynamic set or map from a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DynamicSet {
    /// Name of the set or map.
    pub set: String,
    /// Operation on the element.
    pub operation: DynamicSetOperation,
    /// First register of the key.
    pub key: Register,
    /// Register of the data, for maps; the kernel wants it for a removal as well.
    pub data: Option<Register>,
    /// Milliseconds until the element is deleted; `None` is the set's default.
    pub timeout: Option<u64>,
}

/// Count of a counter. It is no part of the rule, so all counts are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packets(pub u64);

impl PartialEq for Packets {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Packets {}

impl Hash for Packets {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

/// One instruction of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// Loads bytes of the packet.
    Payload {
        /// Base of the offset.
        base: PayloadBase,
        /// Offset, in bytes.
        offset: u32,
        /// Length, in bytes.
        length: u32,
        /// First register written.
        into: Register,
    },
    /// Replaces an address in the IP header, checksums included.
    AddressStore {
        /// Offset in the header, in bytes.
        offset: u32,
        /// Length, in bytes: 4 or 16.
        length: u32,
        /// First register read.
        from: Register,
    },
    /// Loads a property of the packet.
    MetaLoad {
        /// The property to load.
        key: MetaKey,
        /// Register that receives it.
        into: Register,
    },
    /// Changes a property of the packet.
    MetaStore {
        /// The property to change.
        key: MetaKey,
        /// Register with the new value.
        from: Register,
    },
    /// Loads a property of the connection.
    Ct {
        /// The property to load.
        key: CtKey,
        /// Register that receives it.
        into: Register,
    },
    /// Ends the rule unless a comparison holds.
    Compare {
        /// Comparison to make.
        how: Comparison,
        /// Register on the left side.
        register: Register,
        /// Constant on the right side.
        value: Vec<u8>,
    },
    /// `into = (from & mask) ^ xor`.
    Bitwise {
        /// Register with the operand.
        from: Register,
        /// Register that receives the result.
        into: Register,
        /// Mask, as long as `xor`.
        mask: Vec<u8>,
        /// Bits to flip after masking, as long as `mask`.
        xor: Vec<u8>,
    },
    /// Writes a constant.
    Immediate {
        /// Register that receives the constant.
        into: Register,
        /// Bytes of the constant.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Looks a key up.
    Lookup(Lookup),
    /// Writes `offset` plus a random number below `modulus`.
    RandomNumber {
        /// Number of different values.
        modulus: u32,
        /// The smallest value.
        offset: u32,
        /// Register that receives the number.
        into: Register,
    },
    /// Rewrites the destination.
    DestinationNat(Nat),
    /// Rewrites the source to the address of the outgoing interface, with a random port.
    Masquerade,
    /// Answers with an ICMP destination unreachable of a code.
    Reject {
        /// The code, of ICMP or of ICMP for IPv6.
        code: u8,
    },
    /// Answers a TCP segment with a reset.
    TcpReset,
    /// Loads the type (`RTN_…`) of the route back to the packet's source.
    SourceAddressType {
        /// Register that receives the type.
        into: Register,
    },
    /// Changes a dynamic set.
    DynamicSet(DynamicSet),
    /// Counts the packets that get here.
    Counter(Packets),
    /// An expression, or a use of one, that is not known here.
    Other {
        /// Name of the expression in the kernel.
        name: String,
        /// Its attributes as the kernel sent them.
        data: Vec<u8>,
    },
}
