//! Compiles one Service to the elements that serve it.
//!
//! Owns the frontends of a Service, and the effect of its policies on its endpoint lists. Leaves contested
//! frontends to [`Claims`], and the difference to the programmed state to the shadow state.
//!
//! Invariant: the result depends only on the arguments; `before` only decides the order of slots.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    affinity,
    claims::{ClaimKind, Claims},
    input::{Config, EndpointSlice, Lack, NodeInfo, Service, ServiceName, ServicePort, TrafficPolicy},
    select::{self, Lists, Ports},
    slots,
    table::{Alias, Backend, Balance, Family, Frontend, Key, List, Pick, Protocol, Recall, Value, Verdict},
};

/// The slots of one Service port in one family, the same on each of its frontends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) port: PortKey,
    pub(crate) cluster: Box<[Backend]>,
    pub(crate) local: Box<[Backend]>,
}

impl Placed {
    fn of(&self, list: List) -> &[Backend] {
        match list {
            List::Cluster => &self.cluster,
            List::Local => &self.local,
        }
    }
}

/// A part of a Service that is not served, although its owner may expect it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A NodePort that the configuration does not allow.
    NodePortOutOfRange {
        /// Namespace and name of the Service.
        service: ServiceName,
        /// The port number.
        node_port: u16,
    },
    /// `spec.externalIPs` while they are off.
    ExternalIps {
        /// Namespace and name of the Service.
        service: ServiceName,
    },
    /// A load balancer's VIP or an external IP that is another Service's `ClusterIP`.
    ForeignClusterIp {
        /// Namespace and name of the Service.
        service: ServiceName,
        /// The foreign address.
        address: IpAddr,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) elements: BTreeMap<Key, Value>,
    pub(crate) placed: Vec<Placed>,
    /// Ports under policy `Local` without an endpoint here though others have one: (internal, external).
    pub(crate) no_local: (usize, usize),
}

/// Inputs beside the Service and its slices.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) node: &'a NodeInfo,
    pub(crate) config: &'a Config,
    pub(crate) claims: &'a Claims,
    /// The aliases of its ports, with session affinity ([`crate::affinity::Aliases::settle`]).
    pub(crate) aliases: &'a [Alias],
    /// [`NodeInfo::stand_ins`], where the dataplane has them.
    pub(crate) stand_ins: &'a BTreeMap<IpAddr, IpAddr>,
}

/// Every frontend of a Service, each once, with its strongest kind and the index of its port.
pub(crate) fn frontends(
    service: &Service,
    node: &NodeInfo,
    config: &Config,
) -> BTreeMap<Frontend, (ClaimKind, usize)> {
    let mut wanted = BTreeMap::new();
    let families: BTreeSet<_> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
    for (index, port) in service.ports.iter().enumerate() {
        let mut want = |kind: ClaimKind, addresses: &[IpAddr], number: u16| {
            for address in addresses.iter().filter(|a| families.contains(&Family::of(**a))) {
                let frontend = Frontend { address: *address, protocol: port.protocol, port: number };
                wanted.entry(frontend).or_insert((kind, index));
            }
        };
        want(ClaimKind::ClusterIp, &service.cluster_ips, port.port);
        if let Some(number) = port.node_port.filter(|number| config.node_port_range.contains(number)) {
            want(ClaimKind::NodePort, &node.node_port_addresses, number);
        }
        want(ClaimKind::LoadBalancer, &service.load_balancer_vips, port.port);
        if config.external_ips {
            want(ClaimKind::ExternalIp, &service.external_ips, port.port);
        }
    }
    wanted
}

/// Whether load balancers send to a frontend, whatever else leads there: a VIP may be an address of the node, a
/// `ClusterIP` or an external IP as well. `loadBalancerSourceRanges` then apply to every client of the
/// frontend, as with kube-proxy.
pub(crate) fn is_load_balanced(service: &Service, frontend: &Frontend) -> bool {
    let is_port = |port: &ServicePort| (port.protocol, port.port) == (frontend.protocol, frontend.port);
    service.load_balancer_vips.contains(&frontend.address) && service.ports.iter().any(is_port)
}

/// The parts of a Service that are not served.
pub(crate) fn refusals(service: &Service, config: &Config) -> Vec<Refusal> {
    let numbers = service.ports.iter().filter_map(|port| port.node_port);
    let mut refusals: Vec<_> = numbers
        .filter(|number| !config.node_port_range.contains(number))
        .map(|node_port| Refusal::NodePortOutOfRange { service: service.name.clone(), node_port })
        .collect();
    if !config.external_ips && !service.external_ips.is_empty() {
        refusals.push(Refusal::ExternalIps { service: service.name.clone() });
    }
    refusals
}

