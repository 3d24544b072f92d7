//! Work that no event triggers: the audit and the collector of unclaimed load balancers.

pub(crate) mod audit;
pub(crate) mod gc;
