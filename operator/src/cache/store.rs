//! The informers' store: Services, Nodes, EndpointSlices, pods and class parameters, all of it trimmed.
//!
//! Owns: [`Cache`], and the Services that a change concerns. Leaves to others: watching (`watch`), deciding.
//! Invariant: Nodes and EndpointSlices are held as what load balancers need of them, so that a heartbeat or a
//! changed label that concerns nobody is no change at all.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use portico_provider::NodeName;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::cache::class_parameters::LoadBalancerClassParameters;
use crate::cache::pods::{self, PodKey, PodState};
use crate::cache::service::{self, ServiceKey};
use crate::cache::table::{Changed, Received, Table};
use crate::cache::targets::{NodeState, SliceId, SliceKey, SliceState};
use crate::cache::version::ResourceVersion;

/// The last known state of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Cache {
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

/// EndpointSlices, each with the name of its Service, and an index of the same by Service.
#[derive(Debug, Default)]
struct Slices {
    table: Table<SliceId, (String, SliceState)>,
    by_service: BTreeSet<SliceKey>,
}

/// Addresses of pods.
#[derive(Debug, Default)]
struct Pods {
    table: Table<PodKey, Box<[IpAddr]>>,
    /// Nothing is decided before they are listed.
    followed: bool,
}

/// The Services that a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    Services(Vec<ServiceKey>),
    /// Every Service with a load balancer: a node came, left, or changed its eligibility.
    AllServices,
}

/// A change as a watch reports it.
#[derive(Clone, Debug)]
pub(crate) enum Change<K> {
    /// Added or modified.
    Put(K),
    Remove(K),
    /// A relist begins.
    Begin,
    /// One object of a relist.
    Stage(K),
    /// A relist is complete.
    Finish,
}

impl<K: Followed> Change<K> {
    /// Without what is never read.
    pub(crate) fn trimmed(mut self) -> Self {
        match &mut self {
            Self::Put(object) | Self::Remove(object) | Self::Stage(object) => object.trim(),
            Self::Begin | Self::Finish => {}
        }
        self
    }
}

/// A kind of object the cache follows.
pub(crate) trait Followed: Sized {
    /// A field selector: objects that it leaves out are as good as gone.
    const FIELDS: Option<&'static str> = None;

    /// Takes a change in; `None`: it concerns nobody.
    fn follow(cache: &Cache, change: Change<Self>) -> Option<Concern>;
    /// Throws away what is never read, before it is stored or compared.
    fn trim(&mut self);
    /// The API server does not know this kind of object.
    fn absent(cache: &Cache) {
        let _ = cache;
    }
}

