//! What the model is asked: by the sync loop, the metrics, the trace and the packet table.
//!
//! Owns no state; nothing here changes the model.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{Model, Problem, stand_in_elements};
use crate::{
    affinity,
    claims::Claim,
    input::{EndpointSlice, Service, ServiceName},
    plan::AffinityMap,
    select,
    table::{Alias, Backend, Family, Frontend, Key, Protocol, Value},
};

impl Model {
    /// Number of Services with a `ClusterIP`.
    pub fn services(&self) -> usize {
        self.services
    }

    /// Whether there is any slice of any Service.
    pub fn has_slices(&self) -> bool {
        self.entries.values().any(|entry| !entry.slices.is_empty())
    }

    /// Service ports whose policy `Local` finds no endpoint here though others have one: (internal, external).
    pub fn without_local_endpoints(&self) -> (usize, usize) {
        self.no_local
    }

    /// All problems of Services, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let refusals = self.refusals.values().flatten().cloned().map(Problem::Refusal);
        self.claims.conflicts().map(Problem::Conflict).chain(refusals).collect()
    }

    /// The holder of a frontend, with the index of its port.
    pub(crate) fn holder(&self, frontend: &Frontend) -> Option<(&Claim, &Service)> {
        let claim = self.claims.holder(frontend)?;
        let service = self.entries.get(&claim.service)?.service.as_ref()?;
        Some((claim, service))
    }

    /// The Service that has a frontend.
    pub fn service_of(&self, frontend: &Frontend) -> Option<&ServiceName> {
        self.claims.holder(frontend).map(|claim| &claim.service)
    }

    /// Every frontend that a Service has.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Frontend> {
        self.claims.held()
    }

    /// The frontends that a Service claims, including those of other holders.
    pub(crate) fn claimed(&self, service: &ServiceName) -> impl Iterator<Item = &Frontend> {
        self.entries.get(service).into_iter().flat_map(|entry| &entry.claimed)
    }

    /// Every frontend that some keys concern, as their own or by their Service port.
    pub(crate) fn frontends<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> BTreeSet<Frontend> {
        let (mut frontends, mut aliases) = (BTreeSet::new(), BTreeSet::new());
        for key in keys {
            frontends.extend(key.frontend());
            aliases.extend(key.alias());
            if let Key::NodePort(family, protocol, port) | Key::NodePortNoEndpoints(family, protocol, port) =
                *key
            {
                let addresses = self.stand_ins.keys().filter(|address| Family::of(**address) == family);
                frontends.extend(addresses.map(|address| Frontend { address: *address, protocol, port }));
            }
        }
        let services: BTreeSet<_> = aliases.iter().filter_map(|alias| self.aliases.holder(alias)).collect();
        let is_meant = |f: &&Frontend| self.alias_of(f).is_some_and(|alias| aliases.contains(&alias));
        frontends.extend(services.into_iter().flat_map(|service| self.claimed(service)).filter(is_meant));
        let others: Vec<_> = frontends.iter().flat_map(|frontend| self.stands_for(*frontend)).collect();
        frontends.extend(others);
        frontends
    }

    /// The alias of a frontend's Service port, if that has session affinity.
    pub fn alias_of(&self, frontend: &Frontend) -> Option<Alias> {
        self.shadow.desired().alias(&self.stand_in(frontend).unwrap_or(*frontend))
    }

    /// The frontend whose elements a NodePort has on one of several addresses, if another's stand in.
    pub(crate) fn stand_in(&self, frontend: &Frontend) -> Option<Frontend> {
        let Frontend { address, protocol, port } = *frontend;
        let key = Key::NodePort(Family::of(address), protocol, port);
        let address =
            self.stand_ins.get(&address).filter(|_| self.shadow.desired().elements.contains_key(&key));
        address.map(|address| Frontend { address: *address, protocol, port })
    }

    /// The frontends that this one stands in for.
    fn stands_for(&self, frontend: Frontend) -> impl Iterator<Item = Frontend> {
        let is_its = move |(_, stand_in): &(&IpAddr, &IpAddr)| **stand_in == frontend.address;
        let others = self
            .stand_ins
            .iter()
            .filter(is_its)
            .map(move |(address, _)| Frontend { address: *address, ..frontend });
        others.filter(move |other| self.stand_in(other) == Some(frontend))
    }

    /// Alias and affinity map of a frontend, if its Service has session affinity.
    pub fn affinity_of(&self, frontend: &Frontend) -> Option<(Alias, AffinityMap)> {
        let service = self.service_named(self.service_of(frontend)?)?;
        let (family, pool) = (Family::of(frontend.address), affinity::pool(&service.name.namespace));
        Some((self.alias_of(frontend)?, AffinityMap { family, seconds: service.affinity?, pool }))
    }

    /// The affinity id of an endpoint of a frontend's Service port.
    pub fn affinity_id(&self, frontend: &Frontend, endpoint: Backend) -> Option<u32> {
        let alias = self.alias_of(frontend)?;
        self.elements_of(self.service_of(frontend)?).find_map(|(key, value)| match key {
            Key::AffinityEndpoint(of, _, id) if of == alias => {
                (value == Value::Backend(endpoint)).then_some(id)
            }
            _ => None,
        })
    }

    /// The elements of a Service.
    pub fn elements_of(&self, name: &ServiceName) -> impl Iterator<Item = (Key, Value)> {
        let desired = &self.shadow.desired().elements;
        self.keys(name).iter().filter_map(|key| Some((*key, *desired.get(key)?)))
    }

    /// The namespaces of a pool: one, unless two names have the same hash.
    pub fn namespaces_of(&self, pool: u32) -> BTreeSet<&str> {
        let services = self.all_services().filter(|service| service.affinity.is_some());
        let namespaces = services.map(|service| &*service.name.namespace);
        namespaces.filter(|namespace| affinity::pool(namespace) == pool).collect()
    }

    /// The slices that name a Service, in the order of their names.
    pub(crate) fn slices(&self, service: &ServiceName) -> impl Iterator<Item = &EndpointSlice> {
        self.entries.get(service).into_iter().flat_map(|entry| &entry.slices)
    }

    /// A Service by its name.
    pub(crate) fn service_named(&self, name: &ServiceName) -> Option<&Service> {
        self.entries.get(name)?.service.as_ref()
    }

    /// The keys of a Service's elements.
    pub(crate) fn keys(&self, name: &ServiceName) -> &[Key] {
        self.entries.get(name).map_or(&[], |entry| &entry.keys)
    }

    /// Whether an endpoint on this node is one of some Service's. It may reach itself through that Service, and
    /// its hairpin element counts for every Service with the same endpoint, whatever their own slices say about
    /// the node.
    pub(crate) fn may_reach_itself(&self, endpoint: &Backend, protocol: Protocol) -> bool {
        let has = |slice: &EndpointSlice| slice.endpoints.iter().any(|e| e.address == endpoint.address);
        let entries = self.entries.values().filter(|entry| entry.slices.iter().any(has));
        let family = Family::of(endpoint.address);
        entries.filter_map(|entry| Some((entry.service.as_ref()?, entry))).any(|(service, entry)| {
            let of_family = service.cluster_ips.iter().any(|ip| Family::of(*ip) == family);
            let ports = service.ports.iter().filter(|port| of_family && port.protocol == protocol);
            let mut lists = ports.map(|port| {
                select::select(service, port, family, entry.slices.iter(), &self.node, &self.config)
            });
            lists.any(|lists| lists.here.contains(endpoint))
        })
    }

    /// The claims that wait for a frontend.
    pub(crate) fn waiting(&self, frontend: &Frontend) -> impl Iterator<Item = &Claim> {
        self.claims.waiting(frontend)
    }

    /// Every slice of every Service.
    pub(crate) fn all_slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.entries.values().flat_map(|entry| &entry.slices)
    }

    /// The elements that concern all Services: ranges of pods and of `ClusterIP`s, addresses of NodePorts.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Key> {
        let pods = self.node.pod_cidrs.iter().map(|net| Key::PodCidr(*net));
        let here = self.node.node_pod_cidrs.iter().map(|net| Key::NodePod(*net));
        let addresses = self.stand_ins.keys().map(|address| Key::NodeAddress(*address));
        let stand_ins = stand_in_elements(&self.stand_ins).into_keys();
        let service_cidrs = self.service_cidrs.iter().map(|net| Key::ServiceCidr(*net));
        pods.chain(here).chain(service_cidrs).chain(addresses).chain(stand_ins)
    }

    pub(crate) fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|entry| entry.service.as_ref())
    }

    /// Ranges of `ClusterIP`s.
    pub(crate) fn service_cidrs(&self) -> &[IpNet] {
        &self.service_cidrs
    }
}
