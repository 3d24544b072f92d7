//! A cluster in memory: Services with versions and finalizers, watched by the cache.
//!
//! Owns: the fake API server's rules that matter here: conflicts, deletion under finalizers, status by field owner.
//! Leaves to others: everything else about an API server, and what befalls a watch (`watch_faults`).
//! Invariant: every change reaches the cache and the queue, as a watch brings it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service, ServiceStatus};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, FieldsV1, ManagedFieldsEntry, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::cache::class_parameters::{LoadBalancerClassParameters, ParametersCondition, ParametersStatus};
use crate::cache::pods::PodState;
use crate::cache::service::{self, FINALIZER, HELD_BY, ServiceKey, ServiceType};
use crate::cache::store::{Cache, Change, Followed};
use crate::cache::watch::Router;
use crate::reconcile::api::{Cluster, ClusterError};
use crate::reconcile::events::Notice;
use crate::reconcile::queue::Queue;
use crate::reconcile::status::{Basis, StatusPatch};

use super::watch_faults::{Delivery, WatchFaults};

/// A handle; clones share the cluster.
#[derive(Clone)]
pub(crate) struct FakeCluster {
    state: Arc<Mutex<ClusterState>>,
}

pub(crate) struct ClusterState {
    me: Weak<Mutex<ClusterState>>,
    watch_faults: WatchFaults,
    pub(crate) services: BTreeMap<ServiceKey, Service>,
    nodes: BTreeMap<String, Node>,
    slices: BTreeMap<String, EndpointSlice>,
    pub(crate) events: Vec<(String, Notice)>,
    pub(crate) writes: u32,
    /// The next writes fail.
    pub(crate) failing: u32,
    version: u64,
    pub(crate) parameters: BTreeMap<String, LoadBalancerClassParameters>,
    watcher: Option<Router>,
}

/// A kind of object that the fake keeps.
trait Kept: Followed + Clone + Send + 'static {
    const KIND: &'static str;

    fn all(state: &ClusterState) -> Vec<Self>;
}

impl Kept for Service {
    const KIND: &'static str = "Service";

    fn all(state: &ClusterState) -> Vec<Self> {
        state.services.values().cloned().collect()
    }
}

impl Kept for Node {
    const KIND: &'static str = "Node";

    fn all(state: &ClusterState) -> Vec<Self> {
        state.nodes.values().cloned().collect()
    }
}

impl Kept for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";

    fn all(state: &ClusterState) -> Vec<Self> {
        state.slices.values().cloned().collect()
    }
}

impl Kept for LoadBalancerClassParameters {
    const KIND: &'static str = "LoadBalancerClassParameters";

    fn all(state: &ClusterState) -> Vec<Self> {
        state.parameters.values().cloned().collect()
    }
}

impl FakeCluster {
    /// An empty one, whose watches have these faults.
    pub(crate) fn new(watch_faults: WatchFaults) -> Self {
        let state = Arc::new_cyclic(|me| {
            Mutex::new(ClusterState {
                me: me.clone(),
                watch_faults,
                services: BTreeMap::new(),
                nodes: BTreeMap::new(),
                slices: BTreeMap::new(),
                events: Vec::new(),
                writes: 0,
                failing: 0,
                version: 0,
                parameters: BTreeMap::new(),
                watcher: None,
            })
        });
        Self { state }
    }

    /// Looks at or changes the fake itself.
    pub(crate) fn with<T>(&self, with: impl FnOnce(&mut ClusterState) -> T) -> T {
        with(&mut self.state.lock().unwrap())
    }

    /// A cache that follows this cluster from now on.
    pub(crate) fn watch(&self) -> (Arc<Cache>, Arc<Queue>, Router) {
        let (cache, queue) = (Arc::new(Cache::default()), Arc::new(Queue::default()));
        let router = Router::new(Arc::clone(&cache), Arc::clone(&queue));
        self.with(|state| {
            state.list::<Node>(&router);
            state.list::<EndpointSlice>(&router);
            router.take(Change::<PodState>::Finish, Duration::ZERO);
            state.list::<LoadBalancerClassParameters>(&router);
            state.list::<Service>(&router);
            state.watch_faults.restart();
            state.watcher = Some(router.clone());
        });
        (cache, queue, router)
    }

