//! A kernel in memory. It commits all of a transaction or nothing, refuses like a kernel, fails on demand, and
//! tracks flows by the rules at their begin.
//!
//! Owns the fake of [`Dataplane`] and [`Flows`]. Invariant: keeps the contract of the trait. It refuses a
//! transaction that leads to a missing chain, removes a missing element, or removes a chain in use.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use portico_proxy_core::{
    flows::StaleFlows,
    plan::{AffinityMap, Chain, Put, State, Transaction},
    table::{Backend, Balance, Family, Frontend, Key, Pick, Recall, Value, Verdict},
};
use tokio::time::Instant;

use crate::{
    conntrack::{Flows, FlowsError},
    dataplane::{Applied, Capabilities, Dataplane, DataplaneError, Observed},
};

/// State of the fake, and its knobs.
#[derive(Debug, Default)]
pub struct Inside {
    /// What the kernel would hold.
    pub state: State,
    /// Number of the ruleset.
    pub generation: u32,
    /// Number of reads.
    pub reads: usize,
    /// Each committed transaction, with its time.
    pub applied: Vec<(Instant, Transaction)>,
    /// Errors for the next calls of `apply`, which then change nothing.
    pub failures: VecDeque<DataplaneError>,
    /// Errors for the next calls of `apply`, which commit all the same.
    pub lost_answers: VecDeque<DataplaneError>,
    /// Each request to delete flows.
    pub stale: Vec<StaleFlows>,
    /// Number of listings of flows.
    pub listings: usize,
    /// Number of next listings that fail.
    pub failing_listings: usize,
    /// Destination of each client's packets to a frontend.
    pub tracked: BTreeMap<(Frontend, u32), Backend>,
}

/// The fake; clones share one kernel.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel(Arc<Mutex<Inside>>);

impl FakeKernel {
    /// Locks the fake's state.
    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes our tables, like another program.
    pub fn flush(&self) {
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
        if let Some(error) = inside.lost_answers.pop_front() {
            return Err(error);
        }
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
        let mut inside = self.inside();
        inside.listings += 1;
        if inside.failing_listings > 0 {
            inside.failing_listings -= 1;
            return Err(portico_netlink::Error::Malformed("no descriptor is free".to_owned()).into());
        }
        inside.stale.extend_from_slice(stale);
        let is_stale =
            |(frontend, _): &(Frontend, u32), to: &Backend| stale.iter().any(|s| s.is_stale(frontend, to));
        let before = inside.tracked.len();
        inside.tracked.retain(|flow, to| !is_stale(flow, to));
        Ok(before - inside.tracked.len())
    }
}

impl Inside {
    /// A client's packet to a frontend: by its tracked flow, or by a new one. A packet that no rule rewrites is
    /// tracked as it came, and a refused one is not tracked.
    pub fn send(&mut self, to: Frontend, client: u32) {
        if self.state.elements.contains_key(&Key::NoEndpoints(to)) {
            return;
        }
        let way = self.verdict(Key::Service(to)).and_then(|verdict| self.pick(to, verdict, client));
        let way = way.unwrap_or(Backend { address: to.address, port: to.port });
        self.tracked.entry((to, client)).or_insert(way);
    }

    fn verdict(&self, key: Key) -> Option<Verdict> {
        match self.state.elements.get(&key) {
            Some(Value::Verdict(verdict)) => Some(*verdict),
            _ => None,
        }
    }

    /// The endpoint that a chain finds, by an affinity id where there is session affinity.
    fn pick(&self, to: Frontend, verdict: Verdict, client: u32) -> Option<Backend> {
        let (endpoints, list) = match verdict {
            Verdict::Balance(Balance { endpoints, list, .. }) => (endpoints, list),
            Verdict::Recall(Recall { list, .. }) => {
                let pick = self.verdict(Key::AffinityPick(self.state.alias(&to)?, list))?;
                let Verdict::Pick(Pick { endpoints, list }) = pick else { return None };
                (endpoints, list)
            }
            Verdict::External | Verdict::Pick(_) | Verdict::Reject | Verdict::Drop => return None,
        };
        let slot = usize::try_from(client.checked_rem(endpoints)?).ok()?;
        self.state.slots(&to, list).get(slot).copied()
    }
}

/// Refuses what a kernel would refuse.
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
        if let Some(target) = value.target()
            && !after.chains.contains(&Chain { family: key.family(), target })
        {
            return refuse(format!("{key}: no chain {}", target.chain()));
        }
    }
    let missing =
        after.chains.iter().filter_map(Chain::affinity_map).find(|map| !after.affinity.contains(map));
    missing.map_or(Ok(()), |map: AffinityMap| refuse(format!("no map {map}")))
}

fn refuse(operation: String) -> Result<(), DataplaneError> {
    Err(DataplaneError::Refused { operation, source: io::Error::from(io::ErrorKind::NotFound) })
}