/// Compiles a Service against the slices that name it.
pub(crate) fn compile(
    service: &Service,
    slices: &[EndpointSlice],
    before: &[Placed],
    around: Surroundings<'_>,
) -> Compiled {
    let mut compiled = Compiled::default();
    let mut frontends = by_port(frontends(service, around.node, around.config));
    let (before, ports) =
        (before.iter().map(|placed| (placed.port, placed)).collect(), Ports::new(slices.iter()));
    let mut aliases = around.aliases.iter();
    for cluster_ip in &service.cluster_ips {
        let family = Family::of(*cluster_ip);
        for (index, port) in service.ports.iter().enumerate() {
            let lists = select::select_of(service, port, family, &ports, around.node, around.config);
            let placed = place(port, family, &lists, &before);
            let affinity = service.affinity.zip(aliases.next().copied());
            let mut writer =
                Writer { service, port, lists: &lists, placed: &placed, affinity, compiled: &mut compiled };
            writer.port(*cluster_ip);
            for (frontend, kind) in frontends.remove(&(index, family)).unwrap_or_default() {
                if around.claims.holder(&frontend).is_some_and(|claim| claim.service == service.name) {
                    writer.frontend(frontend, kind, around);
                }
            }
            compiled.placed.push(placed);
        }
    }
    compiled
}

/// Frontends by the index of their port and their family.
fn by_port(
    frontends: BTreeMap<Frontend, (ClaimKind, usize)>,
) -> HashMap<(usize, Family), Vec<(Frontend, ClaimKind)>> {
    let mut ports = HashMap::<_, Vec<_>>::new();
    for (frontend, (kind, index)) in frontends {
        ports.entry((index, Family::of(frontend.address))).or_default().push((frontend, kind));
    }
    ports
}

/// Key of a port's slots.
type PortKey = (u16, Protocol, Family);

fn place(port: &ServicePort, family: Family, lists: &Lists, before: &HashMap<PortKey, &Placed>) -> Placed {
    let key = (port.port, port.protocol, family);
    let before = before.get(&key);
    Placed {
        port: key,
        cluster: slots::place(before.map_or(&[], |b| &b.cluster), &lists.cluster).into(),
        local: slots::place(before.map_or(&[], |b| &b.local), &lists.local).into(),
    }
}

/// Writes the elements of one port.
struct Writer<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    lists: &'a Lists,
    placed: &'a Placed,
    /// Timeout in seconds, and the alias of the port.
    affinity: Option<(u32, Alias)>,
    compiled: &'a mut Compiled,
}

