//! What the operator knows of the cluster, kept by watches: Services, Nodes, EndpointSlices, pods and class parameters, all of it trimmed.
//!
//! Owns: [`World`], who is told what when something changes. Leaves to others: watching (`watch`), deciding.
//! Invariant: Nodes and EndpointSlices are held as what load balancers need of them, so that a heartbeat or a
//! changed label that concerns nobody is no change at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use portico_provider::NodeName;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::classes::LoadBalancerClassParameters;
use crate::pods::{self, PodKey, PodState};
use crate::service::{self, ServiceKey};
use crate::table::Table;
use crate::targets::{NodeState, SliceKey, SliceState};

/// The last known state of the cluster.
#[derive(Debug, Default)]
pub(crate) struct World {
    services: RwLock<Table<ServiceKey, Arc<Service>>>,
    nodes: RwLock<Nodes>,
    slices: RwLock<Slices>,
    pods: RwLock<Pods>,
    parameters: RwLock<Parameters>,
    parameters_changed: Notify,
}

/// Nodes, and how often they changed.
#[derive(Debug, Default)]
struct Nodes {
    table: Table<NodeName, NodeState>,
    version: u64,
}

/// Class parameters, and how often they changed.
#[derive(Debug, Default)]
struct Parameters {
    table: Table<String, LoadBalancerClassParameters>,
    version: u64,
    /// The API server does not know the kind: there are none.
    unknown: bool,
}

/// EndpointSlices, and where each is at home, by namespace and name.
#[derive(Debug, Default)]
struct Slices {
    table: Table<SliceKey, SliceState>,
    homes: BTreeMap<(String, String), ServiceKey>,
}

/// Addresses of pods.
#[derive(Debug, Default)]
struct Pods {
    table: Table<PodKey, Box<[IpAddr]>>,
    /// Nothing is decided before they are listed.
    followed: bool,
}

/// What a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// These Services.
    Services(Vec<ServiceKey>),
    /// Every Service with a load balancer: a node came, went, or changed what it is good for.
    Everyone,
}

/// A change as a watch tells it.
#[derive(Clone, Debug)]
pub(crate) enum Change<K> {
    /// Added or modified.
    Put(K),
    /// Deleted.
    Remove(K),
    /// A relist begins.
    Begin,
    /// One object of a relist.
    Stage(K),
    /// A relist is complete.
    Finish,
}

/// A kind of object the world follows.
pub(crate) trait Followed: Sized {
    /// A field selector: objects that it leaves out are as good as gone.
    const FIELDS: Option<&'static str> = None;

    /// Takes a change in; `None`: it concerns nobody.
    fn follow(world: &World, change: Change<Self>) -> Option<Concern>;
    /// Throws away what is never read, before it is stored or compared.
    fn trim(&mut self);
    /// The API server does not know this kind of object.
    fn absent(world: &World) {
        let _ = world;
    }
}

