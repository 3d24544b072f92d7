//! A kernel in memory: applies all of a transaction or nothing, refuses what a kernel would refuse, and fails on demand.
//!
//! Owns the fake of [`Dataplane`] and [`Flows`]. Invariant: keeps the contract of the trait, so a transaction that leads to a
//! missing chain, removes what is not there or removes a chain in use is refused.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use portico_proxy_core::{
    flows::StaleFlows,
    plan::{AffinityMap, Chain, Put, State, Transaction},
    table::{Family, Value, Verdict},
};
use tokio::time::Instant;

use crate::{
    conntrack::{Flows, FlowsError},
    dataplane::{Applied, Capabilities, Dataplane, DataplaneError, Observed},
};

/// What the test sees of the kernel, and the knobs it turns.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) state: State,
    pub(crate) generation: u32,
    pub(crate) reads: usize,
    /// Each transaction that went through, with its moment.
    pub(crate) applied: Vec<(Instant, Transaction)>,
    /// Errors for the next calls of `apply`.
    pub(crate) failures: VecDeque<DataplaneError>,
    /// Each request to delete flows.
    pub(crate) stale: Vec<StaleFlows>,
}

/// The fake; clones share one kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKernel(Arc<Mutex<Inside>>);

impl FakeKernel {
    pub(crate) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("no test panicked while it held the kernel")
    }

    /// Somebody else throws our tables away.
    pub(crate) fn flush(&self) {
        let mut inside = self.inside();
        inside.state = State::default();
        inside.generation += 1;
    }
}

impl Dataplane for FakeKernel {
    fn probe(&mut self) -> Result<Capabilities, DataplaneError> {
        Ok(Capabilities { families: vec![Family::V4, Family::V6], ..Capabilities::default() })
    }

    fn is_absent(&mut self) -> Result<bool, DataplaneError> {
        Ok(self.inside().state == State::default())
    }

    fn read(&mut self) -> Result<Observed, DataplaneError> {
        let mut inside = self.inside();
        inside.reads += 1;
        Ok(Observed { state: inside.state.clone(), rebuild: None })
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        let mut inside = self.inside();
        if let Some(error) = inside.failures.pop_front() {
            return Err(error);
        }
        check(&inside.state, transaction)?;
        inside.state.apply(transaction);
        inside.generation += 1;
        inside.applied.push((Instant::now(), transaction.clone()));
        Ok(Applied { transactions: 1, ..Applied::default() })
    }

    fn generation(&mut self) -> Result<u32, DataplaneError> {
        Ok(self.inside().generation)
    }

    fn cleanup(&mut self) -> Result<(), DataplaneError> {
        self.flush();
        Ok(())
    }
}

impl Flows for FakeKernel {
    fn delete(&mut self, stale: &[StaleFlows]) -> Result<usize, FlowsError> {
        self.inside().stale.extend_from_slice(stale);
        Ok(stale.len())
    }
}

/// What a kernel refuses.
fn check(before: &State, transaction: &Transaction) -> Result<(), DataplaneError> {
    let changed = |what: String| Err(DataplaneError::Changed { operation: what });
    for key in &transaction.removals {
        if !before.elements.contains_key(key) {
            return changed(format!("remove {key}: no such element"));
        }
    }
    for Put { key, value: _, was } in &transaction.puts {
        let stands = before.elements.get(key).filter(|_| !transaction.removals.contains(key));
        if stands.copied() != *was {
            return changed(format!("put {key}: not what it was"));
        }
    }
    let mut after = before.clone();
    after.apply(transaction);
    for (key, value) in &after.elements {
        if let Value::Verdict(Verdict::Balance(balance)) = value
            && !after.chains.contains(&Chain { family: key.family(), balance: *balance })
        {
            return refuse(format!("{key}: no chain {}", balance.chain()));
        }
    }
    let missing =
        after.chains.iter().filter_map(Chain::affinity_map).find(|map| !after.affinity.contains(map));
    missing.map_or(Ok(()), |map: AffinityMap| refuse(format!("no map {map}")))
}

fn refuse(operation: String) -> Result<(), DataplaneError> {
    Err(DataplaneError::Refused { operation, source: io::Error::from(io::ErrorKind::NotFound) })
}
