//! The model: all Services, endpoints and the node, and the kernel elements that follow from them.
//!
//! Owns [`Model`]: events in, edits of a [`ShadowState`] out. An event compiles its Service, and the Services that
//! gain or lose a frontend by it, and no others. Leaves time and the kernel to the daemon.
//!
//! Invariants: after any events the desired elements are those of a new model with the final objects, up to the
//! order of slots. A key that several Services need (a hairpin, a `ClusterIP`) exists while one of them needs
//! it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    affinity::Aliases,
    claims::{Claim, Claims, Conflict},
    compile::{self, Compiled, Placed, Refusal, Surroundings},
    input::{Config, EndpointSlice, Event, Lack, NodeInfo, Service, ServiceName},
    select,
    shadow::ShadowState,
    table::{Family, Frontend, Key, Protocol, Value},
};

use interning::Interned;

mod adopt;
mod interning;
#[cfg(test)]
mod many_ports;
#[cfg(test)]
mod node_ports;
mod queries;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod tests;

/// A Service, its slices, and their compilation. Slices may arrive before their Service.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Service>,
    /// By name. Most Services have one, for which a map would reserve room for eleven.
    slices: Vec<EndpointSlice>,
    placed: Box<[Placed]>,
    keys: Box<[Key]>,
    claimed: Box<[Frontend]>,
    no_local: (usize, usize),
}

/// Answer of a health check node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready IPv4 endpoints on this node, by distinct address; `None`: the Service has no IPv4, and the port is not served there.
    pub v4: Option<usize>,
    /// Ready IPv6 endpoints on this node, in the same way.
    pub v6: Option<usize>,
}

impl HealthCheck {
    /// Ready endpoints of a family on this node; `None` if the Service has no such family.
    pub fn local_endpoints(&self, family: Family) -> Option<usize> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A part of a Service that is not served, although its owner may expect it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// Two Services want the same frontend.
    Conflict(Conflict),
    /// The configuration forbids it.
    Refusal(Refusal),
}

/// All objects that this node's proxy knows.
#[derive(Debug, Default)]
pub struct Model {
    config: Config,
    node: NodeInfo,
    service_cidrs: Vec<IpNet>,
    /// Boxed, since half of a hash table is room for more.
    entries: HashMap<ServiceName, Box<Entry>>,
    claims: Claims,
    aliases: Aliases,
    /// [`NodeInfo::stand_ins`], unless a proxy listens on each address itself.
    stand_ins: BTreeMap<IpAddr, IpAddr>,
    /// Number of Services that need an element, where more than one does.
    shared: HashMap<Key, usize>,
    /// Services with an address that the API server did not allocate to them: VIPs and external IPs.
    outside: HashMap<IpAddr, BTreeSet<ServiceName>>,
    refusals: BTreeMap<ServiceName, Vec<Refusal>>,
    refusal_changes: u64,
    health: BTreeMap<ServiceName, HealthCheck>,
    health_changes: u64,
    names: Interned,
    services: usize,
    no_local: (usize, usize),
    /// Services whose slices changed since they were compiled.
    dirty: BTreeSet<ServiceName>,
    compiled: u64,
    shadow: ShadowState,
}

impl Model {
    /// An empty model.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Applies one change.
    pub fn apply(&mut self, event: Event) {
        self.take(event);
        self.settle();
    }

