//! A packet's way through our tables, as docs/nftables.md draws it, over elements instead of a kernel.
//!
//! Owns an interpreter of the fixed ruleset, so that what the model writes can be tested without root, and with transactions
//! that fall between two of a packet's lookups ([`walk_torn`]). Leaves to the kernel tests that the rules really say this.
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
    input::Config,
    interface::{InterfaceName, PodInterfaces},
    oracle::{Outcome, Packet, Source},
    plan::State,
    table::{Backend, Balance, Family, Frontend, Key, List, Value, Verdict},
};

/// Tables of which a transaction replaces one by the other after `turn` lookups.
struct Tables<'a> {
    before: &'a State,
    after: &'a State,
    turn: usize,
    lookups: Cell<usize>,
    /// The lookups so far, if somebody wants to know.
    steps: Option<RefCell<Vec<Step>>>,
}

/// One lookup of a packet in our tables, or the comparison of the interface on which it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name of the map or set; `iifname` for the interface.
    pub map: String,
    /// What is looked up.
    pub key: String,
    /// What is found; `None` when there is no such element. Of an interface: which ones are pods', with `not` if it is none.
    pub found: Option<String>,
}

/// What one packet met.
enum End {
    Dnat(Backend, Source),
    Refused,
    Dropped,
    NotOurs,
}

/// Everything that may become of a connection.
pub fn walk(state: &State, config: &Config, packet: &Packet) -> Outcome {
    outcome(&Tables::new(state, state, 0), config, packet)
}

/// The same, with the lookups that lead there: those of a packet that gets the first slot, where several could be.
pub fn path(state: &State, config: &Config, packet: &Packet) -> (Outcome, Vec<Step>) {
    let tables = Tables { steps: Some(RefCell::default()), ..Tables::new(state, state, 0) };
    // What becomes of it is in the steps and, for all slots, in the outcome below.
    (Walk { tables: &tables, config, packet }).run(0, &mut 0);
    let steps = tables.steps.map(RefCell::into_inner).unwrap_or_default();
    (walk(state, config, packet), steps)
}

/// Everything that may become of a connection whose packet is between two lookups when a transaction turns `before` into
/// `after`: one outcome for each such moment.
pub fn walk_torn(before: &State, after: &State, config: &Config, packet: &Packet) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for turn in 0.. {
        let tables = Tables::new(before, after, turn);
        outcomes.push(outcome(&tables, config, packet));
        if tables.lookups.get() < turn {
            break;
        }
    }
    outcomes
}

