//! Expressions to attributes.

use super::{Data, DynamicSet, Expression, Lookup, LookupResult, Nat, PayloadBase, Register};
use crate::attribute::Writer;

/// `NFT_REG32_00`: number of the first four-byte register.
const FIRST_WORD: u32 = 8;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY` of `linux/netfilter/nf_nat.h`.
const FULLY_RANDOM: u32 = 0x10;
/// Bytes of an IPv4 address, whose header has a checksum of its own.
pub(super) const IPV4_ADDRESS: u32 = 4;
/// Offset of that checksum in the header, in bytes.
pub(super) const IPV4_CHECKSUM: u32 = 10;
/// `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`: the checksum of TCP and UDP is over the addresses, too.
pub(super) const PSEUDO_HEADER: u32 = 1;
/// `NFT_REJECT_ICMP_UNREACH` of `enum nft_reject_types`.
pub(super) const ICMP_UNREACHABLE: u32 = 0;
/// `NFT_REJECT_TCP_RST` of `enum nft_reject_types`.
pub(super) const TCP_RESET: u32 = 1;

impl Register {
    fn encode(self, writer: &mut Writer, kind: u16) {
        writer.u32(kind, FIRST_WORD + u32::from(self.0));
    }
}

fn constant(writer: &mut Writer, kind: u16, bytes: &[u8]) {
    writer.nested(kind, |data| data.bytes(1, bytes));
}

impl Expression {
    /// Name of the expression in the kernel.
    pub fn name(&self) -> &str {
        match self {
            Self::Payload { .. } | Self::AddressStore { .. } => "payload",
            Self::MetaLoad { .. } | Self::MetaStore { .. } => "meta",
            Self::Ct { .. } => "ct",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Lookup(_) => "lookup",
            Self::RandomNumber { .. } => "numgen",
            Self::DestinationNat(_) => "nat",
            Self::Masquerade => "masq",
            Self::Reject { .. } | Self::TcpReset => "reject",
            Self::SourceAddressType { .. } => "fib",
            Self::DynamicSet(_) => "dynset",
            Self::Counter(_) => "counter",
            Self::Other { name, .. } => name,
        }
    }

    /// Writes the expression into a list of expressions.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.nested(1, |expression| {
            expression.string(1, self.name());
            expression.nested(2, |data| self.encode_data(data));
        });
    }

    fn encode_data(&self, w: &mut Writer) {
        match self {
            Self::Payload { base, offset, length, into } => {
                into.encode(w, 1);
                w.u32(2, *base as u32);
                w.u32(3, *offset);
                w.u32(4, *length);
            }
            Self::AddressStore { offset, length, from } => {
                w.u32(2, PayloadBase::Network as u32);
                w.u32(3, *offset);
                w.u32(4, *length);
                from.encode(w, 5);
                if *length == IPV4_ADDRESS {
                    w.u32(6, 1); // NFT_PAYLOAD_CSUM_INET
                    w.u32(7, IPV4_CHECKSUM);
                }
                w.u32(8, PSEUDO_HEADER);
            }
            Self::MetaLoad { key, into } => {
                into.encode(w, 1);
                w.u32(2, *key as u32);
            }
            Self::MetaStore { key, from } => {
                w.u32(2, *key as u32);
                from.encode(w, 3);
            }
            Self::Ct { key, into } => {
                into.encode(w, 1);
                w.u32(2, *key as u32);
            }
            Self::Compare { how, register, value } => {
                register.encode(w, 1);
                w.u32(2, *how as u32);
                constant(w, 3, value);
            }
            Self::Bitwise { from, into, mask, xor } => {
                from.encode(w, 1);
                into.encode(w, 2);
                w.u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                constant(w, 4, mask);
                constant(w, 5, xor);
            }
            Self::Immediate { into, value } => {
                into.encode(w, 1);
                constant(w, 2, value);
            }
            Self::Verdict(verdict) => {
                w.u32(1, 0); // NFT_REG_VERDICT
                Data::Verdict(verdict.clone()).encode(w, 2);
            }
            Self::Lookup(lookup) => lookup.encode(w),
            Self::RandomNumber { modulus, offset, into } => {
                into.encode(w, 1);
                w.u32(2, *modulus);
                w.u32(3, 1); // NFT_NG_RANDOM
                w.u32(4, *offset);
            }
            Self::DestinationNat(nat) => nat.encode(w),
            Self::Masquerade => w.u32(1, FULLY_RANDOM),
            Self::Reject { code } => {
                w.u32(1, ICMP_UNREACHABLE);
                w.bytes(2, &[*code]);
            }
            Self::TcpReset => w.u32(1, TCP_RESET),
            Self::SourceAddressType { into } => {
                into.encode(w, 1);
                w.u32(2, 3); // NFT_FIB_RESULT_ADDRTYPE
                w.u32(3, 1); // NFTA_FIB_F_SADDR
            }
            Self::DynamicSet(dynamic) => dynamic.encode(w),
            Self::Counter(_) => {} // counts from 0
            Self::Other { data, .. } => w.raw(data),
        }
    }
}

impl Lookup {
    fn encode(&self, w: &mut Writer) {
        w.string(1, &self.set);
        self.key.encode(w, 2);
        match self.result {
            LookupResult::Member => {}
            LookupResult::NotMember => w.u32(5, 1), // NFT_LOOKUP_F_INV
            LookupResult::Verdict => w.u32(3, 0),
            LookupResult::Data(register) => register.encode(w, 3),
        }
    }
}

impl Nat {
    fn encode(self, w: &mut Writer) {
        w.u32(1, 1); // NFT_NAT_DNAT
        w.u32(2, self.family as u32);
        self.address.encode(w, 3);
        self.port.encode(w, 5);
    }
}

impl DynamicSet {
    fn encode(&self, w: &mut Writer) {
        w.string(1, &self.set);
        w.u32(3, self.operation as u32);
        self.key.encode(w, 4);
        if let Some(data) = self.data {
            data.encode(w, 5);
        }
        if let Some(timeout) = self.timeout {
            w.u64(6, timeout);
        }
    }
}