impl World {
    /// One Service.
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        read(&self.services).entries().get(key).cloned()
    }

    /// Takes in the answer to a write, ahead of the watch; one that is gone meanwhile stays gone.
    pub(crate) fn renew(&self, mut service: Service) {
        service.trim();
        let key = ServiceKey::of(&service);
        let mut table = write(&self.services);
        let known = table.entries().get(&key).is_some_and(|known| known.metadata.uid == service.metadata.uid);
        if known {
            table.put(key, Arc::new(service));
        }
    }

    /// Takes over the Services of a newer world.
    pub(crate) fn adopt(&self, newer: &Self) {
        let services = newer.services();
        let mut table = write(&self.services);
        table.begin();
        for service in services {
            table.stage(ServiceKey::of(&service), service);
        }
        table.finish();
    }

    /// Every Service.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        read(&self.services).entries().values().cloned().collect()
    }

    /// Every node, in the order of their names.
    pub(crate) fn nodes(&self) -> Vec<NodeState> {
        read(&self.nodes).table.entries().values().cloned().collect()
    }

    /// Changes whenever [`World::nodes`] does.
    pub(crate) fn nodes_version(&self) -> u64 {
        read(&self.nodes).version
    }

    /// The EndpointSlices of a Service.
    pub(crate) fn slices(&self, service: &ServiceKey) -> Vec<SliceState> {
        let first = SliceKey { service: service.clone(), slice: String::new() };
        let slices = read(&self.slices);
        let of_service = slices.table.entries().range(first..).take_while(|(key, _)| key.service == *service);
        of_service.map(|(_, slice)| slice.clone()).collect()
    }

    /// Whether all lists have arrived; nothing is decided before.
    pub(crate) fn is_synced(&self) -> bool {
        read(&self.services).is_synced()
            && read(&self.nodes).table.is_synced()
            && read(&self.slices).table.is_synced()
            && self.parameters_known()
            && self.pods_known()
    }

    /// Pods are to be known, too, before anything is decided.
    pub(crate) fn follow_pods(&self) {
        write(&self.pods).followed = true;
    }

    fn pods_known(&self) -> bool {
        let Pods { table, followed } = &*read(&self.pods);
        !followed || table.is_synced()
    }

    /// The addresses of a namespace's pods.
    pub(crate) fn pods(&self, namespace: &str) -> BTreeSet<IpAddr> {
        let first = pods::first_key(namespace);
        let pods = read(&self.pods);
        let from = (Bound::Included(first.as_str()), Bound::Unbounded);
        let of_namespace =
            pods.table.entries().range::<str, _>(from).take_while(|(key, _)| key.starts_with(&first));
        of_namespace.flat_map(|(_, addresses)| addresses).copied().collect()
    }

    /// Services with EndpointSlices in a namespace; of those only the ones with an endpoint among `addresses`, where these are known.
    fn services_with(&self, namespace: &str, addresses: Option<&[IpAddr]>) -> BTreeSet<ServiceKey> {
        let service = ServiceKey { namespace: namespace.to_owned(), name: String::new() };
        let slices = read(&self.slices);
        let of_namespace = slices.table.entries().range(SliceKey { service, slice: String::new() }..);
        of_namespace
            .take_while(|(key, _)| key.service.namespace == namespace)
            .filter(|(_, slice)| addresses.is_none_or(|addresses| addresses.iter().any(|it| slice.has(*it))))
            .map(|(key, _)| key.service.clone())
            .collect()
    }

    fn parameters_known(&self) -> bool {
        let Parameters { table, version: _, unknown } = &*read(&self.parameters);
        *unknown || table.is_synced()
    }

    /// Every object of class parameters.
    pub(crate) fn parameters(&self) -> Vec<LoadBalancerClassParameters> {
        read(&self.parameters).table.entries().values().cloned().collect()
    }

    /// Changes whenever the `spec` of one does.
    pub(crate) fn parameters_version(&self) -> u64 {
        read(&self.parameters).version
    }

    /// Resolves when one changes, from now on.
    pub(crate) fn parameters_changed(&self) -> Notified<'_> {
        self.parameters_changed.notified()
    }
}

impl Followed for Service {
    fn follow(world: &World, change: Change<Self>) -> Option<Concern> {
        let mut table = write(&world.services);
        let keys = follow(&mut table, change, |service| Some((ServiceKey::of(&service), Arc::new(service))));
        concern(keys)
    }

    /// Neither labels nor the selector decide anything here: endpoints come from EndpointSlices, which name their Service.
    fn trim(&mut self) {
        self.metadata.managed_fields = None;
        self.metadata.labels = None;
        self.metadata.owner_references = None;
        if let Some(annotations) = &mut self.metadata.annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        if let Some(spec) = &mut self.spec {
            spec.selector = None;
        }
        if let Some(conditions) = self.status.as_mut().and_then(|status| status.conditions.as_mut()) {
            conditions.retain(service::is_ours);
        }
    }
}

impl Followed for Node {
    fn follow(world: &World, change: Change<Self>) -> Option<Concern> {
        let Nodes { table, version } = &mut *write(&world.nodes);
        let keys = follow(table, change, |node| NodeState::of(&node));
        *version += u64::from(!keys.is_empty());
        (!keys.is_empty()).then_some(Concern::Everyone)
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
        if let Some(status) = &mut self.status {
            status.images = None;
        }
    }
}

