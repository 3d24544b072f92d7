//! A packet's path through our tables, as docs/nftables.md draws it, over elements instead of a kernel.
//!
//! Owns an interpreter of the fixed ruleset, so that what the model writes can be tested without root, and with transactions
//! that fall between two of a packet's lookups (`walk_torn`). Leaves to the kernel tests that the rules really say this, and to
//! the caller the affinity entry of the client.
//!
//! Invariant: lookups happen in the order of the hooks: firewall, dispatch, balancing, then the filter hooks.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    input::{Config, NodeInfo},
    interface::{InterfaceName, PodInterfaces},
    model::Model,
    oracle::{Outcome, Packet, Source},
    plan::State,
    table::{Alias, Backend, Balance, Family, Frontend, Key, List, Pick, Recall, Value, Verdict},
};

/// Two states of the tables: a transaction replaces one by the other after `turn` lookups.
struct Tables<'a> {
    before: &'a State,
    after: &'a State,
    turn: usize,
    lookups: Cell<usize>,
    /// The lookups so far, if they are recorded.
    steps: Option<RefCell<Vec<Step>>>,
}

/// One lookup of a packet in our tables, or the comparison of the interface on which it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name of the map or set; `iifname` for the interface.
    pub map: String,
    /// The key, as text.
    pub key: String,
    /// The value, as text; `None` when there is no such element. Of an interface: the interfaces of pods, with
    /// `not` if it is none of them.
    pub found: Option<String>,
}

/// Result of one walk.
enum End {
    Dnat(Backend, Source),
    Refused,
    Dropped,
    NotOurs,
}

/// Reason why dispatch rewrote nothing.
enum Miss {
    /// The packet continues as it came.
    Passed,
    /// A chain of session affinity found no endpoint, and dropped it.
    Lost,
}

/// Inputs of a walk beside the tables.
#[derive(Clone, Copy, Debug)]
pub struct PacketContext<'a> {
    /// Flags that the ruleset depends on.
    pub config: &'a Config,
    /// The node that the packet passes.
    pub node: &'a NodeInfo,
    /// The affinity id in the entry of the packet's client and Service port, if there is one.
    pub affinity_id: Option<u32>,
}

impl<'a> PacketContext<'a> {
    /// Those of a model's node, without an affinity entry.
    pub fn of(model: &'a Model) -> Self {
        Self { config: model.config(), node: model.node_info(), affinity_id: None }
    }
}

/// Every possible outcome of a connection.
pub fn walk(state: &State, context: PacketContext<'_>, packet: &Packet) -> Outcome {
    outcome(&Tables::new(state, state, 0), context, packet)
}

/// The same, with the lookups: those of a packet that gets the first slot, where there are several.
pub fn path(state: &State, context: PacketContext<'_>, packet: &Packet) -> (Outcome, Vec<Step>) {
    let tables = Tables { steps: Some(RefCell::default()), ..Tables::new(state, state, 0) };
    // What becomes of it is in the steps and, for all slots, in the outcome below.
    (Walk { tables: &tables, context, packet }).run(0, &mut 0);
    let steps = tables.steps.map(RefCell::into_inner).unwrap_or_default();
    (walk(state, context, packet), steps)
}

/// Every possible outcome of a connection whose packet is between two lookups when a transaction turns `before`
/// into `after`, one for each such moment.
#[cfg(test)]
pub(crate) fn walk_torn(
    before: &State,
    after: &State,
    context: PacketContext<'_>,
    packet: &Packet,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for turn in 0.. {
        let tables = Tables::new(before, after, turn);
        outcomes.push(outcome(&tables, context, packet));
        if tables.lookups.get() < turn {
            break;
        }
    }
    outcomes
}

/// Whether chains `input` and `forward` pass a TCP packet that connection tracking considers invalid.
#[cfg(test)]
pub(crate) fn lets_invalid_pass(
    state: &State,
    config: &Config,
    source: IpAddr,
    interface: Option<InterfaceName>,
) -> bool {
    match &config.pod_interfaces {
        Some(interfaces) => !interfaces.have(interface.as_ref()),
        None => !Tables::new(state, state, 0).covers(source, Key::PodCidr),
    }
}

fn outcome(tables: &Tables<'_>, context: PacketContext<'_>, packet: &Packet) -> Outcome {
    let mut backends = BTreeMap::new();
    let mut pick = 0;
    loop {
        tables.lookups.set(0);
        let mut picks = 0;
        match (Walk { tables, context, packet }).run(pick, &mut picks) {
            End::Dnat(backend, source) => {
                backends.insert(backend, source);
            }
            End::Refused => return Outcome::Refused,
            End::Dropped => return Outcome::Dropped,
            End::NotOurs => return Outcome::NotOurs,
        }
        pick += 1;
        if pick >= picks {
            return Outcome::Backends(backends);
        }
    }
}