impl Writer<'_> {
    fn put(&mut self, key: Key, value: Value) {
        self.compiled.elements.insert(key, value);
    }

    fn verdict(&mut self, key: Key, verdict: Verdict) {
        self.put(key, Value::Verdict(verdict));
    }

    /// Elements that do not depend on a frontend.
    fn port(&mut self, cluster_ip: IpAddr) {
        self.put(Key::ClusterIp(cluster_ip), Value::Present);
        for Backend { address, port } in &self.lists.here {
            self.put(Key::Hairpin(*address, self.port.protocol, *port), Value::Present);
        }
    }

    fn frontend(&mut self, frontend: Frontend, kind: ClaimKind, around: Surroundings<'_>) {
        let Surroundings { node, config, claims, aliases: _, stand_ins } = around;
        let stand_in =
            stand_ins.get(&frontend.address).map(|address| Frontend { address: *address, ..frontend });
        let is_ours =
            |at: &Frontend| claims.holder(at).is_some_and(|claim| claim.service == self.service.name);
        if kind == ClaimKind::NodePort && stand_in.as_ref().is_some_and(is_ours) {
            self.other_address(frontend);
        } else if kind == ClaimKind::ClusterIp {
            self.internal(frontend);
        } else {
            self.external(frontend);
        }
        if is_load_balanced(self.service, &frontend) {
            self.restrict_sources(frontend, node, config);
        }
    }

    /// A NodePort at an address that another stands in for: one element for all such addresses.
    fn other_address(&mut self, frontend: Frontend) {
        let Frontend { address, protocol, port } = frontend;
        let family = Family::of(address);
        if self.lists.any {
            self.put(Key::NodePort(family, protocol, port), Value::Present);
        } else {
            self.verdict(Key::NodePortNoEndpoints(family, protocol, port), Verdict::Reject);
        }
    }

    fn internal(&mut self, frontend: Frontend) {
        let local = self.service.internal_policy == TrafficPolicy::Local;
        let list = if local { List::Local } else { List::Cluster };
        if self.placed.of(list).is_empty() {
            self.compiled.no_local.0 += usize::from(self.lists.any);
            self.nothing(frontend);
        } else {
            let verdict = self.balance(frontend, list, false);
            self.verdict(Key::Service(frontend), verdict);
        }
    }

    /// Clients from outside under policy `Cluster` are masqueraded, since the endpoint may be on another node and its
    /// answer must come back through this one.
    fn external(&mut self, frontend: Frontend) {
        if !self.lists.any {
            return self.nothing(frontend);
        }
        if self.service.external_policy == TrafficPolicy::Cluster {
            let verdict = self.balance(frontend, List::Cluster, true);
            return self.verdict(Key::Service(frontend), verdict);
        }
        self.verdict(Key::Service(frontend), Verdict::External);
        let short = self.balance(frontend, List::Cluster, false);
        self.verdict(Key::Short(frontend), short);
        if self.placed.local.is_empty() {
            self.compiled.no_local.1 += 1;
            self.nothing(frontend);
        } else {
            let local = self.balance(frontend, List::Local, false);
            self.verdict(Key::Local(frontend), local);
        }
    }

    /// Without any endpoint the client gets an error. Without one on this node the packet is dropped: the load
    /// balancer has not noticed yet, and a client that retries will reach another node.
    fn nothing(&mut self, frontend: Frontend) {
        let verdict = if self.lists.any { Verdict::Drop } else { Verdict::Reject };
        self.verdict(Key::NoEndpoints(frontend), verdict);
    }

    fn balance(&mut self, frontend: Frontend, list: List, masquerade: bool) -> Verdict {
        let backends = self.placed.of(list);
        let endpoints = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        if let Some((seconds, alias)) = self.affinity {
            self.put(Key::AffinityPort(frontend), Value::Alias(alias.address));
            let pick = Verdict::Pick(Pick { endpoints, list });
            // The same for every frontend of the port that uses the list.
            if self.compiled.elements.insert(Key::AffinityPick(alias, list), Value::Verdict(pick)).is_none() {
                self.affinity_endpoints(alias, list);
            }
            let pool = affinity::pool(&self.service.name.namespace);
            return Verdict::Recall(Recall { seconds, pool, list, masquerade });
        }
        for (slot, backend) in (list.first_slot()..).zip(backends) {
            self.put(Key::Endpoint(frontend, slot), Value::Backend(*backend));
        }
        Verdict::Balance(Balance { endpoints, list, masquerade })
    }

    /// The affinity entry of a client has the id of its endpoint. The id is the same in both lists, but each
    /// list only has its own members ([`affinity::kept`]).
    fn affinity_endpoints(&mut self, alias: Alias, list: List) {
        let placed = self.placed;
        let ids = slots::ids(&placed.cluster.iter().chain(&placed.local).copied().collect());
        for (slot, backend) in (list.first_slot()..).zip(placed.of(list)) {
            if let Some(id) = ids.get(backend) {
                self.put(Key::AffinitySlot(alias, slot), Value::Id(*id));
                self.put(Key::AffinityEndpoint(alias, list, *id), Value::Backend(*backend));
            }
        }
    }

    /// Overlapping ranges are merged, because interval sets refuse them. A load balancer often leaves its VIP
    /// on the node, and then a request of the node itself has the VIP as its source. It may pass if the node's
    /// own address may.
    fn restrict_sources(&mut self, frontend: Frontend, node: &NodeInfo, config: &Config) {
        let family = Family::of(frontend.address);
        let Some(mut ranges) = self.service.admitted(family) else { return };
        self.put(Key::Firewalled(frontend), Value::Present);
        if config.lacks.contains(&Lack::SourceRanges) {
            return;
        }
        let may_node = node.addresses.iter().any(|address| ranges.iter().any(|net| net.contains(address)));
        if may_node {
            let vips = self.service.load_balancer_vips.iter().copied();
            ranges.extend(vips.filter(|vip| Family::of(*vip) == family).map(IpNet::from));
        }
        for net in IpNet::aggregate(&ranges) {
            self.put(Key::SourceRange(frontend, net), Value::Present);
        }
    }
}

impl Refusal {
    /// Namespace and name of the Service.
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::NodePortOutOfRange { service, node_port: _ }
            | Self::ExternalIps { service }
            | Self::ForeignClusterIp { service, address: _ } => service,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodePortOutOfRange { service, node_port } => write!(
                f,
                "Service {service}: spec.ports[].nodePort {node_port} is outside --node-port-range and not served; set \
                 the flag to the API server's --service-node-port-range"
            ),
            Self::ExternalIps { service } => write!(
                f,
                "Service {service}: spec.externalIPs is not served, because anyone who may create Services could take any \
                 address (CVE-2020-8554); --allow-external-ips serves it"
            ),
            Self::ForeignClusterIp { service, address } => write!(
                f,
                "Service {service}: {address} is another Service's ClusterIP, which is that Service's on every port; take it out \
                 of status.loadBalancer.ingress or spec.externalIPs"
            ),
        }
    }
}
