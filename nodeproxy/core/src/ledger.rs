//! What should stand, and where the kernel differs: the two halves of a [`Plan`], kept up edit by edit.
//!
//! Owns the difference and the ripening of removals. Leaves to the model which elements there should be and to the daemon
//! when to apply and what time it is. [`diff`](crate::plan::diff) of what stands and what should says the same from scratch;
//! here it costs the size of the change, not of the cluster.
//!
//! Invariants: `differing` holds exactly the keys whose kernel value is not the desired one; between [`Ledger::widen`] and
//! [`Ledger::applied`] of its result nobody edits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
};

use crate::{
    plan::{AffinityMap, Chain, Plan, Put, State, Transaction, leaves_late},
    table::{Key, Value, Verdict},
};

/// A moment in milliseconds, on a clock that the daemon chooses.
pub type Moment = u64;

/// Differences for which there is always room.
const ROOM: usize = 1024;

/// What the kernel says where it should say something else.
#[derive(Clone, Copy, Debug)]
struct Differing {
    kernel: Option<Value>,
    /// When the transaction went through that left nothing leading to this key.
    retired: Option<Moment>,
}

/// Desired state and its difference to the kernel's.
#[derive(Debug, Default)]
pub struct Ledger {
    desired: State,
    chain_users: HashMap<Chain, usize>,
    map_users: HashMap<AffinityMap, usize>,
    differing: HashMap<Key, Differing>,
    kernel_chains: BTreeMap<Chain, Option<Moment>>,
    kernel_maps: BTreeMap<AffinityMap, Option<Moment>>,
}

impl Ledger {
    /// Everything that should stand.
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

    /// Learns what stands: after a start, an error, or somebody else's change.
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
        self.kernel_chains = observed.chains.iter().map(|chain| (*chain, None)).collect();
        self.kernel_maps = observed.affinity.iter().map(|map| (*map, None)).collect();
    }

    /// Everything that may be done at once.
    pub fn widen(&self) -> Transaction {
        let mut transaction = Transaction {
            affinity_added: missing(&self.desired.affinity, &self.kernel_maps),
            chains_added: missing(&self.desired.chains, &self.kernel_chains),
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

    /// What has been out of reach since `ripe` or longer and may go.
    pub fn narrow(&self, ripe: Moment) -> Transaction {
        let is_ripe = |retired: &Option<Moment>| retired.is_some_and(|retired| retired <= ripe);
        let mut transaction = Transaction {
            removals: self.late().filter(|(_, d)| is_ripe(&d.retired)).map(|(key, _)| *key).collect(),
            chains_removed: surplus(&self.desired.chains, &self.kernel_chains, is_ripe),
            affinity_removed: surplus(&self.desired.affinity, &self.kernel_maps, is_ripe),
            ..Transaction::default()
        };
        transaction.sort();
        transaction
    }

    /// The whole way to the desired state, for people.
    pub fn plan(&self) -> Plan {
        let mut narrow = Transaction {
            removals: self.late().map(|(key, _)| *key).collect(),
            chains_removed: surplus(&self.desired.chains, &self.kernel_chains, |_| true),
            affinity_removed: surplus(&self.desired.affinity, &self.kernel_maps, |_| true),
            ..Transaction::default()
        };
        narrow.sort();
        Plan { widen: self.widen(), narrow }
    }

    /// Whether the kernel says what it should, to the last removal.
    pub fn is_settled(&self) -> bool {
        self.differing.is_empty()
            && self.kernel_chains.keys().eq(&self.desired.chains)
            && self.kernel_maps.keys().eq(&self.desired.affinity)
    }

    /// Learns that a transaction went through, and lets what it left unreachable ripen from `now` on.
    pub fn applied(&mut self, transaction: &Transaction, now: Moment) {
        let Transaction { affinity_added, chains_added, removals, puts, chains_removed, affinity_removed } =
            transaction;
        self.kernel_maps.extend(affinity_added.iter().map(|map| (*map, None)));
        self.kernel_chains.extend(chains_added.iter().map(|chain| (*chain, None)));
        for key in removals {
            self.learn(*key, None);
        }
        for put in puts {
            self.learn(put.key, Some(put.value));
        }
        self.kernel_chains.retain(|chain, _| !chains_removed.contains(chain));
        self.kernel_maps.retain(|map, _| !affinity_removed.contains(map));
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
        for (chain, retired) in &mut self.kernel_chains {
            *retired = (!self.desired.chains.contains(chain)).then(|| retired.unwrap_or(now));
        }
        for (map, retired) in &mut self.kernel_maps {
            *retired = (!self.desired.affinity.contains(map)).then(|| retired.unwrap_or(now));
        }
    }

    /// Keys that wait for a later transaction.
    fn late(&self) -> impl Iterator<Item = (&Key, &Differing)> {
        self.differing.iter().filter(|(key, _)| {
            !self.desired.elements.contains_key(key) && leaves_late(key, &self.desired.elements)
        })
    }

    fn use_chain(&mut self, chain: Chain) {
        let users = self.chain_users.entry(chain).or_default();
        *users += 1;
        if *users > 1 {
            return;
        }
        self.desired.chains.insert(chain);
        self.kernel_chains.entry(chain).and_modify(|retired| *retired = None);
        if let Some(map) = chain.affinity_map() {
            *self.map_users.entry(map).or_default() += 1;
            self.desired.affinity.insert(map);
            self.kernel_maps.entry(map).and_modify(|retired| *retired = None);
        }
    }

    fn release_chain(&mut self, chain: Chain) {
        if drop_user(&mut self.chain_users, &chain) {
            self.desired.chains.remove(&chain);
            if let Some(map) = chain.affinity_map()
                && drop_user(&mut self.map_users, &map)
            {
                self.desired.affinity.remove(&map);
            }
        }
    }

    /// Bytes of heap that the ledger holds, roughly: for the memory budget.
    pub fn heap_size(&self) -> usize {
        self.desired.elements.capacity() * mem::size_of::<(Key, Value)>()
            + self.differing.capacity() * mem::size_of::<(Key, Differing)>()
    }
}

fn chain_of(key: &Key, value: Value) -> Option<Chain> {
    match value {
        Value::Verdict(Verdict::Balance(balance)) => Some(Chain { family: key.family(), balance }),
        Value::Verdict(_) | Value::Present | Value::Backend(_) | Value::Id(_) => None,
    }
}

/// Whether the last user is gone.
fn drop_user<K: std::hash::Hash + Eq>(users: &mut HashMap<K, usize>, key: &K) -> bool {
    let Some(count) = users.get_mut(key) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        users.remove(key);
    }
    last
}

fn missing<K: Ord + Copy>(desired: &BTreeSet<K>, kernel: &BTreeMap<K, Option<Moment>>) -> Vec<K> {
    desired.iter().filter(|k| !kernel.contains_key(k)).copied().collect()
}

fn surplus<K: Ord + Copy>(
    desired: &BTreeSet<K>,
    kernel: &BTreeMap<K, Option<Moment>>,
    may_go: impl Fn(&Option<Moment>) -> bool,
) -> Vec<K> {
    kernel.iter().filter(|(k, retired)| !desired.contains(k) && may_go(retired)).map(|(k, _)| *k).collect()
}