    /// A user's apply: metadata and spec, never status, finalizers or the UID of what exists.
    pub(crate) fn apply(&self, mut service: Service) {
        self.with(|state| {
            if let Some(old) = state.services.get(&ServiceKey::of(&service)) {
                service.metadata.finalizers.clone_from(&old.metadata.finalizers);
                service.metadata.managed_fields.clone_from(&old.metadata.managed_fields);
                service.metadata.uid.clone_from(&old.metadata.uid);
                if let Some(class) = old.metadata.annotations.as_ref().and_then(|all| all.get(HELD_BY)) {
                    let annotations = service.metadata.annotations.get_or_insert_default();
                    annotations.insert(HELD_BY.to_owned(), class.clone());
                }
                // Neither of them is among what the user wrote.
                for (key, name) in old.metadata.annotations.iter().flatten() {
                    if key.starts_with("cloud.test/") {
                        let annotations = service.metadata.annotations.get_or_insert_default();
                        annotations.insert(key.clone(), name.clone());
                    }
                }
                service.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
                service.status.clone_from(&old.status);
                if let Some(status) = service.status.as_mut()
                    && service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() != Some("LoadBalancer"))
                {
                    status.load_balancer = None;
                }
            }
            state.store(service);
        });
    }

    /// `kubectl annotate --overwrite`, or with a '-'.
    pub(crate) fn annotate_by_hand(&self, name: &str, key: &str, value: Option<&str>) {
        self.with(|state| {
            let mut service = state.services[&self::key(name)].clone();
            let annotations = service.metadata.annotations.get_or_insert_default();
            match value {
                Some(value) => drop(annotations.insert(key.to_owned(), value.to_owned())),
                None => drop(annotations.remove(key)),
            }
            // It is the user's now.
            disown(&mut service, "f:annotations", &format!("f:{key}"));
            state.store(service);
        });
    }

    /// A user's delete; a finalizer keeps the object.
    pub(crate) fn delete(&self, name: &str) {
        self.with(|state| {
            let Some(mut service) = state.services.get(&key(name)).cloned() else { return };
            service.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            state.store(service);
        });
    }

    /// Deleted by force: finalizers are stripped.
    pub(crate) fn delete_by_force(&self, name: &str) {
        self.with(|state| {
            let Some(mut service) = state.services.get(&key(name)).cloned() else { return };
            service.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            service.metadata.finalizers = None;
            state.store(service);
        });
    }

    /// As its kubelet, or whoever made it, has it.
    pub(crate) fn put_node(&self, mut node: Node) {
        self.with(|state| {
            let name = node.metadata.name.clone().unwrap_or_default();
            node.metadata.resource_version = Some(state.next_version());
            state.nodes.insert(name.clone(), node.clone());
            state.send(&name, &Change::Put(node));
        });
    }

    pub(crate) fn remove_node(&self, name: &str) {
        self.with(|state| {
            let Some(mut node) = state.nodes.remove(name) else { return };
            node.metadata.resource_version = Some(state.next_version());
            state.send(name, &Change::Remove(node));
        });
    }

    /// As its controller, or whoever may write it, has it.
    pub(crate) fn put_slice(&self, mut slice: EndpointSlice) {
        self.with(|state| {
            let name = slice.metadata.name.clone().unwrap_or_default();
            slice.metadata.resource_version = Some(state.next_version());
            state.slices.insert(name.clone(), slice.clone());
            state.send(&name, &Change::Put(slice));
        });
    }

    pub(crate) fn remove_slice(&self, name: &str) {
        self.with(|state| {
            let Some(mut slice) = state.slices.remove(name) else { return };
            slice.metadata.resource_version = Some(state.next_version());
            state.send(name, &Change::Remove(slice));
        });
    }

    pub(crate) fn get(&self, name: &str) -> Option<Service> {
        self.with(|state| state.services.get(&key(name)).cloned())
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".to_owned(), name: name.to_owned() }
}

/// As `metadata.managedFields` records it.
pub(crate) fn own(service: &mut Service, class: &str, list: &str, field: &str) {
    let fields = json!({ "f:metadata": { list: { field: {} } } });
    let entry = ManagedFieldsEntry {
        manager: Some(service::manager(class)),
        fields_v1: Some(FieldsV1(fields)),
        ..ManagedFieldsEntry::default()
    };
    service.metadata.managed_fields.get_or_insert_default().push(entry);
}

