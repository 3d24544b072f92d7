//! Work that no event triggers: the audit, the collector of unclaimed load balancers, and the listing.

pub(crate) mod audit;
pub(crate) mod gc;
pub(crate) mod resync;