    /// Applies one change of several. Its effects may be missing until [`Model::settle`], so that a Service is
    /// compiled once, however many of its slices are among the changes.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Service(service) => self.service(service),
            Event::ServiceGone(name) => {
                if let Some(entry) = self.entries.get_mut(&name) {
                    let before = entry.service.take();
                    self.services -= usize::from(before.is_some());
                    self.changed(&name, before.as_ref());
                }
            }
            Event::Slice(slice) => {
                let slice = self.intern(slice);
                let name = slice.service.clone();
                self.entries.entry(name.clone()).or_default().put(slice);
                self.dirty.insert(name);
            }
            Event::SliceGone { service, name } => {
                if let Some(entry) = self.entries.get_mut(&service) {
                    entry.slices.retain(|slice| slice.name != name);
                    self.dirty.insert(service);
                }
            }
            Event::Node(node) => self.node(node),
            Event::ServiceCidrs(nets) => {
                let nets = IpNet::aggregate(&nets);
                let before = std::mem::replace(&mut self.service_cidrs, nets);
                self.set_ranges(&before, &self.service_cidrs.clone(), Key::ServiceCidr);
            }
        }
    }

    /// Compiles all Services that earlier changes left to be compiled.
    pub fn settle(&mut self) {
        if !self.dirty.is_empty() {
            self.recompile(&BTreeSet::new());
        }
    }

    /// Number of compilations of Services.
    pub fn compiled(&self) -> u64 {
        self.compiled
    }

    /// The desired state, and its difference to the programmed one.
    pub fn shadow(&self) -> &ShadowState {
        &self.shadow
    }

    /// The same, for reports of the kernel's state.
    pub fn shadow_mut(&mut self) -> &mut ShadowState {
        &mut self.shadow
    }

    /// The last node event.
    pub fn node_info(&self) -> &NodeInfo {
        &self.node
    }

    /// The settings that this model was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Health check node ports to serve, by Service.
    pub fn health_checks(&self) -> &BTreeMap<ServiceName, HealthCheck> {
        &self.health
    }

    /// A number that grows with every change of [`Model::health_checks`], so that a change of one Service does
    /// not cost a comparison of all.
    pub fn health_changes(&self) -> u64 {
        self.health_changes
    }

    /// The same for [`Model::problems`].
    pub fn problem_changes(&self) -> u64 {
        self.refusal_changes + self.claims.changes()
    }

    fn service(&mut self, mut service: Service) {
        if self.config.lacks.contains(&Lack::SessionAffinity) {
            service.affinity = None;
        }
        self.intern_service(&mut service);
        let name = service.name.clone();
        if service.cluster_ips.is_empty() {
            return self.apply(Event::ServiceGone(name));
        }
        let before = self.entries.entry(name.clone()).or_default().service.replace(service);
        self.services += usize::from(before.is_none());
        self.changed(&name, before.as_ref());
    }

    /// Updates the claims of a changed Service, and those of others to its `ClusterIP`s.
    fn changed(&mut self, name: &ServiceName, before: Option<&Service>) {
        for address in before.into_iter().flat_map(outside) {
            if let Some(names) = self.outside.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.outside.remove(address);
                }
            }
        }
        let after = self.service_named(name);
        let addresses: Vec<_> = after.into_iter().flat_map(outside).copied().collect();
        let cluster_ips = |service: Option<&Service>| -> BTreeSet<IpAddr> {
            service.into_iter().flat_map(|service| &service.cluster_ips).copied().collect()
        };
        let moved = &cluster_ips(before) ^ &cluster_ips(after);
        for address in addresses {
            self.outside.entry(address).or_default().insert(name.clone());
        }
        self.refresh(name);
        let others: BTreeSet<_> =
            moved.iter().filter_map(|ip| self.outside.get(ip)).flatten().cloned().collect();
        for other in others.iter().filter(|other| *other != name) {
            self.refresh(other);
        }
    }

    /// Whether an address is another Service's `ClusterIP`.
    fn is_foreign(&self, service: &Service, address: IpAddr) -> bool {
        !service.cluster_ips.contains(&address)
            && self.shadow.desired().elements.contains_key(&Key::ClusterIp(address))
    }

    fn node(&mut self, node: NodeInfo) {
        let node = NodeInfo {
            pod_cidrs: IpNet::aggregate(&node.pod_cidrs),
            node_pod_cidrs: IpNet::aggregate(&node.node_pod_cidrs),
            ..node
        };
        if node == self.node {
            return;
        }
        let before = std::mem::replace(&mut self.node, node);
        let after = self.node.clone();
        if (NodeInfo { local_addresses: after.local_addresses.clone(), ..before.clone() }) == after {
            return;
        }
        self.set_ranges(&before.pod_cidrs, &after.pod_cidrs, Key::PodCidr);
        self.set_ranges(&before.node_pod_cidrs, &after.node_pod_cidrs, Key::NodePod);
        let stand_ins = if self.config.proxied { BTreeMap::new() } else { after.stand_ins() };
        let before_them = std::mem::replace(&mut self.stand_ins, stand_ins);
        for address in before_them.keys().filter(|address| !self.stand_ins.contains_key(address)) {
            self.shadow.set(Key::NodeAddress(*address), None);
        }
        for address in self.stand_ins.keys() {
            self.shadow.set(Key::NodeAddress(*address), Some(Value::Present));
        }
        let now = stand_in_elements(&self.stand_ins);
        for key in stand_in_elements(&before_them).into_keys().filter(|key| !now.contains_key(key)) {
            self.shadow.set(key, None);
        }
        for (key, value) in now {
            self.shadow.set(key, Some(value));
        }
        if before.node_port_addresses == after.node_port_addresses && before_them == self.stand_ins {
            let all = self.entries.keys().cloned().collect();
            self.recompile(&all);
        } else {
            let names: Vec<_> = self.entries.keys().cloned().collect();
            for name in names {
                self.refresh(&name);
            }
        }
    }

    fn set_ranges(&mut self, before: &[IpNet], after: &[IpNet], key: fn(IpNet) -> Key) {
        for net in before.iter().filter(|net| !after.contains(net)) {
            self.shadow.set(key(*net), None);
        }
        for net in after {
            self.shadow.set(key(*net), Some(Value::Present));
        }
    }

    /// Updates the holders of frontends after a change of a Service, and compiles every affected Service.
    fn refresh(&mut self, name: &ServiceName) {
        let Some(entry) = self.entries.get(name) else { return };
        let mut touched = BTreeSet::from([name.clone()]);
        let (mut wanted, created, mut refusals) = match &entry.service {
            Some(service) => (
                compile::frontends(service, &self.node, &self.config),
                service.created,
                compile::refusals(service, &self.config),
            ),
            None => (BTreeMap::new(), 0, Vec::new()),
        };
        if let Some(service) = &entry.service {
            for address in outside(service).filter(|address| self.is_foreign(service, **address)) {
                wanted.retain(|frontend, _| frontend.address != *address);
                refusals.push(Refusal::ForeignClusterIp { service: name.clone(), address: *address });
            }
        }
        let Some(entry) = self.entries.get_mut(name) else { return };
        let before = std::mem::replace(&mut entry.claimed, wanted.keys().copied().collect());
        for frontend in &before {
            touched.extend(self.claims.release(frontend, name));
        }
        for (frontend, (kind, port)) in wanted {
            let claim = Claim { kind, created, service: name.clone(), port };
            touched.extend(self.claims.claim(frontend, claim));
        }
        let refused = if refusals.is_empty() {
            self.refusals.remove(name).is_some()
        } else {
            self.refusals.insert(name.clone(), refusals.clone()).as_ref() != Some(&refusals)
        };
        self.refusal_changes += u64::from(refused);
        self.recompile(&touched);
    }

    /// Compiles Services. Removals of all of them come first, since a frontend may pass from one to another.
    fn recompile(&mut self, names: &BTreeSet<ServiceName>) {
        let names = names | &std::mem::take(&mut self.dirty);
        let mut written = Vec::with_capacity(names.len());
        for name in &names {
            self.compiled += 1;
            let Some(entry) = self.entries.get_mut(name) else { continue };
            let aliases = self.aliases.settle(name, entry.service.as_ref());
            let around = Surroundings {
                node: &self.node,
                config: &self.config,
                claims: &self.claims,
                aliases: &aliases,
                stand_ins: &self.stand_ins,
            };
            let Compiled { elements, placed, no_local } = match &entry.service {
                Some(service) => compile::compile(service, &entry.slices, &entry.placed, around),
                None => Compiled::default(),
            };
            entry.placed = placed.into();
            let was = std::mem::replace(&mut entry.no_local, no_local);
            self.no_local.0 = self.no_local.0 + no_local.0 - was.0;
            self.no_local.1 = self.no_local.1 + no_local.1 - was.1;
            let before = std::mem::replace(&mut entry.keys, elements.keys().copied().collect());
            for key in before.iter().filter(|key| is_shared(key) || !elements.contains_key(key)) {
                self.unset(*key);
            }
            written.push(elements);
            self.check_health(name);
            self.forget(name);
        }
        for (key, value) in written.into_iter().flatten() {
            if is_shared(&key) && self.shadow.desired().elements.contains_key(&key) {
                *self.shared.entry(key).or_insert(1) += 1;
            }
            self.shadow.set(key, Some(value));
        }
    }

    fn unset(&mut self, key: Key) {
        let Some(users) = self.shared.get_mut(&key) else { return self.shadow.set(key, None) };
        *users -= 1;
        if *users == 1 {
            self.shared.remove(&key);
        }
    }

    fn check_health(&mut self, name: &ServiceName) {
        let Some(entry) = self.entries.get(name) else { return };
        let check = entry.service.as_ref().and_then(|service| {
            let port = service.health_check_node_port?;
            let has = |family| service.cluster_ips.iter().any(|ip| Family::of(*ip) == family);
            let count = |family| has(family).then(|| select::local_ready(&entry.slices, family, &self.node));
            Some(HealthCheck { port, v4: count(Family::V4), v6: count(Family::V6) })
        });
        let before = match check {
            Some(check) => self.health.insert(name.clone(), check),
            None => self.health.remove(name),
        };
        self.health_changes += u64::from(before != check);
    }

    fn forget(&mut self, name: &ServiceName) {
        if self.entries.get(name).is_some_and(|e| e.service.is_none() && e.slices.is_empty()) {
            self.entries.remove(name);
        }
    }
}

