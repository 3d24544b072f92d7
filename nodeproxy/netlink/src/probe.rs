//! Features of this kernel's nf_tables. The kernel checks small batches that are never committed.

use crate::{
    Errno, Result,
    nftables::{
        Batch, Chain, Client, CtKey, DynamicSet, DynamicSetOperation, Expression, Family, Lookup,
        LookupResult, MetaKey, Nat, PayloadBase, Register, Rule, Set, SetKind, Table,
    },
};

/// A feature that some kernels are built without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Tables of the family.
    Tables,
    /// Maps of concatenated keys.
    ConcatenatedMaps,
    /// Sets of concatenated ranges.
    ConcatenatedRanges,
    /// Maps that packets fill and that time out.
    DynamicMaps,
    /// Matches on connection state (`ct`).
    ConnectionTracking,
    /// Destination rewriting (`dnat`).
    DestinationNat,
    /// Source rewriting (`masquerade`).
    Masquerade,
    /// Random numbers (`numgen`).
    RandomNumbers,
    /// Types of routes.
    RouteTypes,
    /// ICMP answers (`reject`).
    Reject,
}

impl Feature {
    /// Every feature, in the order of the enum.
    pub const ALL: [Self; 10] = [
        Self::Tables,
        Self::ConcatenatedMaps,
        Self::ConcatenatedRanges,
        Self::DynamicMaps,
        Self::ConnectionTracking,
        Self::DestinationNat,
        Self::Masquerade,
        Self::RandomNumbers,
        Self::RouteTypes,
        Self::Reject,
    ];

    /// The feature in one word, for a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tables => "Tables",
            Self::ConcatenatedMaps => "ConcatenatedMaps",
            Self::ConcatenatedRanges => "ConcatenatedRanges",
            Self::DynamicMaps => "DynamicMaps",
            Self::ConnectionTracking => "ConnectionTracking",
            Self::DestinationNat => "DestinationNat",
            Self::Masquerade => "Masquerade",
            Self::RandomNumbers => "RandomNumbers",
            Self::RouteTypes => "RouteTypes",
            Self::Reject => "Reject",
        }
    }

    /// The feature in words, with the kernel option that it needs.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Tables => "nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4, CONFIG_NF_TABLES_IPV6)",
            Self::ConcatenatedMaps => "maps of concatenated keys (Linux 5.6)",
            Self::ConcatenatedRanges => "sets of concatenated ranges (Linux 5.6)",
            Self::DynamicMaps => "maps that packets fill (CONFIG_NF_TABLES, Linux 4.3)",
            Self::ConnectionTracking => "connection state (CONFIG_NFT_CT)",
            Self::DestinationNat => "destination rewriting (CONFIG_NFT_NAT)",
            Self::Masquerade => "source rewriting (CONFIG_NFT_MASQ)",
            Self::RandomNumbers => "random numbers (CONFIG_NFT_NUMGEN)",
            Self::RouteTypes => "route types (CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6)",
            Self::Reject => "ICMP answers (CONFIG_NFT_REJECT)",
        }
    }

    fn set(self, table: &Table) -> Option<Set> {
        let set = Set {
            table: table.clone(),
            name: "probe".into(),
            key_datatype: 0,
            key_length: 8,
            kind: SetKind::Data { datatype: 0, length: 4 },
            intervals: false,
            fields: Vec::new(),
            timeout: None,
            size: None,
            userdata: Vec::new(),
            count: None,
        };
        match self {
            Self::ConcatenatedMaps => Some(set),
            Self::ConcatenatedRanges => {
                Some(Set { kind: SetKind::Set, intervals: true, fields: vec![4, 4], ..set })
            }
            Self::DynamicMaps => Some(Set { timeout: Some(1000), size: Some(16), ..set }),
            _ => None,
        }
    }

    fn expressions(self, family: Family) -> Vec<Expression> {
        let first = Register(0);
        let key = Expression::Payload { base: PayloadBase::Network, offset: 8, length: 8, into: first };
        let lookup = |result| Expression::Lookup(Lookup { set: "probe".into(), key: first, result });
        match self {
            Self::Tables => vec![],
            Self::ConcatenatedMaps => vec![key, lookup(LookupResult::Data(first))],
            Self::ConcatenatedRanges => vec![key, lookup(LookupResult::NotMember)],
            Self::DynamicMaps => vec![
                key,
                Expression::MetaLoad { key: MetaKey::Priority, into: Register(4) },
                Expression::DynamicSet(DynamicSet {
                    set: "probe".into(),
                    operation: DynamicSetOperation::Update,
                    key: first,
                    data: Some(Register(4)),
                    timeout: Some(1000),
                }),
            ],
            Self::ConnectionTracking => vec![Expression::Ct { key: CtKey::State, into: first }],
            Self::DestinationNat => vec![
                Expression::Immediate { into: first, value: vec![0; 16] },
                Expression::Immediate { into: Register(4), value: vec![0; 2] },
                Expression::DestinationNat(Nat { address: first, port: Register(4), family }),
            ],
            Self::Masquerade => vec![Expression::Masquerade],
            Self::RandomNumbers => vec![Expression::RandomNumber { modulus: 2, offset: 1, into: first }],
            Self::RouteTypes => vec![Expression::SourceAddressType { into: first }],
            Self::Reject => vec![Expression::Reject { code: 3 }],
        }
    }

    fn batch(self, table: &Table) -> Result<Batch> {
        let chain = "probe";
        let mut batch = Batch::new();
        batch.add_table(table)?;
        batch.add_chain(&Chain { table: table.clone(), name: chain.into(), base: None })?;
        if let Some(set) = self.set(table) {
            batch.add_set(&set)?;
        }
        let expressions = self.expressions(table.family);
        if !expressions.is_empty() {
            batch.add_rule(&Rule { table: table.clone(), chain: chain.into(), expressions })?;
        }
        Ok(batch)
    }
}

/// The features that this kernel lacks for a family. Nothing is changed.
///
/// # Errors
/// If the kernel cannot be asked at all, for example without `CAP_NET_ADMIN`.
pub fn missing(client: &mut Client, family: Family) -> Result<Vec<Feature>> {
    let table = Table { family, name: format!("portico-probe-{}", std::process::id()) };
    let mut missing = Vec::new();
    for feature in Feature::ALL {
        match client.check(feature.batch(&table)?) {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), Some(Errno::EPERM | Errno::EACCES)) => return Err(error),
            Err(error) if error.errno().is_some() => missing.push(feature),
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}
