//! The load balancers: the one place that changes them.
//!
//! Owns: records, their addresses, and which dataplane belongs to which. Leaves to others: HTTP, sockets.
//! Invariant: a change is on disk before it shows anywhere; one change at a time. An address that drains is
//! nobody's, and is given out again only when its last connection has ended. Reading waits for no change: not for
//! the disk, the interface or a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portico_provider::{ClusterUid, ListenerKey, Owner};
use tokio::sync::Mutex;

use super::ipam::{Ask, Ipam, NoAddress};
use super::placement::{Placement, PlacementError};
use super::store::{Key, Record, Records, Store, StoreError};
use crate::api::{Put, State, Targets, View};
use crate::dataplane::health::{HealthTable, Verdict};
use crate::dataplane::{LiveBalancer, Shared};

/// A request that was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The spec contradicts itself or asks for what this load balancer is not.
    #[error("{0}")]
    Invalid(String),
    /// The pool has no address for it.
    #[error(transparent)]
    Address(#[from] NoAddress),
    /// Not on disk, so not done.
    #[error("the state could not be kept, nothing was changed")]
    Store(#[from] StoreError),
    /// The interface does not have the address.
    #[error("the address could not be placed")]
    Placement(#[from] PlacementError),
    /// The change ended in a panic; the record on disk may be newer than what serves.
    #[error("the change was broken off: send it again")]
    Broken(#[from] tokio::task::JoinError),
}

/// How a daemon is set up.
#[derive(Debug)]
pub struct Setup {
    /// Which addresses there are.
    pub ipam: Ipam,
    /// The place of the addresses.
    pub placement: Placement,
    /// The state on disk.
    pub store: Store,
    /// How long a new one stays provisioning, unless its spec says.
    pub provisioning_delay: Duration,
    /// The state that dataplanes share.
    pub shared: Shared,
}

/// All load balancers.
#[derive(Clone, Debug)]
pub struct Registry {
    setup: Arc<Setup>,
    /// Held by one change from its first decision to its end, waits for disk, interface and sockets included.
    serving: Arc<Mutex<Serving>>,
    /// What callers see. Held for moments, never across a wait.
    shown: Arc<std::sync::Mutex<Shown>>,
}

#[derive(Debug, Default)]
struct Serving {
    balancers: BTreeMap<Key, LiveBalancer>,
    /// Addresses whose last connections are ending.
    draining: BTreeSet<IpAddr>,
}

#[derive(Debug, Default)]
struct Shown {
    records: Records,
    live: BTreeMap<Key, Live>,
}

/// The serving part of a record.
#[derive(Debug)]
struct Live {
    health: Arc<HealthTable>,
    errors: BTreeMap<ListenerKey, String>,
}

impl Registry {
    /// Claims what the state says before anything else: addresses, then listeners (law 6).
    pub async fn start(setup: Setup) -> Result<Self, RegistryError> {
        let records = setup.store.load()?;
        let shown = Arc::new(std::sync::Mutex::new(Shown { records, live: BTreeMap::new() }));
        let registry = Self { setup: Arc::new(setup), serving: Arc::default(), shown };
        registry.sweep_interface().await?;
        registry.tend().await;
        Ok(registry)
    }

    /// Takes addresses off the interface that an earlier run left there.
    async fn sweep_interface(&self) -> Result<(), RegistryError> {
        let Setup { ipam, placement, .. } = &*self.setup;
        let held = self.shown().held(None);
        let present = placement.present().await?;
        for address in present.difference(&held).filter(|address| ipam.holds(**address)) {
            placement.remove(*address).await?;
        }
        Ok(())
    }

    /// Brings up what became due and tries again what failed.
    pub async fn tend(&self) {
        if self.shown().due(unix_now()).next().is_none() {
            return;
        }
        let mut serving = self.serving.lock().await;
        let due: Vec<Arc<Record>> = self.shown().due(unix_now()).cloned().collect();
        for record in due {
            let live = self.bring_up(&mut serving, &record).await;
            self.shown().live.insert(record.key(), live);
        }
    }

    /// Creates or changes one. A caller that goes away does not leave half a change.
    pub async fn put(&self, owner: Owner, put: Put) -> Result<View, RegistryError> {
        super::spec::check(&put.spec).map_err(RegistryError::Invalid)?;
        let registry = self.clone();
        tokio::spawn(async move { registry.change(owner, put).await }).await?
    }

    async fn change(&self, owner: Owner, put: Put) -> Result<View, RegistryError> {
        let mut serving = self.serving.lock().await;
        let key = (owner.cluster.clone(), owner.service.clone());
        let before = self.shown().records.get(&key).cloned();
        let held = before.as_ref().map(|record| record.held()).unwrap_or_default();
        let taken = &self.shown().held(Some(&key)) | &serving.draining;
        let record = Arc::new(self.record(owner, put, before.as_deref(), &taken)?);
        let view = self.serve(&mut serving, key, &record).await?;
        let gone: BTreeSet<IpAddr> = held.difference(&record.held()).copied().collect();
        self.take_off(&gone).await;
        Ok(view)
    }

    /// Changes where the listeners of one send, and nothing else; `None`: there is none.
    pub async fn put_targets(&self, key: Key, targets: Targets) -> Result<Option<View>, RegistryError> {
        let registry = self.clone();
        tokio::spawn(async move { registry.retarget(key, targets).await }).await?
    }

    async fn retarget(&self, key: Key, mut targets: Targets) -> Result<Option<View>, RegistryError> {
        let mut serving = self.serving.lock().await;
        let Some(before) = self.shown().records.get(&key).cloned() else { return Ok(None) };
        let mut record = Record::clone(&before);
        for (listener, behind) in &mut record.spec.listeners {
            *behind = targets.remove(listener).unwrap_or_default();
        }
        self.serve(&mut serving, key, &Arc::new(record)).await.map(Some)
    }

    /// On disk, then in the sockets, then shown.
    async fn serve(
        &self,
        serving: &mut Serving,
        key: Key,
        record: &Arc<Record>,
    ) -> Result<View, RegistryError> {
        let mut records = self.shown().records.clone();
        records.insert(key.clone(), Arc::clone(record));
        let records = self.keep(records).await?;
        let due = record.active_at <= unix_now();
        let live = if due { Some(self.bring_up(serving, record).await) } else { None };
        let mut shown = self.shown();
        shown.records = records;
        shown.live.extend(live.map(|live| (key, live)));
        Ok(shown.view(record))
    }

    /// The accepted specification, with its addresses.
    fn record(
        &self,
        owner: Owner,
        put: Put,
        before: Option<&Record>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Record, NoAddress> {
        let Put { name: _, spec, claim } = put;
        let current = before.map(|record| record.addresses.clone()).unwrap_or_default();
        let held = before.map(Record::held).unwrap_or_default();
        let ask =
            Ask { families: &spec.ip_families, requested: &spec.requested, current: &current, claim: &claim };
        let addresses = self.setup.ipam.assign(ask, taken)?;
        let retained =
            held.intersection(&spec.retain).filter(|kept| !addresses.contains(kept)).copied().collect();
        let delay = spec.provisioning_delay.unwrap_or(self.setup.provisioning_delay);
        let active_at =
            before.map_or_else(|| unix_now().saturating_add(milliseconds(delay)), |record| record.active_at);
        Ok(Record { owner, spec, addresses, retained, active_at })
    }

    /// Deletes one; deleting the absent is done. Its connections drain in the background.
    pub async fn delete(&self, key: Key) -> Result<(), RegistryError> {
        let registry = self.clone();
        tokio::spawn(async move { registry.remove(&key).await }).await?
    }

    async fn remove(&self, key: &Key) -> Result<(), RegistryError> {
        let mut serving = self.serving.lock().await;
        let mut records = self.shown().records.clone();
        let Some(record) = records.remove(key) else { return Ok(()) };
        let records = self.keep(records).await?;
        {
            let mut shown = self.shown();
            shown.records = records;
            shown.live.remove(key);
        }
        let addresses = record.held();
        serving.draining.extend(&addresses);
        let retiring = serving.balancers.remove(key).map(LiveBalancer::retire);
        let registry = self.clone();
        tokio::spawn(async move {
            futures::future::OptionFuture::from(retiring).await;
            let mut serving = registry.serving.lock().await;
            registry.take_off(&addresses).await;
            serving.draining.retain(|address| !addresses.contains(address));
        });
        Ok(())
    }

    /// One, if there is.
    pub fn get(&self, key: &Key) -> Option<View> {
        let shown = self.shown();
        shown.records.get(key).map(|record| shown.view(record))
    }

    /// All, or a cluster's.
    pub fn list(&self, cluster: Option<&ClusterUid>) -> Vec<View> {
        let shown = self.shown();
        let wanted = |record: &&Arc<Record>| cluster.is_none_or(|cluster| record.owner.cluster == *cluster);
        shown.records.values().filter(wanted).map(|record| shown.view(record)).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shown().records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Accepts nothing new and lets connections end; the state and the addresses stay for the next start.
    pub async fn retire(&self) {
        let balancers = std::mem::take(&mut self.serving.lock().await.balancers);
        futures::future::join_all(balancers.into_values().map(LiveBalancer::retire)).await;
    }

    /// Puts these on disk, on a thread that may wait for it.
    async fn keep(&self, records: Records) -> Result<Records, RegistryError> {
        let setup = Arc::clone(&self.setup);
        let kept = tokio::task::spawn_blocking(move || setup.store.save(&records).map(|()| records));
        Ok(kept.await??)
    }

    async fn bring_up(&self, serving: &mut Serving, record: &Record) -> Live {
        let mut failed = None;
        for address in record.held() {
            if let Err(error) = self.setup.placement.add(address).await {
                failed = Some(format!("{address} could not be placed: {error}"));
            }
        }
        let balancer = serving
            .balancers
            .entry(record.key())
            .or_insert_with(|| LiveBalancer::new(self.setup.shared.clone()));
        let mut errors = balancer.apply(&record.spec, &record.held()).await;
        if let Some(failed) = failed {
            errors.extend(record.spec.listeners.keys().map(|key| (*key, failed.clone())));
        }
        let known = self.shown().live.get(&record.key()).is_some_and(|live| live.errors == errors);
        for (listener, error) in errors.iter().filter(|_error| !known) {
            tracing::error!(%listener, owner = %record.owner, %error, "listener is not open");
        }
        Live { health: Arc::clone(balancer.health()), errors }
    }

    async fn take_off(&self, addresses: &BTreeSet<IpAddr>) {
        let held = self.shown().held(None);
        for address in addresses.difference(&held) {
            if let Err(error) = self.setup.placement.remove(*address).await {
                // The next start sweeps it.
                tracing::error!(%address, %error, "cannot take an address off the interface");
            }
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // Every change under this lock is an insertion, a removal or a replacement, so a panic leaves it whole.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    /// Addresses that are somebody's, but for this one's own.
    fn held(&self, own: Option<&Key>) -> BTreeSet<IpAddr> {
        let others = self.records.iter().filter(|(key, _record)| Some(*key) != own);
        others.flat_map(|(_key, record)| record.held()).collect()
    }

    /// Load balancers that should serve now and do not, or not on every port.
    fn due(&self, now: u64) -> impl Iterator<Item = &Arc<Record>> {
        let settled = |key: &Key| self.live.get(key).is_some_and(|live: &Live| live.errors.is_empty());
        let due = move |(key, record): &(&Key, &Arc<Record>)| record.active_at <= now && !settled(key);
        self.records.iter().filter(due).map(|(_key, record)| record)
    }

    fn view(&self, record: &Record) -> View {
        let Record { owner, spec, addresses, retained, active_at: _ } = record.clone();
        let live = self.live.get(&record.key());
        let active = live.is_some();
        let targets: BTreeSet<SocketAddr> = spec.listeners.values().flatten().copied().collect();
        let found = live.map(|live| live.health.verdicts(targets).targets).unwrap_or_default();
        let of = |wanted: Verdict| {
            let of = found.iter().filter(|(_target, verdict)| *verdict == wanted);
            of.map(|(target, _verdict)| *target).collect()
        };
        View {
            healthy_targets: of(Verdict::Healthy),
            unknown_targets: of(Verdict::Unknown),
            owner,
            spec,
            state: if active { State::Active } else { State::Provisioning },
            addresses: if active { addresses } else { BTreeSet::new() },
            retained: if active { retained } else { BTreeSet::new() },
            listener_errors: live.map(|live| live.errors.clone()).unwrap_or_default(),
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, milliseconds)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
