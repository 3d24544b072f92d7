//! Names of our table, its chains and its maps from numbers, and the tag of those numbers.
//!
//! Owns the names that several files use. Leaves their meaning to [`skeleton`](super::skeleton) and [`classes`](super::classes).

use portico_netlink::nftables::{Family, Table};

/// Name of our table in both families.
pub(super) const TABLE: &str = "portico";
/// Chain that distinguishes local from external clients.
pub(super) const EXTERNAL: &str = "external";
/// Chain that refuses. (`reject` is a keyword of nft.)
pub(super) const REFUSE: &str = "refuse";

/// Map from a number to any chain.
pub(super) const CLASSES: &str = "classes";
/// The same map without chain `external`, for use by that chain: the kernel refuses possible loops.
pub(super) const BALANCES: &str = "balances";
/// Map from a number to a chain that picks an endpoint and returns.
pub(super) const PICKERS: &str = "pickers";
/// Top byte of every number. The number is the packet's priority for a while, where an affinity id may follow
/// it (`AFFINITY_TAG`). One mask finds both.
pub(super) const CLASS_TAG: u32 = 0xA400_0000;
/// Bits that numbers share with affinity ids and nothing else.
pub(super) const TAG_MASK: u32 = 0xFE00_0000;
/// The table of a family.
pub(super) fn table(family: Family) -> Table {
    Table { family, name: TABLE.to_owned() }
}
