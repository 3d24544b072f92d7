//! What the operator knows of the cluster, kept by watches: Services, Nodes, EndpointSlices, all of it trimmed.
//!
//! Owns: [`World`], who is told what when something changes. Leaves to others: watching (`watch`), deciding.
//! Invariant: Nodes and EndpointSlices are held as what load balancers need of them, so that a heartbeat or a
//! changed label that concerns nobody is no change at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use portico_provider::NodeName;

use crate::service::ServiceKey;
use crate::table::Table;
use crate::targets::{NodeState, SliceKey, SliceState};

/// The last known state of the cluster.
#[derive(Debug, Default)]
pub(crate) struct World {
    services: RwLock<Table<ServiceKey, Arc<Service>>>,
    nodes: RwLock<Table<NodeName, NodeState>>,
    slices: RwLock<Slices>,
}

/// EndpointSlices, and where each is at home, by namespace and name.
#[derive(Debug, Default)]
struct Slices {
    table: Table<SliceKey, SliceState>,
    homes: BTreeMap<(String, String), ServiceKey>,
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
    /// Takes a change in; `None`: it concerns nobody.
    fn follow(world: &World, change: Change<Self>) -> Option<Concern>;
    /// Throws away what is never read, before it is stored or compared.
    fn trim(&mut self);
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

    /// Every Service.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        read(&self.services).entries().values().cloned().collect()
    }

    /// Every node, in the order of their names.
    pub(crate) fn nodes(&self) -> Vec<NodeState> {
        read(&self.nodes).entries().values().cloned().collect()
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
            && read(&self.nodes).is_synced()
            && read(&self.slices).table.is_synced()
    }
}

impl Followed for Service {
    fn follow(world: &World, change: Change<Self>) -> Option<Concern> {
        let mut table = write(&world.services);
        let keys = follow(&mut table, change, |service| Some((ServiceKey::of(&service), Arc::new(service))));
        concern(keys)
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
        if let Some(annotations) = &mut self.metadata.annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
}

impl Followed for Node {
    fn follow(world: &World, change: Change<Self>) -> Option<Concern> {
        let keys = follow(&mut write(&world.nodes), change, |node| NodeState::of(&node));
        (!keys.is_empty()).then_some(Concern::Everyone)
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
        if let Some(status) = &mut self.status {
            status.images = None;
        }
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
