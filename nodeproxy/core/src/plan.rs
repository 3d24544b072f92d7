//! Programmed state, desired state, and the two transactions between them.
//!
//! Owns [`State`], [`Transaction`], [`Plan`], and the rule for the phase of each change. Leaves to the model
//! the desired elements, to the shadow state the same difference updated event by event, and to a dataplane the
//! encoding of a transaction.
//!
//! **Additive, then destructive.** A packet walks several maps, and a transaction may fall between two of its
//! lookups. An element that a packet can still look up because of an earlier answer stays through
//! [`Plan::additive`], and leaves with [`Plan::destructive`], a later transaction. So a frontend that has endpoints
//! before and after never resolves to nothing in between. One exception: an address may pass from a Service with
//! `externalTrafficPolicy: Local` to another Service with `Cluster`, both with session affinity. The first packet of a
//! connection that is between two lookups then finds the list of local endpoints that the second Service does not have. It
//! is dropped, and the client sends it again.
//!
//! Invariants: `diff(s, s)` is empty. Applying `additive` and then `destructive` of `diff(o, d)` to `o` gives `d`. The
//! lists of a transaction are sorted, so equal differences are equal values.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::table::{Alias, Family, Frontend, Key, Recall, Target, Value, Verdict};

#[cfg(test)]
mod tests;

/// A chain of one family's table. Its name is [`Target::chain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Chain {
    /// Family of the table.
    pub family: Family,
    /// Kind and parameters, which also are its name.
    pub target: Target,
}

/// A dynamic map `affinity-<seconds>-<pool>` of one family's table: client and Service port → endpoint id, filled by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AffinityMap {
    /// Family of the table.
    pub family: Family,
    /// Seconds until an unused entry is deleted.
    pub seconds: u32,
    /// Pool of the namespace ([`crate::affinity::pool`]).
    pub pool: u32,
}

/// All of our objects beside the fixed skeleton, programmed or desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Elements of the maps and sets. Entries of [`AffinityMap`]s are the kernel's and not in here.
    pub elements: HashMap<Key, Value>,
    /// The chains that choose an endpoint, one for each frontend or pool.
    pub chains: BTreeSet<Chain>,
    /// The maps from clients to their last endpoint.
    pub affinity: BTreeSet<AffinityMap>,
}

/// One element to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Map and key.
    pub key: Key,
    /// Value to write.
    pub value: Value,
    /// Programmed value; `None` when there is no such element. nf_tables replaces by delete and add in one
    /// transaction.
    pub was: Option<Value>,
}

/// Changes that the kernel commits all at once or not at all, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Maps that chains of `chains_added` use.
    pub affinity_added: Vec<AffinityMap>,
    /// Chains that `puts` point to.
    pub chains_added: Vec<Chain>,
    /// Elements to delete. Before `puts`, because a new range may cover an old one.
    pub removals: Vec<Key>,
    /// Elements to add or replace: endpoints before the verdicts that lead to them.
    pub puts: Vec<Put>,
    /// Chains that no verdict leads to.
    pub chains_removed: Vec<Chain>,
    /// Maps that no chain uses.
    pub affinity_removed: Vec<AffinityMap>,
}

/// The way from one [`State`] to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The additive phase, to be committed at once.
    pub additive: Transaction,
    /// The destructive phase, to be committed once no packet can hold an answer from before `additive`: some 100
    /// ms later.
    pub destructive: Transaction,
}

/// Plans the changes from the programmed to the desired state.
pub fn diff(observed: &State, desired: &State) -> Plan {
    let mut plan = Plan::default();
    for (key, value) in &desired.elements {
        let was = observed.elements.get(key).copied();
        if was != Some(*value) {
            plan.additive.puts.push(Put { key: *key, value: *value, was });
        }
    }
    for key in observed.elements.keys().filter(|key| !desired.elements.contains_key(*key)) {
        plan.remove(*key, &desired.elements);
    }
    plan.additive.chains_added = desired.chains.difference(&observed.chains).copied().collect();
    plan.destructive.chains_removed = observed.chains.difference(&desired.chains).copied().collect();
    plan.additive.affinity_added = desired.affinity.difference(&observed.affinity).copied().collect();
    plan.destructive.affinity_removed = observed.affinity.difference(&desired.affinity).copied().collect();
    plan.sort();
    plan
}

/// Whether the removal of `key` must wait for [`Plan::destructive`], for a desired state.
///
/// Packets read endpoints and affinity ids after a verdict that may be an old one. They read `no-endpoints`
/// after a miss in `services` that may be an old one, and `short` and `local` after [`Verdict::External`]; if
/// that stays, a miss is right at once. A source range must outlive its `firewalled` mark, but not a wider
/// range that replaces it, because interval sets refuse overlaps.
pub(crate) fn leaves_late(key: &Key, desired: &HashMap<Key, Value>) -> bool {
    match key {
        Key::Short(f) | Key::Local(f) => {
            desired.get(&Key::Service(*f)) != Some(&Value::Verdict(Verdict::External))
        }
        Key::SourceRange(f, _) => !desired.contains_key(&Key::Firewalled(*f)),
        _ => key.is_referenced_by_packets_in_flight(),
    }
}

