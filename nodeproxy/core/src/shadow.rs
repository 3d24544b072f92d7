//! Shadow state: the desired state, and its difference to the programmed one. The two phases of a [`Plan`],
//! updated edit by edit.
//!
//! Owns the difference and the age of removals. Leaves to the model the desired elements, and to the daemon the
//! clock and the time of each transaction. [`diff`](crate::plan::diff) of both states gives the same from
//! scratch; here a change costs its own size, not the cluster's.
//!
//! Invariants: `differing` holds exactly the keys whose kernel value is not the desired one. Nobody edits
//! between [`ShadowState::additive`] and [`ShadowState::applied`] of its result.

use std::collections::HashMap;

use crate::{
    plan::{AffinityMap, Chain, Plan, Put, State, Transaction, leaves_late},
    table::{Key, Value},
};

use objects::Objects;

mod objects;

/// Milliseconds on a clock that the daemon chooses.
pub type Moment = u64;

/// Capacity that the map of differences keeps.
const ROOM: usize = 1024;

/// Value in the kernel where it differs from the desired one.
#[derive(Clone, Copy, Debug)]
struct Differing {
    kernel: Option<Value>,
    /// Time of the transaction after which nothing leads to this key.
    retired: Option<Moment>,
}

/// Desired state and its difference to the kernel's.
#[derive(Debug, Default)]
pub struct ShadowState {
    desired: State,
    differing: HashMap<Key, Differing>,
    chains: Objects<Chain>,
    maps: Objects<AffinityMap>,
}

impl ShadowState {
    /// The desired state.
    pub fn desired(&self) -> &State {
        &self.desired
    }

    /// Sets or removes one desired element.
    pub(crate) fn set(&mut self, key: Key, value: Option<Value>) {
        let before = match value {
            Some(value) => self.desired.elements.insert(key, value),
            None => self.desired.elements.remove(&key),
        };
        if before == value {
            return;
        }
        if let Some(chain) = value.and_then(|value| chain_of(&key, value)) {
            self.use_chain(chain);
        }
        if let Some(chain) = before.and_then(|value| chain_of(&key, value)) {
            self.release_chain(chain);
        }
        let differing = self.differing.entry(key).or_insert(Differing { kernel: before, retired: None });
        differing.retired = None;
        if differing.kernel == value {
            self.differing.remove(&key);
        }
    }

    /// Records the kernel's state after a start, an error or a change by another program.
    pub fn observe(&mut self, observed: &State) {
        self.differing.clear();
        for (key, value) in &self.desired.elements {
            let kernel = observed.elements.get(key).copied();
            if kernel != Some(*value) {
                self.differing.insert(*key, Differing { kernel, retired: None });
            }
        }
        for (key, value) in &observed.elements {
            if !self.desired.elements.contains_key(key) {
                self.differing.insert(*key, Differing { kernel: Some(*value), retired: None });
            }
        }
        self.chains.observe(&observed.chains);
        self.maps.observe(&observed.affinity);
    }

    /// The changes of the additive phase.
    pub fn additive(&self) -> Transaction {
        let mut transaction = Transaction {
            affinity_added: self.maps.missing(),
            chains_added: self.chains.missing(),
            ..Transaction::default()
        };
        for (key, differing) in &self.differing {
            match self.desired.elements.get(key) {
                Some(value) => {
                    transaction.puts.push(Put { key: *key, value: *value, was: differing.kernel });
                }
                None if leaves_late(key, &self.desired.elements) => {}
                None => transaction.removals.push(*key),
            }
        }
        transaction.sort();
        transaction
    }

    /// The removals that nothing has led to since `ripe` or longer.
    pub fn destructive(&self, ripe: Moment) -> Transaction {
        let is_ripe = |retired: &Option<Moment>| retired.is_some_and(|retired| retired <= ripe);
        let mut transaction = Transaction {
            removals: self.late().filter(|(_, d)| is_ripe(&d.retired)).map(|(key, _)| *key).collect(),
            chains_removed: self.chains.surplus(is_ripe),
            affinity_removed: self.maps.surplus(is_ripe),
            ..Transaction::default()
        };
        transaction.sort();
        transaction
    }

    /// Both phases, for logs and answers.
    pub fn plan(&self) -> Plan {
        let mut destructive = Transaction {
            removals: self.late().map(|(key, _)| *key).collect(),
            chains_removed: self.chains.surplus(|_| true),
            affinity_removed: self.maps.surplus(|_| true),
            ..Transaction::default()
        };
        destructive.sort();
        Plan { additive: self.additive(), destructive }
    }

    /// Whether the kernel has exactly the desired state, without any pending removal.
    pub fn is_settled(&self) -> bool {
        self.differing.is_empty() && self.chains.is_settled() && self.maps.is_settled()
    }

    /// Records that a transaction was committed. Removals that it made possible become due from `now` on.
    pub fn applied(&mut self, transaction: &Transaction, now: Moment) {
        let Transaction { affinity_added, chains_added, removals, puts, chains_removed, affinity_removed } =
            transaction;
        for key in removals {
            self.learn(*key, None);
        }
        for put in puts {
            self.learn(put.key, Some(put.value));
        }
        self.chains.applied(chains_added, chains_removed);
        self.maps.applied(affinity_added, affinity_removed);
        // After a start everything differs, and afterwards next to nothing: that room is not needed again.
        if self.differing.capacity() > ROOM.max(8 * self.differing.len()) {
            self.differing.shrink_to(ROOM.max(self.differing.len()));
        }
        self.retire(now);
    }

    fn learn(&mut self, key: Key, kernel: Option<Value>) {
        if self.desired.elements.get(&key).copied() == kernel {
            self.differing.remove(&key);
        } else {
            self.differing.insert(key, Differing { kernel, retired: None });
        }
    }

    fn retire(&mut self, now: Moment) {
        for (key, differing) in &mut self.differing {
            if !self.desired.elements.contains_key(key) {
                differing.retired.get_or_insert(now);
            }
        }
        self.chains.retire(now);
        self.maps.retire(now);
    }

    /// Keys whose removal waits for the destructive phase.
    fn late(&self) -> impl Iterator<Item = (&Key, &Differing)> {
        self.differing.iter().filter(|(key, _)| {
            !self.desired.elements.contains_key(key) && leaves_late(key, &self.desired.elements)
        })
    }

    fn use_chain(&mut self, chain: Chain) {
        if !self.chains.need(chain) {
            return;
        }
        self.desired.chains.insert(chain);
        if let Some(map) = chain.affinity_map()
            && self.maps.need(map)
        {
            self.desired.affinity.insert(map);
        }
    }

    fn release_chain(&mut self, chain: Chain) {
        if !self.chains.release(&chain) {
            return;
        }
        self.desired.chains.remove(&chain);
        if let Some(map) = chain.affinity_map()
            && self.maps.release(&map)
        {
            self.desired.affinity.remove(&map);
        }
    }

    /// Bytes of heap, roughly: for the memory budget.
    #[cfg(test)]
    pub(crate) fn heap_size(&self) -> usize {
        self.desired.elements.capacity() * size_of::<(Key, Value)>()
            + self.differing.capacity() * size_of::<(Key, Differing)>()
    }
}

fn chain_of(key: &Key, value: Value) -> Option<Chain> {
    value.target().map(|target| Chain { family: key.family(), target })
}