impl<'a> Tables<'a> {
    fn new(before: &'a State, after: &'a State, turn: usize) -> Self {
        Self { before, after, turn, lookups: Cell::new(0), steps: None }
    }

    fn note(&self, key: &Key, found: Option<&dyn fmt::Display>) {
        if let Some(steps) = &self.steps {
            let (map, key, found) = (key.map().to_owned(), key.to_string(), found.map(ToString::to_string));
            steps.borrow_mut().push(Step { map, key, found });
        }
    }

    fn now(&self) -> &State {
        let lookup = self.lookups.get();
        self.lookups.set(lookup + 1);
        if lookup < self.turn { self.before } else { self.after }
    }

    fn get(&self, key: Key) -> Option<Value> {
        let found = self.now().elements.get(&key).copied();
        self.note(&key, found.as_ref().map(|value| value as &dyn fmt::Display));
        found
    }

    fn has(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// A comparison, and no lookup: no transaction changes its answer.
    fn arrives_on(&self, interfaces: &PodInterfaces, interface: Option<InterfaceName>) -> bool {
        let arrives = interfaces.have(interface.as_ref());
        if let Some(steps) = &self.steps {
            let found = if arrives { interfaces.to_string() } else { format!("not {interfaces}") };
            let key = interface.map_or_else(|| "none".to_owned(), |name| name.to_string());
            steps.borrow_mut().push(Step { map: "iifname".to_owned(), key, found: Some(found) });
        }
        arrives
    }

    /// Membership in an interval set.
    fn covers(&self, address: IpAddr, of: impl Fn(IpNet) -> Key) -> bool {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let state = self.now();
        let nets = (0..=longest).filter_map(|length| IpNet::new(address, length).ok());
        let found = nets.map(|net| of(net.trunc())).find(|key| state.elements.contains_key(key));
        self.note(&of(IpNet::from(address)), found.as_ref().map(|key| key as &dyn fmt::Display));
        found.is_some()
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    tables: &'a Tables<'a>,
    context: PacketContext<'a>,
    packet: &'a Packet,
}

impl Walk<'_> {
    fn run(&self, pick: u32, picks: &mut u32) -> End {
        let Packet { source, from_node, interface: _, to } = *self.packet;
        if self.tables.has(Key::Firewalled(to))
            && !self.tables.covers(source, |net| Key::SourceRange(to, net))
        {
            return End::Dropped;
        }
        let to = self.stand_in(to);
        let walk = Walk { packet: &Packet { to, ..*self.packet }, ..*self };
        let (backend, marked) = match walk.dispatch(pick, picks) {
            Ok(found) => found,
            Err(Miss::Passed) => return walk.filter(),
            Err(Miss::Lost) => return End::Dropped,
        };
        // What arrives for the node itself never gets to the hook that replaces sources.
        let stays = !from_node && self.context.node.has(backend.address);
        let hairpin = source == backend.address
            && self.tables.has(Key::Hairpin(backend.address, to.protocol, backend.port));
        let source = if !stays && (marked || hairpin) { Source::Masqueraded } else { Source::Preserved };
        End::Dnat(backend, source)
    }

    /// The first rule of chain `dispatch`: replaces the destination of a NodePort by its stand-in.
    fn stand_in(&self, to: Frontend) -> Frontend {
        if !self.tables.has(Key::NodePort(Family::of(to.address), to.protocol, to.port)) {
            return to;
        }
        if !self.tables.has(Key::NodeAddress(to.address)) {
            return to;
        }
        match self.tables.get(Key::NodePortStandIn(Family::of(to.address), to.protocol)) {
            Some(Value::Alias(address)) => Frontend { address, ..to },
            _ => to,
        }
    }

    /// The rest of chain `dispatch`: the backend, and whether the packet is marked for masquerading.
    fn dispatch(&self, pick: u32, picks: &mut u32) -> Result<(Backend, bool), Miss> {
        let to = self.packet.to;
        let family = Family::of(to.address);
        let is_pod_cidr = |key: &Key| matches!(key, Key::PodCidr(net) if Family::of(net.addr()) == family);
        let config = self.context.config;
        let has_detector =
            config.pod_interfaces.is_some() || self.tables.after.elements.keys().any(is_pod_cidr);
        let marked = self.tables.has(Key::ClusterIp(to.address))
            && (config.masquerade_all || (has_detector && !self.is_from_pod()));
        match self.verdict(Key::Service(to)) {
            Some(Verdict::External) => self.external(pick, picks),
            Some(verdict) => self.follow(verdict, marked, pick, picks),
            None => Err(Miss::Passed),
        }
    }

    fn verdict(&self, key: Key) -> Option<Verdict> {
        match self.tables.get(key)? {
            Value::Verdict(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// `ip saddr @pod-cidrs`, or `iifname` where pods are recognised by interface.
    fn is_from_pod(&self) -> bool {
        self.is_recognised_by(Key::PodCidr)
    }

    /// `ip saddr @node-pods`, or the same `iifname`.
    fn is_from_own_pod(&self) -> bool {
        self.is_recognised_by(Key::NodePod)
    }

    fn is_recognised_by(&self, set: fn(IpNet) -> Key) -> bool {
        match &self.context.config.pod_interfaces {
            Some(interfaces) => self.tables.arrives_on(interfaces, self.packet.interface),
            None => self.tables.covers(self.packet.source, set),
        }
    }

    /// Chain `external`: each lookup that misses falls through to the next rule.
    fn external(&self, pick: u32, picks: &mut u32) -> Result<(Backend, bool), Miss> {
        let to = self.packet.to;
        if self.is_from_own_pod()
            && let Some(short) = self.verdict(Key::Short(to))
        {
            return self.follow(short, false, pick, picks);
        }
        let marked = self.packet.from_node;
        if self.packet.from_node
            && let Some(short) = self.verdict(Key::Short(to))
        {
            return self.follow(short, marked, pick, picks);
        }
        if let Some(local) = self.verdict(Key::Local(to)) {
            return self.follow(local, marked, pick, picks);
        }
        // A pod that is recognised by interface is one of this node.
        if self.context.config.pod_interfaces.is_some() || !self.is_from_pod() {
            return Err(Miss::Passed);
        }
        let short = self.verdict(Key::Short(to)).ok_or(Miss::Passed)?;
        self.follow(short, true, pick, picks)
    }

    /// A chain beside the skeleton.
    fn follow(
        &self,
        verdict: Verdict,
        marked: bool,
        pick: u32,
        picks: &mut u32,
    ) -> Result<(Backend, bool), Miss> {
        match verdict {
            Verdict::Balance(Balance { endpoints, list, masquerade }) => {
                *picks = endpoints;
                let slot = list.first_slot() + pick % endpoints.max(1);
                let backend = self.backend(Key::Endpoint(self.packet.to, slot)).ok_or(Miss::Passed)?;
                Ok((backend, marked || masquerade))
            }
            Verdict::Recall(Recall { list, masquerade, .. }) => {
                let backend = self.recall(list, pick, picks).ok_or(Miss::Lost)?;
                Ok((backend, marked || masquerade))
            }
            Verdict::External | Verdict::Pick(_) | Verdict::Reject | Verdict::Drop => Err(Miss::Passed),
        }
    }

    /// Chain `aff-…`: the endpoint of the affinity entry, if it is in the list, and otherwise one at random.
    fn recall(&self, list: List, pick: u32, picks: &mut u32) -> Option<Backend> {
        let Value::Alias(address) = self.tables.get(Key::AffinityPort(self.packet.to))? else { return None };
        let alias = Alias { address, protocol: self.packet.to.protocol };
        let endpoint = |id| self.backend(Key::AffinityEndpoint(alias, list, id));
        if let Some(kept) = self.context.affinity_id.and_then(endpoint) {
            *picks = 1;
            return Some(kept);
        }
        let Verdict::Pick(Pick { endpoints, list: picked }) = self.verdict(Key::AffinityPick(alias, list))?
        else {
            return None;
        };
        *picks = endpoints;
        let slot = picked.first_slot() + pick % endpoints.max(1);
        let Value::Id(id) = self.tables.get(Key::AffinitySlot(alias, slot))? else { return None };
        endpoint(id)
    }

    fn backend(&self, key: Key) -> Option<Backend> {
        match self.tables.get(key)? {
            Value::Backend(backend) => Some(backend),
            _ => None,
        }
    }

    /// The filter hooks, for packets that no chain rewrote. A packet to the node itself meets only the first of
    /// them.
    fn filter(&self) -> End {
        let Packet { from_node, to, .. } = *self.packet;
        match self.verdict(Key::NoEndpoints(to)) {
            Some(Verdict::Drop) => return End::Dropped,
            Some(_) => return End::Refused,
            None => {}
        }
        let Frontend { address, protocol, port } = to;
        if self.tables.has(Key::NodeAddress(address))
            && self.verdict(Key::NodePortNoEndpoints(Family::of(address), protocol, port)).is_some()
        {
            return End::Refused;
        }
        if !from_node && self.context.node.has(to.address) {
            End::NotOurs
        } else if self.tables.has(Key::ClusterIp(to.address)) {
            End::Refused
        } else if self.tables.covers(to.address, Key::ServiceCidr) {
            End::Dropped
        } else {
            End::NotOurs
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, key, found } = self;
        let found = found.as_deref().unwrap_or("no such element");
        write!(f, "{map} {{ {key} }}: {found}")
    }
}