fn disown(service: &mut Service, list: &str, field: &str) {
    let entries = service.metadata.managed_fields.get_or_insert_default();
    let is_of = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0["f:metadata"][list][field]);
        fields.is_some_and(|field| !field.is_null())
    };
    entries.retain(|entry| !is_of(entry));
}

fn refused(operation: &'static str) -> ClusterError {
    ClusterError::Failed { operation, source: Box::new(kube::Error::LinesCodecMaxLineLengthExceeded) }
}

impl ClusterState {
    /// A user's apply, or a write of its status.
    pub(crate) fn put_parameters(&mut self, object: &LoadBalancerClassParameters) {
        let (name, mut object) = (object.metadata.name.clone().unwrap(), object.clone());
        object.metadata.resource_version = Some(self.next_version());
        self.parameters.insert(name.clone(), object.clone());
        self.send(&name, &Change::Put(object));
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// All objects of a kind, as a watch begins.
    fn list<K: Kept>(&self, router: &Router) {
        router.take(Change::<K>::Begin, Duration::ZERO);
        for object in K::all(self) {
            router.take(Change::Stage(object).trimmed(), Duration::ZERO);
        }
        router.take(Change::<K>::Finish, Duration::ZERO);
    }

    /// Delivers an event of an object to the watcher, with faults.
    fn send<K: Kept>(&mut self, object: &str, change: &Change<K>) {
        let Some(router) = self.watcher.clone() else { return };
        let now = Instant::now();
        for delivery in self.watch_faults.deliveries(K::KIND, object, now) {
            let (router, change, me) = (router.clone(), change.clone().trimmed(), self.me.clone());
            match delivery {
                Delivery::Now => router.take(change, Duration::ZERO),
                Delivery::At(due) => drop(tokio::spawn(async move {
                    sleep_until(due).await;
                    let Some(state) = me.upgrade() else { return };
                    if !state.lock().unwrap().watch_faults.is_cut(K::KIND, now, due) {
                        router.take(change, Duration::ZERO);
                    }
                })),
                Delivery::Relist(read, shown) => drop(tokio::spawn(async move {
                    sleep_until(read).await;
                    let Some(state) = me.upgrade() else { return };
                    let all = K::all(&state.lock().unwrap());
                    router.take(Change::<K>::Begin, Duration::ZERO);
                    for object in all {
                        router.take(Change::Stage(object).trimmed(), Duration::ZERO);
                    }
                    sleep_until(shown).await;
                    router.take(Change::<K>::Finish, Duration::ZERO);
                })),
            }
        }
    }

    /// As if another controller had written it.
    pub(crate) fn put(&mut self, service: Service) {
        self.store(service);
    }

    fn store(&mut self, mut service: Service) {
        let key = ServiceKey::of(&service);
        let unchanged = self.services.get(&key).is_some_and(|old| *old == service);
        if unchanged {
            return;
        }
        service.metadata.resource_version = Some(self.next_version());
        let held = service.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        let gone = service.metadata.deletion_timestamp.is_some() && !held;
        if gone {
            self.services.remove(&key);
        } else {
            self.services.insert(key.clone(), service.clone());
        }
        let change = if gone { Change::Remove(service) } else { Change::Put(service) };
        self.send(&key.to_string(), &change);
    }

    /// The answer to a write.
    fn answer(&self, service: Service) -> Service {
        self.services.get(&ServiceKey::of(&service)).cloned().unwrap_or(service)
    }

    fn fails(&mut self, operation: &'static str) -> Result<(), ClusterError> {
        self.writes += 1;
        let fails = self.failing > 0;
        self.failing = self.failing.saturating_sub(1);
        if fails { Err(refused(operation)) } else { Ok(()) }
    }

    fn written(&mut self, operation: &'static str, seen: &Service) -> Result<Service, ClusterError> {
        self.fails(operation)?;
        let found =
            self.services.get(&ServiceKey::of(seen)).cloned().ok_or(ClusterError::Gone { operation })?;
        let same = found.metadata.uid == seen.metadata.uid;
        if same { Ok(found) } else { Err(ClusterError::Conflict { operation }) }
    }
}

impl Cluster for FakeCluster {
    async fn set_finalizer(&self, seen: &Service, class: Option<&str>) -> Result<Service, ClusterError> {
        let operation = "finalizer";
        self.with(|state| {
            let mut service = state.written(operation, seen)?;
            if service.metadata.resource_version != seen.metadata.resource_version {
                return Err(ClusterError::Conflict { operation });
            }
            let was_held = service::has_finalizer(&service);
            let finalizers = service.metadata.finalizers.get_or_insert_default();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            let annotations = service.metadata.annotations.get_or_insert_default();
            let said = annotations.remove(HELD_BY);
            if let Some(class) = class {
                finalizers.push(FINALIZER.to_owned());
                annotations.insert(HELD_BY.to_owned(), class.to_owned());
            }
            // Who writes what is there already becomes no owner of it.
            let (list, held) = ("f:finalizers", format!("v:\"{FINALIZER}\""));
            if class.is_none() || !was_held {
                disown(&mut service, list, &held);
                if let Some(class) = class {
                    own(&mut service, class, list, &held);
                }
            }
            let (list, held) = ("f:annotations", format!("f:{HELD_BY}"));
            if said.as_deref() != class {
                disown(&mut service, list, &held);
                if let Some(class) = class {
                    own(&mut service, class, list, &held);
                }
            }
            state.store(service.clone());
            Ok(state.answer(service))
        })
    }