impl State {
    /// Adds an element, and the chain and affinity map that its verdict needs.
    pub fn insert(&mut self, key: Key, value: Value) {
        if let Some(target) = value.target() {
            self.insert_chain(Chain { family: key.family(), target });
        }
        self.elements.insert(key, value);
    }

    fn insert_chain(&mut self, chain: Chain) {
        self.affinity.extend(chain.affinity_map());
        self.chains.insert(chain);
    }

    /// Makes the changes of a transaction, like a kernel that refuses nothing.
    pub fn apply(&mut self, transaction: &Transaction) {
        let Transaction { affinity_added, chains_added, removals, puts, chains_removed, affinity_removed } =
            transaction;
        self.affinity.extend(affinity_added);
        self.chains.extend(chains_added);
        for key in removals {
            self.elements.remove(key);
        }
        for put in puts {
            self.elements.insert(put.key, put.value);
        }
        for chain in chains_removed {
            self.chains.remove(chain);
        }
        for map in affinity_removed {
            self.affinity.remove(map);
        }
    }
}

impl FromIterator<(Key, Value)> for State {
    fn from_iter<T: IntoIterator<Item = (Key, Value)>>(elements: T) -> Self {
        let mut state = Self::default();
        for (key, value) in elements {
            state.insert(key, value);
        }
        state
    }
}

impl Chain {
    /// The affinity map of the chain.
    pub fn affinity_map(&self) -> Option<AffinityMap> {
        let Self { family, target } = *self;
        match target {
            Target::Recall(Recall { seconds, pool, .. }) => Some(AffinityMap { family, seconds, pool }),
            Target::Balance(_) | Target::Pick(_) => None,
        }
    }
}

impl AffinityMap {
    /// Name of the map, for example `affinity-10800-8b1f04d2`.
    pub fn name(&self) -> String {
        let Self { family: _, seconds, pool } = self;
        format!("affinity-{seconds}-{pool:08x}")
    }
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { additive, destructive } = self;
        additive.is_empty() && destructive.is_empty()
    }

    pub(crate) fn remove(&mut self, key: Key, desired: &HashMap<Key, Value>) {
        let half = if leaves_late(&key, desired) { &mut self.destructive } else { &mut self.additive };
        half.removals.push(key);
    }

    pub(crate) fn sort(&mut self) {
        self.additive.sort();
        self.destructive.sort();
    }
}

impl Transaction {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        let Self { affinity_added, chains_added, removals, puts, chains_removed, affinity_removed } = self;
        affinity_added.len()
            + chains_added.len()
            + removals.len()
            + puts.len()
            + chains_removed.len()
            + affinity_removed.len()
    }

    /// Key of every change.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.removals.iter().chain(self.puts.iter().map(|put| &put.key))
    }

    /// Every frontend whose own elements change. With session affinity the change may concern other frontends
    /// of its Service port, too.
    pub fn frontends(&self) -> BTreeSet<Frontend> {
        self.keys().filter_map(Key::frontend).collect()
    }

    pub(crate) fn sort(&mut self) {
        let Self { affinity_added, chains_added, removals, puts, chains_removed, affinity_removed } = self;
        affinity_added.sort_unstable();
        chains_added.sort_unstable();
        removals.sort_unstable_by_key(|key| (rank(key), *key));
        puts.sort_unstable_by_key(|put| (rank(&put.key), put.key));
        chains_removed.sort_unstable();
        affinity_removed.sort_unstable();
    }
}

