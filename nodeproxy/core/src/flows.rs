//! Which connections that the kernel tracks must go after a change: UDP ones whose endpoint no longer serves.
//!
//! Owns the decision, as data. Leaves listing and deleting conntrack entries to the daemon. TCP is left alone: a client sees
//! the reset or the end and dials again, while a UDP client keeps its entry alive by retrying (kubernetes#139628).
//!
//! Invariant: decided from the transaction that was made, so a restart that changes nothing deletes nothing; an entry whose
//! endpoint serves, ready or terminating, is never stale.

use std::collections::BTreeSet;

use crate::{
    model::Model,
    plan::Transaction,
    select,
    table::{Backend, Family, Frontend, Protocol},
};

/// UDP flows of one frontend that are stale: those whose answers come from anywhere but `keep`. A flow that was tracked
/// while there was no endpoint answers from the frontend's own address, and is stale as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlows {
    /// Original destination of the flows.
    pub frontend: Frontend,
    /// Endpoints whose flows stay. Empty: none stay.
    pub keep: BTreeSet<Backend>,
}

impl StaleFlows {
    /// Whether a tracked flow must go, by the source address and port of its answers.
    pub fn is_stale(&self, original_destination: &Frontend, reply_source: &Backend) -> bool {
        let Self { frontend, keep } = self;
        frontend == original_destination && !keep.contains(reply_source)
    }
}

/// Which flows a transaction made stale.
pub fn stale_flows(model: &Model, transaction: &Transaction) -> Vec<StaleFlows> {
    let udp = transaction.frontends().into_iter().filter(|f| f.protocol == Protocol::Udp);
    udp.map(|frontend| StaleFlows { frontend, keep: serving(model, &frontend) }).collect()
}

fn serving(model: &Model, frontend: &Frontend) -> BTreeSet<Backend> {
    let Some((claim, service)) = model.holder(frontend) else { return BTreeSet::new() };
    let Some(port) = service.ports.get(claim.port) else { return BTreeSet::new() };
    let family = Family::of(frontend.address);
    select::serving(port, family, model.slices(&service.name), model.node_facts())
}