    async fn apply_status(
        &self,
        seen: &Service,
        status: &StatusPatch,
        basis: Basis,
    ) -> Result<Service, ClusterError> {
        let StatusPatch { ingress, conditions } = status.clone();
        let operation = "status";
        self.with(|state| {
            let mut service = state.written(operation, seen)?;
            let changed = service.metadata.resource_version != seen.metadata.resource_version;
            if changed && basis == Basis::Seen {
                return Err(ClusterError::Conflict { operation });
            }
            let is_load_balancer = ServiceType::of(&service) == ServiceType::LoadBalancer;
            if !ingress.is_empty() && !is_load_balancer {
                assert!(changed, "the API server refuses ingress on other types");
                return Err(refused(operation));
            }
            let load_balancer = LoadBalancerStatus { ingress: (!ingress.is_empty()).then_some(ingress) };
            let all = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let others = all.filter(|condition| condition.type_ == service::RELEASED).cloned();
            let conditions = conditions.into_iter().chain(others).collect();
            service.status =
                Some(ServiceStatus { conditions: Some(conditions), load_balancer: Some(load_balancer) });
            state.store(service.clone());
            Ok(state.answer(service))
        })
    }

    async fn annotate(
        &self,
        seen: &Service,
        annotations: &BTreeMap<&'static str, Option<String>>,
    ) -> Result<Service, ClusterError> {
        self.with(|state| {
            let mut service = state.written("annotate", seen)?;
            let all = service.metadata.annotations.get_or_insert_default();
            for (key, name) in annotations {
                match name {
                    Some(name) => drop(all.insert((*key).to_owned(), name.clone())),
                    None => drop(all.remove(*key)),
                }
            }
            state.store(service.clone());
            Ok(state.answer(service))
        })
    }

    async fn mark_waiting(
        &self,
        seen: &Service,
        condition: Option<&Condition>,
    ) -> Result<Service, ClusterError> {
        self.with(|state| {
            let mut service = state.written("waiting", seen)?;
            let conditions = service.status.get_or_insert_default().conditions.get_or_insert_default();
            conditions.retain(|condition| condition.type_ != service::RELEASED);
            conditions.extend(condition.cloned());
            state.store(service.clone());
            Ok(state.answer(service))
        })
    }

    async fn service(&self, key: &ServiceKey) -> Result<Option<Service>, ClusterError> {
        Ok(self.with(|state| state.services.get(key).cloned()))
    }

    async fn report_parameters(
        &self,
        seen: &LoadBalancerClassParameters,
        condition: &ParametersCondition,
    ) -> Result<(), ClusterError> {
        self.with(|state| {
            state.fails("class parameters")?;
            let mut object = seen.clone();
            object.status = Some(ParametersStatus { conditions: vec![condition.clone()] });
            state.put_parameters(&object);
            Ok(())
        })
    }

    fn report_event(&self, about: &Service, notice: Notice) {
        self.with(|state| state.events.push((about.metadata.name.clone().unwrap_or_default(), notice)));
    }
}
