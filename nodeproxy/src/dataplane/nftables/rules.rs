//! Parts of rules: each function returns the expressions that nft would write for a few words of a rule.
//!
//! Registers have nft's layout, because nft can only print what it could have written: keys from the first
//! register on, results in the first register. Numbers in marks and priorities are in the machine's order.

use portico_netlink::nftables::{
    Comparison, CtKey, DynamicSet, DynamicSetOperation, Expression, Family, Lookup, LookupResult, MetaKey,
    Nat, Packets, PayloadBase, Register, Rule, Verdict,
};
use portico_proxy_core::interface::PodInterfaces;

use super::names::table;

/// First register of keys and results.
const FIRST: Register = Register(0);
/// `NF_CT_STATE_INVALID_BIT` of `nf_conntrack_common.h`.
const INVALID: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_NEW)` of `nf_conntrack_common.h`.
const NEW: u32 = 8;
/// `IPS_DST_NAT` of `enum ip_conntrack_status`.
const DESTINATION_NAT: u32 = 0x20;
/// `IPPROTO_TCP` of linux/in.h.
const TCP: u8 = 6;
/// `TH_SYN | TH_RST`.
const SYN_OR_RST: u8 = 0x06;
/// The first port of those that clients take by default (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;
/// `RTN_LOCAL` of `enum rtn_type`.
const LOCAL: u32 = 2;

/// Words of a rule in one family's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    pub(super) family: Family,
}

/// Parts of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// `ip saddr`.
    Source,
    /// `ip daddr`.
    Destination,
    /// `meta l4proto`.
    Protocol,
    /// `th dport`.
    Port,
    /// `numgen random mod modulus offset offset`.
    Random { modulus: u32, offset: u32 },
    /// `meta priority`.
    Priority,
}

/// `ip daddr . meta l4proto . th dport`, the key of a frontend.
pub(super) const FRONTEND: [Part; 3] = [Part::Destination, Part::Protocol, Part::Port];

impl Words {
    /// Four-byte words of an address.
    fn address_words(self) -> u8 {
        match self.family {
            Family::Ip => 1,
            Family::Ip6 => 4,
        }
    }

    fn part_words(self, part: Part) -> u8 {
        match part {
            Part::Source | Part::Destination => self.address_words(),
            Part::Protocol | Part::Port | Part::Random { .. } | Part::Priority => 1,
        }
    }

    /// Offset and length of the destination in the IP header.
    fn destination(self) -> (u32, u32) {
        match self.family {
            Family::Ip => (16, 4),
            Family::Ip6 => (24, 16),
        }
    }

    fn load(self, part: Part, into: Register) -> Expression {
        let (destination, length) = self.destination();
        let source = destination - length;
        let network = |offset| Expression::Payload { base: PayloadBase::Network, offset, length, into };
        match part {
            Part::Source => network(source),
            Part::Destination => network(destination),
            Part::Protocol => Expression::MetaLoad { key: MetaKey::Layer4Protocol, into },
            Part::Port => Expression::Payload { base: PayloadBase::Transport, offset: 2, length: 2, into },
            Part::Random { modulus, offset } => Expression::RandomNumber { modulus, offset, into },
            Part::Priority => Expression::MetaLoad { key: MetaKey::Priority, into },
        }
    }

    fn key(self, parts: &[Part]) -> Vec<Expression> {
        let mut at = 0;
        let mut expressions = Vec::with_capacity(parts.len() + 2);
        for part in parts {
            expressions.push(self.load(*part, Register(at)));
            at += self.part_words(*part);
        }
        expressions
    }

    fn lookup(self, parts: &[Part], set: &str, result: LookupResult) -> Vec<Expression> {
        let mut expressions = self.key(parts);
        expressions.push(Expression::Lookup(Lookup { set: set.to_owned(), key: FIRST, result }));
        expressions
    }

    /// `<parts> @set`.
    pub(super) fn member(self, parts: &[Part], set: &str) -> Vec<Expression> {
        self.lookup(parts, set, LookupResult::Member)
    }

    /// `<parts> != @set`.
    pub(super) fn no_member(self, parts: &[Part], set: &str) -> Vec<Expression> {
        self.lookup(parts, set, LookupResult::NotMember)
    }

    /// `<parts> vmap @map`.
    pub(super) fn verdict_of(self, parts: &[Part], map: &str) -> Vec<Expression> {
        self.lookup(parts, map, LookupResult::Verdict)
    }

    /// `meta priority set <frontend> map @map  meta priority vmap @classes`: a number, and the chain of that number.
    pub(super) fn dispatch(self, map: &str, classes: &str) -> Vec<Expression> {
        [self.priority_from(&FRONTEND, map), self.verdict_of(&[Part::Priority], classes)].concat()
    }

    /// `meta priority set <parts> map @map`.
    pub(super) fn priority_from(self, parts: &[Part], map: &str) -> Vec<Expression> {
        let mut expressions = self.lookup(parts, map, LookupResult::Data(FIRST));
        expressions.push(Expression::MetaStore { key: MetaKey::Priority, from: FIRST });
        expressions
    }

    /// `ip daddr set <parts> map @map`.
    pub(super) fn destination_from(self, parts: &[Part], map: &str) -> Vec<Expression> {
        let mut expressions = self.lookup(parts, map, LookupResult::Data(FIRST));
        let (offset, length) = self.destination();
        expressions.push(Expression::AddressStore { offset, length, from: FIRST });
        expressions
    }

    /// `dnat ip to <parts> map @map`.
    pub(super) fn dnat_to(self, parts: &[Part], map: &str) -> Vec<Expression> {
        let mut expressions = self.lookup(parts, map, LookupResult::Data(FIRST));
        let nat = Nat { address: FIRST, port: Register(self.address_words()), family: self.family };
        expressions.push(Expression::DestinationNat(nat));
        expressions
    }

    /// `<operation> @map { <parts> timeout seconds : meta priority }`.
    pub(super) fn change_map(
        self,
        operation: DynamicSetOperation,
        map: &str,
        parts: &[Part],
        seconds: Option<u32>,
    ) -> Vec<Expression> {
        let mut expressions = self.key(parts);
        let words: u8 = parts.iter().map(|part| self.part_words(*part)).sum();
        let data = Register(words.next_multiple_of(4));
        expressions.push(self.load(Part::Priority, data));
        expressions.push(Expression::DynamicSet(DynamicSet {
            set: map.to_owned(),
            operation,
            key: FIRST,
            data: Some(data),
            timeout: seconds.map(|seconds| u64::from(seconds) * 1000),
        }));
        expressions
    }

    /// `reject` by ICMP, with the code for an unreachable port. The kernel sends a host at most six of these at
    /// once and one a second after that (`icmp_ratelimit`). TCP is refused by [`reset`], which has no limit.
    pub(super) fn reject(self) -> Vec<Expression> {
        let code = match self.family {
            Family::Ip => 3,
            Family::Ip6 => 4,
        };
        vec![Expression::Reject { code }]
    }
}

/// A rule of one of our chains.
pub(super) fn rule<const N: usize>(family: Family, chain: &str, words: &[Vec<Expression>; N]) -> Rule {
    Rule { table: table(family), chain: chain.to_owned(), expressions: words.concat() }
}

fn bits(load: Expression, mask: u32, how: Comparison, value: u32) -> Vec<Expression> {
    vec![
        load,
        Expression::Bitwise { from: FIRST, into: FIRST, mask: mask.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expression::Compare { how, register: FIRST, value: value.to_ne_bytes().to_vec() },
    ]
}

/// `meta l4proto tcp`.
pub(super) fn tcp() -> Vec<Expression> {
    vec![
        Expression::MetaLoad { key: MetaKey::Layer4Protocol, into: FIRST },
        Expression::Compare { how: Comparison::Equal, register: FIRST, value: vec![TCP] },
    ]
}

/// `meta l4proto tcp reject with tcp reset`.
pub(super) fn reset() -> Vec<Expression> {
    [tcp(), vec![Expression::TcpReset]].concat()
}

/// `goto chain`.
pub(super) fn goto(chain: &str) -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Goto(chain.to_owned()))]
}

/// `ct state new`.
pub(super) fn first_packet() -> Vec<Expression> {
    bits(Expression::Ct { key: CtKey::State, into: FIRST }, NEW, Comparison::NotEqual, 0)
}

/// `ct state invalid`.
pub(super) fn invalid() -> Vec<Expression> {
    bits(Expression::Ct { key: CtKey::State, into: FIRST }, INVALID, Comparison::NotEqual, 0)
}

/// `tcp flags ! syn,rst`, after [`tcp`]: neither the first segment nor a reset.
pub(super) fn within_a_connection() -> Vec<Expression> {
    let flags = Expression::Payload { base: PayloadBase::Transport, offset: 13, length: 1, into: FIRST };
    vec![
        flags,
        Expression::Bitwise { from: FIRST, into: FIRST, mask: vec![SYN_OR_RST], xor: vec![0] },
        Expression::Compare { how: Comparison::Equal, register: FIRST, value: vec![0] },
    ]
}

/// `tcp sport < 32768`, after [`tcp`]: from a port that servers use.
pub(super) fn from_a_server() -> Vec<Expression> {
    let port = Expression::Payload { base: PayloadBase::Transport, offset: 0, length: 2, into: FIRST };
    let value = EPHEMERAL.to_be_bytes().to_vec();
    vec![port, Expression::Compare { how: Comparison::Less, register: FIRST, value }]
}

/// `counter`.
pub(super) fn count() -> Vec<Expression> {
    vec![Expression::Counter(Packets::default())]
}

/// `ct status dnat`.
pub(super) fn rewritten() -> Vec<Expression> {
    bits(Expression::Ct { key: CtKey::Status, into: FIRST }, DESTINATION_NAT, Comparison::NotEqual, 0)
}

/// `iifname interfaces`, with a `*` behind a prefix.
pub(super) fn arrived_on(interfaces: &PodInterfaces) -> Vec<Expression> {
    input_interface(interfaces, Comparison::Equal)
}

/// `iifname != interfaces`. This node's own packets arrived on none, so they match.
pub(super) fn not_arrived_on(interfaces: &PodInterfaces) -> Vec<Expression> {
    input_interface(interfaces, Comparison::NotEqual)
}

/// nft compares a whole name with the zeros behind it, and a prefix without.
fn input_interface(interfaces: &PodInterfaces, how: Comparison) -> Vec<Expression> {
    let value = match interfaces {
        PodInterfaces::Named(name) => name.padded().to_vec(),
        PodInterfaces::Prefixed(prefix) => prefix.bytes().to_vec(),
    };
    vec![
        Expression::MetaLoad { key: MetaKey::InputInterfaceName, into: FIRST },
        Expression::Compare { how, register: FIRST, value },
    ]
}

/// `fib saddr type local`.
pub(super) fn from_this_node() -> Vec<Expression> {
    vec![
        Expression::SourceAddressType { into: FIRST },
        Expression::Compare { how: Comparison::Equal, register: FIRST, value: LOCAL.to_ne_bytes().to_vec() },
    ]
}

/// `meta mark & bit == bit`.
pub(super) fn marked(bit: u32) -> Vec<Expression> {
    bits(Expression::MetaLoad { key: MetaKey::Mark, into: FIRST }, bit, Comparison::Equal, bit)
}

/// `meta priority & mask == value`.
pub(super) fn priority_is(mask: u32, value: u32) -> Vec<Expression> {
    bits(Expression::MetaLoad { key: MetaKey::Priority, into: FIRST }, mask, Comparison::Equal, value)
}

/// `meta priority set 0`.
pub(super) fn forget_priority() -> Vec<Expression> {
    vec![
        Expression::Immediate { into: FIRST, value: vec![0; 4] },
        Expression::MetaStore { key: MetaKey::Priority, from: FIRST },
    ]
}

/// `meta mark set meta mark | bit`.
pub(super) fn mark(bit: u32) -> Vec<Expression> {
    change_mark(!bit, bit)
}

/// `meta mark set meta mark ^ bit`.
pub(super) fn flip_mark(bit: u32) -> Vec<Expression> {
    change_mark(u32::MAX, bit)
}

fn change_mark(mask: u32, xor: u32) -> Vec<Expression> {
    vec![
        Expression::MetaLoad { key: MetaKey::Mark, into: FIRST },
        Expression::Bitwise {
            from: FIRST,
            into: FIRST,
            mask: mask.to_ne_bytes().to_vec(),
            xor: xor.to_ne_bytes().to_vec(),
        },
        Expression::MetaStore { key: MetaKey::Mark, from: FIRST },
    ]
}

/// `masquerade fully-random`.
pub(super) fn masquerade() -> Vec<Expression> {
    vec![Expression::Masquerade]
}

/// `jump chain`.
pub(super) fn jump(chain: &str) -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Jump(chain.to_owned()))]
}

/// `accept`: ends this hook's chain for the packet.
pub(super) fn accept() -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Accept)]
}

/// `drop`.
pub(super) fn drop_packet() -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Drop)]
}