impl Followed for LoadBalancerClassParameters {
    fn follow(world: &World, change: Change<Self>) -> Option<Concern> {
        let Parameters { table, version, unknown: _ } = &mut *write(&world.parameters);
        let spec = |table: &Table<String, Self>| -> Vec<_> {
            let entries = table.entries().iter();
            entries
                .map(|(name, it)| (name.clone(), it.spec.clone(), it.metadata.creation_timestamp.clone()))
                .collect()
        };
        let before = spec(table);
        let was_synced = table.is_synced();
        let keys = follow(table, change, |object| Some((object.metadata.name.clone()?, object)));
        if keys.is_empty() && was_synced == table.is_synced() {
            return None;
        }
        world.parameters_changed.notify_waiters();
        // A status is ours to write and nobody's to read.
        if before == spec(table) {
            return None;
        }
        *version += 1;
        Some(Concern::Everyone)
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
    }

    fn absent(world: &World) {
        write(&world.parameters).unknown = true;
    }
}

impl Followed for EndpointSlice {
    fn follow(world: &World, change: Change<Self>) -> Option<Concern> {
        let Slices { table, homes } = &mut *write(&world.slices);
        // A slice that was relabelled to another Service leaves the first one.
        let left = match &change {
            Change::Put(slice) => SliceState::of(slice).and_then(|(key, _)| {
                let home =
                    homes.insert((key.service.namespace.clone(), key.slice.clone()), key.service.clone());
                home.filter(|old| *old != key.service).map(|service| SliceKey { service, slice: key.slice })
            }),
            _ => None,
        };
        let mut touched: Vec<SliceKey> = left.into_iter().filter(|key| table.remove(key)).collect();
        let relisted = matches!(change, Change::Finish);
        touched.extend(follow(table, change, |slice| SliceState::of(&slice)));
        if relisted {
            let home =
                |key: &SliceKey| ((key.service.namespace.clone(), key.slice.clone()), key.service.clone());
            *homes = table.entries().keys().map(home).collect();
        }
        let services: BTreeSet<ServiceKey> = touched.into_iter().map(|key| key.service).collect();
        concern(services.into_iter().collect())
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
    }
}

impl Followed for PodState {
    const FIELDS: Option<&'static str> = Some(pods::ALIVE);

    /// A change concerns the Services that name the pod's address already: those that will are brought by their EndpointSlices.
    fn follow(world: &World, change: Change<Self>) -> Option<Concern> {
        let relisted = matches!(change, Change::Finish);
        let table = &mut write(&world.pods).table;
        let named = match &change {
            Change::Put(pod) | Change::Remove(pod) => pod.clone().entry(),
            Change::Begin | Change::Stage(_) | Change::Finish => None,
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        if let Some((key, new)) = &named {
            addresses.extend(table.entries().get(key).iter().flat_map(|old| old.iter()).chain(new));
        }
        let keys = follow(table, change, PodState::entry);
        let namespaces: BTreeSet<&str> = keys.iter().filter_map(|key| Some(key.split_once('/')?.0)).collect();
        let addresses = (!relisted).then_some(addresses.as_slice());
        let services: BTreeSet<ServiceKey> =
            namespaces.into_iter().flat_map(|namespace| world.services_with(namespace, addresses)).collect();
        concern(services.into_iter().collect())
    }

    fn trim(&mut self) {}
}

fn concern(keys: Vec<ServiceKey>) -> Option<Concern> {
    (!keys.is_empty()).then_some(Concern::Services(keys))
}

/// One change into one table; `keyed` answers `None` for an object that is not worth keeping.
fn follow<O, K: Ord + Clone, V: PartialEq>(
    table: &mut Table<K, V>,
    change: Change<O>,
    keyed: impl Fn(O) -> Option<(K, V)>,
) -> Vec<K> {
    match change {
        Change::Put(object) => keyed(object)
            .and_then(|(key, value)| table.put(key.clone(), value).then_some(key))
            .into_iter()
            .collect(),
        Change::Remove(object) => {
            keyed(object).and_then(|(key, _)| table.remove(&key).then_some(key)).into_iter().collect()
        }
        Change::Begin => {
            table.begin();
            Vec::new()
        }
        Change::Stage(object) => {
            if let Some((key, value)) = keyed(object) {
                table.stage(key, value);
            }
            Vec::new()
        }
        Change::Finish => table.finish(),
    }
}

/// A poisoned lock means a panic while a map was being changed; the maps stay whole, so reading goes on.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
