//! A cluster in memory: Services with versions and finalizers, watched by the world.
//!
//! Owns: the fake API server's rules that matter here: conflicts, deletion under finalizers, status by field owner.
//! Leaves to others: everything else about an API server.
//! Invariant: every change reaches the world and the queue, as a watch brings it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service, ServiceStatus};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::classes::{LoadBalancerClassParameters, ParametersCondition, ParametersStatus};
use crate::cluster::{Cluster, ClusterError};
use crate::events::Notice;
use crate::pods::PodState;
use crate::queue::Queue;
use crate::service::{FINALIZER, HELD_BY, ServiceKey, ServiceType};
use crate::status::StatusPatch;
use crate::watch::Router;
use crate::world::{Change, World};

/// A handle; clones share the cluster.
#[derive(Clone, Default)]
pub(crate) struct FakeCluster {
    state: Arc<Mutex<ClusterState>>,
}

#[derive(Default)]
pub(crate) struct ClusterState {
    pub(crate) services: BTreeMap<ServiceKey, Service>,
    pub(crate) events: Vec<(String, Notice)>,
    pub(crate) writes: u32,
    /// The next writes fail.
    pub(crate) failing: u32,
    version: u64,
    pub(crate) parameters: BTreeMap<String, LoadBalancerClassParameters>,
    watchers: Vec<Router>,
}

impl FakeCluster {
    /// Looks at or changes the fake itself.
    pub(crate) fn with<T>(&self, with: impl FnOnce(&mut ClusterState) -> T) -> T {
        with(&mut self.state.lock().unwrap())
    }

    /// A world that follows this cluster from now on.
    pub(crate) fn watch(&self) -> (Arc<World>, Arc<Queue>, Router) {
        let (world, queue) = (Arc::new(World::default()), Arc::new(Queue::default()));
        let router = Router::new(Arc::clone(&world), Arc::clone(&queue));
        self.with(|state| {
            router.take(Change::<Node>::Finish, Duration::ZERO);
            router.take(Change::<EndpointSlice>::Finish, Duration::ZERO);
            router.take(Change::<PodState>::Finish, Duration::ZERO);
            for object in state.parameters.values() {
                router.take(Change::Stage(object.clone()), Duration::ZERO);
            }
            router.take(Change::<LoadBalancerClassParameters>::Finish, Duration::ZERO);
            for service in state.services.values() {
                router.take(Change::Stage(service.clone()), Duration::ZERO);
            }
            router.take(Change::<Service>::Finish, Duration::ZERO);
            state.watchers = vec![router.clone()];
        });
        (world, queue, router)
    }

    /// What a user applies: metadata and spec, never status, finalizers or the UID of what exists.
    pub(crate) fn apply(&self, mut service: Service) {
        self.with(|state| {
            if let Some(old) = state.services.get(&ServiceKey::of(&service)) {
                service.metadata.finalizers.clone_from(&old.metadata.finalizers);
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

    /// What a user deletes; a finalizer keeps it.
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

    pub(crate) fn get(&self, name: &str) -> Option<Service> {
        self.with(|state| state.services.get(&key(name)).cloned())
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".to_owned(), name: name.to_owned() }
}

impl ClusterState {
    /// What a user applies, or what is written as its status.
    pub(crate) fn put_parameters(&mut self, object: &LoadBalancerClassParameters) {
        self.parameters.insert(object.metadata.name.clone().unwrap(), object.clone());
        for watcher in &self.watchers {
            watcher.take(Change::Put(object.clone()), Duration::ZERO);
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
        self.version += 1;
        service.metadata.resource_version = Some(self.version.to_string());
        let held = service.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        let gone = service.metadata.deletion_timestamp.is_some() && !held;
        if gone {
            self.services.remove(&key);
        } else {
            self.services.insert(key, service.clone());
        }
        for watcher in &self.watchers {
            let change = if gone { Change::Remove(service.clone()) } else { Change::Put(service.clone()) };
            watcher.take(change, Duration::ZERO);
        }
    }

    fn written(&mut self, operation: &'static str, seen: &Service) -> Result<Service, ClusterError> {
        self.writes += 1;
        if self.failing > 0 {
            self.failing -= 1;
            let source = Box::new(kube::Error::LinesCodecMaxLineLengthExceeded);
            return Err(ClusterError::Failed { operation, source });
        }
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
            let finalizers = service.metadata.finalizers.get_or_insert_default();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            let annotations = service.metadata.annotations.get_or_insert_default();
            annotations.remove(HELD_BY);
            if let Some(class) = class {
                finalizers.push(FINALIZER.to_owned());
                annotations.insert(HELD_BY.to_owned(), class.to_owned());
            }
            state.store(service.clone());
            let stored = state.services.get(&ServiceKey::of(&service)).cloned();
            Ok(stored.unwrap_or(service))
        })
    }

    async fn apply_status(&self, seen: &Service, status: &StatusPatch) -> Result<(), ClusterError> {
        let StatusPatch { ingress, conditions } = status.clone();
        self.with(|state| {
            let mut service = state.written("status", seen)?;
            let is_load_balancer = ServiceType::of(&service) == ServiceType::LoadBalancer;
            assert!(ingress.is_empty() || is_load_balancer, "the API server refuses ingress on other types");
            let load_balancer = LoadBalancerStatus { ingress: (!ingress.is_empty()).then_some(ingress) };
            service.status =
                Some(ServiceStatus { conditions: Some(conditions), load_balancer: Some(load_balancer) });
            state.store(service);
            Ok(())
        })
    }

    async fn annotate(
        &self,
        seen: &Service,
        annotations: &BTreeMap<&'static str, Option<String>>,
    ) -> Result<(), ClusterError> {
        self.with(|state| {
            let mut service = state.written("annotate", seen)?;
            let all = service.metadata.annotations.get_or_insert_default();
            for (key, name) in annotations {
                match name {
                    Some(name) => drop(all.insert((*key).to_owned(), name.clone())),
                    None => drop(all.remove(*key)),
                }
            }
            state.store(service);
            Ok(())
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
            state.writes += 1;
            let mut object = seen.clone();
            object.status = Some(ParametersStatus { conditions: vec![condition.clone()] });
            state.put_parameters(&object);
        });
        Ok(())
    }

    fn tell(&self, about: &Service, notice: Notice) {
        self.with(|state| state.events.push((about.metadata.name.clone().unwrap_or_default(), notice)));
    }
}