/// Whether chains `input` and `forward` let a TCP packet pass that connection tracking takes for invalid.
pub fn lets_invalid_pass(
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

fn outcome(tables: &Tables<'_>, config: &Config, packet: &Packet) -> Outcome {
    let mut backends = BTreeMap::new();
    let mut pick = 0;
    loop {
        tables.lookups.set(0);
        let mut picks = 0;
        match (Walk { tables, config, packet }).run(pick, &mut picks) {
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

struct Walk<'a> {
    tables: &'a Tables<'a>,
    config: &'a Config,
    packet: &'a Packet,
}

impl Walk<'_> {
    fn run(&self, pick: u32, picks: &mut u32) -> End {
        let Packet { source, from_node: _, interface: _, to } = *self.packet;
        if self.tables.has(Key::Firewalled(to))
            && !self.tables.covers(source, |net| Key::SourceRange(to, net))
        {
            return End::Dropped;
        }
        match self.dispatch(pick, picks) {
            Some((backend, marked)) => {
                let hairpin = source == backend.address
                    && self.tables.has(Key::Hairpin(backend.address, to.protocol, backend.port));
                let source = if marked || hairpin { Source::Masqueraded } else { Source::Preserved };
                End::Dnat(backend, source)
            }
            None => self.filter(),
        }
    }

    /// Chain `dispatch`: the backend, and whether the packet is marked for masquerading.
    fn dispatch(&self, pick: u32, picks: &mut u32) -> Option<(Backend, bool)> {
        let to = self.packet.to;
        let family = Family::of(to.address);
        let is_pod_cidr = |key: &Key| matches!(key, Key::PodCidr(net) if Family::of(net.addr()) == family);
        let has_detector =
            self.config.pod_interfaces.is_some() || self.tables.after.elements.keys().any(is_pod_cidr);
        let marked = self.tables.has(Key::ClusterIp(to.address))
            && (self.config.masquerade_all || (has_detector && !self.is_from_pod()));
        match self.tables.get(Key::Service(to))? {
            Value::Verdict(Verdict::Balance(balance)) => self.balance(balance, marked, pick, picks),
            Value::Verdict(Verdict::External) => self.external(pick, picks),
            _ => None,
        }
    }

    /// `ip saddr @pod-cidrs`, or `iifname` where pods are told by it.
    fn is_from_pod(&self) -> bool {
        self.is_told_by(Key::PodCidr)
    }

    /// `ip saddr @node-pods`, or the same `iifname`.
    fn is_from_own_pod(&self) -> bool {
        self.is_told_by(Key::NodePod)
    }

    fn is_told_by(&self, set: fn(IpNet) -> Key) -> bool {
        match &self.config.pod_interfaces {
            Some(interfaces) => self.tables.arrives_on(interfaces, self.packet.interface),
            None => self.tables.covers(self.packet.source, set),
        }
    }

    /// Chain `external`: each lookup that misses falls through to the next rule.
    fn external(&self, pick: u32, picks: &mut u32) -> Option<(Backend, bool)> {
        let to = self.packet.to;
        let balance = |key| match self.tables.get(key) {
            Some(Value::Verdict(Verdict::Balance(balance))) => Some(balance),
            _ => None,
        };
        if self.is_from_own_pod()
            && let Some(short) = balance(Key::Short(to))
        {
            return self.balance(short, false, pick, picks);
        }
        let marked = self.packet.from_node;
        if self.packet.from_node
            && let Some(short) = balance(Key::Short(to))
        {
            return self.balance(short, marked, pick, picks);
        }
        if let Some(local) = balance(Key::Local(to)) {
            return self.balance(local, marked, pick, picks);
        }
        // A pod that is told by its interface is one of this node.
        if self.config.pod_interfaces.is_some() || !self.is_from_pod() {
            return None;
        }
        self.balance(balance(Key::Short(to))?, true, pick, picks)
    }

    /// Chain `lb-…`. A client without remembered endpoint takes a slot; a remembered one is one of the same endpoints.
    fn balance(&self, balance: Balance, marked: bool, pick: u32, picks: &mut u32) -> Option<(Backend, bool)> {
        let Balance { endpoints, list, masquerade, affinity } = balance;
        *picks = endpoints;
        let first = if list == List::Local { crate::table::LOCAL_SLOTS } else { 0 };
        let slot = first + pick % endpoints.max(1);
        let backend = self.slot(self.packet.to, slot, affinity.is_some())?;
        Some((backend, marked || masquerade))
    }

    fn slot(&self, to: Frontend, slot: u32, affinity: bool) -> Option<Backend> {
        let value = if affinity {
            let Value::Id(id) = self.tables.get(Key::AffinitySlot(to, slot))? else { return None };
            self.tables.get(Key::AffinityEndpoint(to, id))?
        } else {
            self.tables.get(Key::Endpoint(to, slot))?
        };
        match value {
            Value::Backend(backend) => Some(backend),
            _ => None,
        }
    }

    /// The filter hooks, for packets that nothing rewrote.
    fn filter(&self) -> End {
        let to = self.packet.to;
        match self.tables.get(Key::NoEndpoints(to)) {
            Some(Value::Verdict(Verdict::Drop)) => return End::Dropped,
            Some(_) => return End::Refused,
            None => {}
        }
        if self.tables.has(Key::ClusterIp(to.address)) {
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