impl Entry {
    /// Adds a slice, or replaces the one of its name.
    fn put(&mut self, slice: EndpointSlice) {
        match self.slices.binary_search_by(|known| known.name.cmp(&slice.name)) {
            Ok(at) => self.slices[at] = slice,
            Err(at) => {
                self.slices.reserve_exact(1);
                self.slices.insert(at, slice);
            }
        }
    }
}

/// The elements for the stand-in of each family.
fn stand_in_elements(stand_ins: &BTreeMap<IpAddr, IpAddr>) -> BTreeMap<Key, Value> {
    let by_family: BTreeMap<_, _> =
        stand_ins.values().map(|address| (Family::of(*address), *address)).collect();
    let elements = |(family, address)| {
        Protocol::ALL.map(|protocol| (Key::NodePortStandIn(family, protocol), Value::Alias(address)))
    };
    by_family.into_iter().flat_map(elements).collect()
}

/// Addresses of a Service that the API server did not allocate to it.
fn outside(service: &Service) -> impl Iterator<Item = &IpAddr> {
    service.load_balancer_vips.iter().chain(&service.external_ips)
}

fn is_shared(key: &Key) -> bool {
    matches!(key, Key::Hairpin(..) | Key::ClusterIp(_))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::Refusal(refusal) => refusal.fmt(f),
        }
    }
}