impl Cache {
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        read(&self.services).get(key).cloned()
    }

    /// Takes in the answer to a write, ahead of the watch; one that is gone or newer meanwhile stays so.
    pub(crate) fn renew(&self, mut service: Service) {
        service.trim();
        let key = ServiceKey::of(&service);
        let mut table = write(&self.services);
        let known = table.get(&key).is_some_and(|known| known.metadata.uid == service.metadata.uid);
        if known {
            table.answered(&key, ResourceVersion::of(&service.metadata), Arc::new(service));
        }
    }

    /// Takes over the Services of a newer cache.
    pub(crate) fn adopt(&self, newer: &Self) {
        let services = newer.services();
        let mut table = write(&self.services);
        table.begin();
        for service in services {
            table.stage(received(service));
        }
        table.finish();
    }

    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        read(&self.services).iter().map(|(_, service)| Arc::clone(service)).collect()
    }

    /// Every node, in the order of their names.
    pub(crate) fn nodes(&self) -> Vec<NodeState> {
        read(&self.nodes).table.iter().map(|(_, node)| node.clone()).collect()
    }

    /// Changes whenever [`Cache::nodes`] does.
    pub(crate) fn nodes_version(&self) -> u64 {
        read(&self.nodes).version
    }

    /// The EndpointSlices of a Service.
    pub(crate) fn slices(&self, service: &ServiceKey) -> Vec<SliceState> {
        let first = SliceKey { service: service.clone(), slice: String::new() };
        let slices = read(&self.slices);
        let keys = slices.by_service.range(first..).take_while(|key| key.service == *service);
        keys.filter_map(|key| slices.table.get(&key.id())).map(|(_, slice)| slice.clone()).collect()
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
        let of_namespace = pods.table.range(first.as_str()).take_while(|(key, _)| key.starts_with(&first));
        of_namespace.flat_map(|(_, addresses)| addresses).copied().collect()
    }

    /// Services with EndpointSlices in a namespace; of those only the ones with an endpoint among `addresses`, where these are known.
    fn services_with(&self, namespace: &str, addresses: Option<&[IpAddr]>) -> BTreeSet<ServiceKey> {
        let service = ServiceKey { namespace: namespace.to_owned(), name: String::new() };
        let slices = read(&self.slices);
        let of_namespace = slices.by_service.range(SliceKey { service, slice: String::new() }..);
        let has_any = |key: &SliceKey, addresses: &[IpAddr]| {
            let slice = slices.table.get(&key.id());
            slice.is_some_and(|(_, slice)| addresses.iter().any(|it| slice.has(*it)))
        };
        of_namespace
            .take_while(|key| key.service.namespace == namespace)
            .filter(|key| addresses.is_none_or(|addresses| has_any(key, addresses)))
            .map(|key| key.service.clone())
            .collect()
    }

    fn parameters_known(&self) -> bool {
        let Parameters { table, version: _, unknown } = &*read(&self.parameters);
        *unknown || table.is_synced()
    }

    /// Every object of class parameters.
    pub(crate) fn parameters(&self) -> Vec<LoadBalancerClassParameters> {
        read(&self.parameters).table.iter().map(|(_, object)| object.clone()).collect()
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
    fn follow(cache: &Cache, change: Change<Self>) -> Option<Concern> {
        let mut table = write(&cache.services);
        let changed = follow(&mut table, change, |service| Some(received(Arc::new(service))));
        concern(changed.into_iter().map(|it| it.key).collect())
    }

    /// Neither labels nor the selector decide anything here: endpoints come from EndpointSlices, which name their Service.
    fn trim(&mut self) {
        if let Some(entries) = &mut self.metadata.managed_fields {
            entries.retain(service::is_record);
        }
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
    fn follow(cache: &Cache, change: Change<Self>) -> Option<Concern> {
        let Nodes { table, version } = &mut *write(&cache.nodes);
        let changed = follow(table, change, |node| {
            let (key, state) = NodeState::of(&node)?;
            Some(Received { key, version: ResourceVersion::of(&node.metadata), value: Some(state) })
        });
        *version += u64::from(!changed.is_empty());
        (!changed.is_empty()).then_some(Concern::AllServices)
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
        if let Some(status) = &mut self.status {
            status.images = None;
        }
    }
}

impl Followed for LoadBalancerClassParameters {
    fn follow(cache: &Cache, change: Change<Self>) -> Option<Concern> {
        let Parameters { table, version, unknown: _ } = &mut *write(&cache.parameters);
        let spec = |table: &Table<String, Self>| -> Vec<_> {
            table
                .iter()
                .map(|(name, it)| (name.clone(), it.spec.clone(), it.metadata.creation_timestamp.clone()))
                .collect()
        };
        let before = spec(table);
        let was_synced = table.is_synced();
        let changed = follow(table, change, |object| {
            let (key, version) = (object.metadata.name.clone()?, ResourceVersion::of(&object.metadata));
            Some(Received { key, version, value: Some(object) })
        });
        if changed.is_empty() && was_synced == table.is_synced() {
            return None;
        }
        cache.parameters_changed.notify_waiters();
        // A status is ours to write and nobody's to read.
        if before == spec(table) {
            return None;
        }
        *version += 1;
        Some(Concern::AllServices)
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
    }

    fn absent(cache: &Cache) {
        write(&cache.parameters).unknown = true;
    }
}

impl Followed for EndpointSlice {
    fn follow(cache: &Cache, change: Change<Self>) -> Option<Concern> {
        let Slices { table, by_service } = &mut *write(&cache.slices);
        let changed = follow(table, change, |slice| {
            let key = SliceId::of(&slice)?;
            Some(Received {
                key,
                version: ResourceVersion::of(&slice.metadata),
                value: SliceState::of(&slice),
            })
        });
        // A slice that was relabelled leaves one Service and comes to another: both are concerned.
        let mut concerned = BTreeSet::new();
        for Changed { key, before } in changed {
            if let Some((service, _)) = before {
                let left = key.of_service(service);
                by_service.remove(&left);
                concerned.insert(left.service);
            }
            if let Some((service, _)) = table.get(&key) {
                let come_to = key.of_service(service.clone());
                concerned.insert(come_to.service.clone());
                by_service.insert(come_to);
            }
        }
        concern(concerned.into_iter().collect())
    }

    fn trim(&mut self) {
        self.metadata.managed_fields = None;
    }
}

impl Followed for PodState {
    const FIELDS: Option<&'static str> = Some(pods::ALIVE);

    /// A change concerns the Services that name the pod's address already: those that will are brought by their EndpointSlices.
    fn follow(cache: &Cache, change: Change<Self>) -> Option<Concern> {
        let relisted = matches!(change, Change::Finish);
        let table = &mut write(&cache.pods).table;
        let changed = follow(table, change, |pod: Self| {
            let version = ResourceVersion::of(pod.meta());
            let (key, value) = pod.entry()?;
            Some(Received { key, version, value: Some(value) })
        });
        let old = changed.iter().filter_map(|it| it.before.as_ref());
        let new = changed.iter().filter_map(|it| table.get(&it.key));
        let addresses: Vec<IpAddr> = old.chain(new).flatten().copied().collect();
        let namespaces: BTreeSet<&str> =
            changed.iter().filter_map(|it| Some(it.key.split_once('/')?.0)).collect();
        let addresses = (!relisted).then_some(addresses.as_slice());
        let services: BTreeSet<ServiceKey> =
            namespaces.into_iter().flat_map(|namespace| cache.services_with(namespace, addresses)).collect();
        concern(services.into_iter().collect())
    }

    fn trim(&mut self) {}
}

fn concern(keys: Vec<ServiceKey>) -> Option<Concern> {
    (!keys.is_empty()).then_some(Concern::Services(keys))
}

fn received(service: Arc<Service>) -> Received<ServiceKey, Arc<Service>> {
    let version = ResourceVersion::of(&service.metadata);
    Received { key: ServiceKey::of(&service), version, value: Some(service) }
}

/// One change into one table; `read` answers `None` for an object that no API server sends.
fn follow<O, K: Ord + Clone, V: PartialEq + Clone>(
    table: &mut Table<K, V>,
    change: Change<O>,
    read: impl Fn(O) -> Option<Received<K, V>>,
) -> Vec<Changed<K, V>> {
    match change {
        Change::Put(object) => read(object).and_then(|received| table.put(received)).into_iter().collect(),
        Change::Remove(object) => {
            let removed = read(object).and_then(|received| table.remove(received.key, received.version));
            removed.into_iter().collect()
        }
        Change::Begin => {
            table.begin();
            Vec::new()
        }
        Change::Stage(object) => {
            if let Some(received) = read(object) {
                table.stage(received);
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