/// Order of puts: elements of later lookups come first, so that even a transaction that a dataplane has to
/// split leads no packet to a missing element.
fn rank(key: &Key) -> u8 {
    match key {
        Key::PodCidr(_)
        | Key::NodePod(_)
        | Key::ServiceCidr(_)
        | Key::Hairpin(..)
        | Key::NodeAddress(_)
        | Key::NodePortStandIn(..) => 0,
        Key::Endpoint(..) | Key::AffinityEndpoint(..) => 1,
        Key::AffinitySlot(..) | Key::SourceRange(..) => 2,
        Key::NoEndpoints(_) | Key::NodePortNoEndpoints(..) | Key::Firewalled(_) | Key::AffinityPick(..) => 3,
        Key::Short(_) | Key::Local(_) | Key::AffinityPort(_) => 4,
        Key::Service(_) => 5,
        Key::ClusterIp(_) | Key::NodePort(..) => 6,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { additive, destructive } = self;
        if self.is_empty() {
            return writeln!(f, "nothing to do: the kernel has what it should have");
        }
        if !additive.is_empty() {
            writeln!(f, "now:\n{additive}")?;
        }
        if !destructive.is_empty() {
            writeln!(f, "later, when no packet is on its way there:\n{destructive}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { affinity_added, chains_added, removals, puts, chains_removed, affinity_removed } = self;
        for map in affinity_added {
            writeln!(f, "  + map {map}: first Service of its namespace with this affinity timeout")?;
        }
        for chain in chains_added {
            writeln!(f, "  + chain {chain}: first frontend that balances like this")?;
        }
        for key in removals {
            writeln!(f, "  - {} {key}: {}", key.map(), why_removed(key))?;
        }
        for Put { key, value, was } in puts {
            match was {
                None => writeln!(f, "  + {} {key} = {value}: {}", key.map(), why_added(key))?,
                Some(was) => writeln!(f, "  ~ {} {key} = {value}: was {was}", key.map())?,
            }
        }
        for chain in chains_removed {
            writeln!(f, "  - chain {chain}: no frontend balances like this any more")?;
        }
        for map in affinity_removed {
            writeln!(f, "  - map {map}: no Service of its namespace has this affinity timeout any more")?;
        }
        Ok(())
    }
}

fn why_added(key: &Key) -> &'static str {
    match key {
        Key::Service(_) => "new frontend, or its first endpoint",
        Key::Short(_) | Key::Local(_) => "externalTrafficPolicy: Local",
        Key::NoEndpoints(_) => "no endpoint may serve it",
        Key::Endpoint(..) => "one more endpoint",
        Key::AffinityPort(_) => "session affinity",
        Key::AffinityPick(..) => "first endpoint, with session affinity",
        Key::AffinitySlot(..) | Key::AffinityEndpoint(..) => "one more endpoint, with session affinity",
        Key::NodeAddress(_) => "one more address for NodePorts",
        Key::NodePortStandIn(..) => "first of several addresses for NodePorts",
        Key::NodePort(..) => "a NodePort on several addresses",
        Key::NodePortNoEndpoints(..) => "a NodePort on several addresses without endpoints",
        Key::ClusterIp(_) => "new ClusterIP",
        Key::Hairpin(..) => "endpoint on this node that may call itself",
        Key::Firewalled(_) | Key::SourceRange(..) => "loadBalancerSourceRanges",
        Key::PodCidr(_) => "addresses of pods",
        Key::NodePod(_) => "addresses of pods on this node",
        Key::ServiceCidr(_) => "range of ClusterIPs",
    }
}

fn why_removed(key: &Key) -> &'static str {
    match key {
        Key::Service(_) => "frontend gone, or its last endpoint",
        Key::Short(_) | Key::Local(_) => "no endpoint for these clients, or the policy changed",
        Key::NoEndpoints(_) => "it has endpoints, or is gone",
        Key::Endpoint(..) => "fewer endpoints",
        Key::AffinityPort(_) => "no session affinity, or the frontend is gone",
        Key::AffinityPick(..) => "no endpoint, or no session affinity",
        Key::AffinitySlot(..) | Key::AffinityEndpoint(..) => "fewer endpoints, or no session affinity",
        Key::NodeAddress(_) => "no longer an address for NodePorts",
        Key::NodePortStandIn(..) => "no longer several addresses for NodePorts",
        Key::NodePort(..) => "NodePort without endpoints, or gone",
        Key::NodePortNoEndpoints(..) => "the NodePort has endpoints, or is gone",
        Key::ClusterIp(_) => "ClusterIP released",
        Key::Hairpin(..) => "endpoint no longer on this node",
        Key::Firewalled(_) | Key::SourceRange(..) => "loadBalancerSourceRanges changed",
        Key::PodCidr(_) => "no longer a range of pods",
        Key::NodePod(_) => "no longer a range of pods on this node",
        Key::ServiceCidr(_) => "no longer a range of ClusterIPs",
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, target } = self;
        write!(f, "{family} {}", target.chain())
    }
}

impl fmt::Display for AffinityMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, seconds: _, pool: _ } = self;
        write!(f, "{family} {}", self.name())
    }
}

impl Key {
    /// The frontend that the key is about; `None` for Service ports, addresses, endpoints of this node and ranges.
    pub fn frontend(&self) -> Option<Frontend> {
        match self {
            Self::Service(f)
            | Self::Short(f)
            | Self::Local(f)
            | Self::NoEndpoints(f)
            | Self::Endpoint(f, _)
            | Self::AffinityPort(f)
            | Self::Firewalled(f)
            | Self::SourceRange(f, _) => Some(*f),
            Self::AffinityPick(..)
            | Self::AffinitySlot(..)
            | Self::AffinityEndpoint(..)
            | Self::NodeAddress(_)
            | Self::NodePortStandIn(..)
            | Self::NodePort(..)
            | Self::NodePortNoEndpoints(..)
            | Self::ClusterIp(_)
            | Self::Hairpin(..)
            | Self::PodCidr(_)
            | Self::NodePod(_)
            | Self::ServiceCidr(_) => None,
        }
    }

    /// The Service port with session affinity that the key is about.
    pub fn alias(&self) -> Option<Alias> {
        match self {
            Self::AffinityPick(alias, _)
            | Self::AffinitySlot(alias, _)
            | Self::AffinityEndpoint(alias, ..) => Some(*alias),
            _ => None,
        }
    }
}
