//! What load balancers there are: the one place that changes them.
//!
//! Owns: records, their addresses, and which dataplane belongs to which. Leaves to others: HTTP, sockets.
//! Invariant: a change is on disk before it shows anywhere; one change at a time. An address that drains is
//! nobody's, and is given out again only when its last connection has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portico_provider::{ClusterUid, ListenerKey, Owner};
use tokio::sync::Mutex;

use super::ipam::{Ask, Ipam, NoAddress};
use super::placement::{Placement, PlacementError};
use super::store::{Key, Record, Store, StoreError};
use crate::api::{Put, State, View};
use crate::dataplane::health::Verdict;
use crate::dataplane::{LiveBalancer, Shared};

/// A request that was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The spec contradicts itself or asks for what this load balancer is not.
    #[error("{0}")]
    Invalid(String),
    /// No address.
    #[error(transparent)]
    Address(#[from] NoAddress),
    /// Not on disk, so not done.
    #[error("the state could not be kept, nothing was changed")]
    Store(#[from] StoreError),
    /// The interface does not have the address.
    #[error("the address could not be placed")]
    Placement(#[from] PlacementError),
}

/// How a daemon is set up.
#[derive(Debug)]
pub struct Setup {
    /// Which addresses there are.
    pub ipam: Ipam,
    /// Where they live.
    pub placement: Placement,
    /// Where the state is.
    pub store: Store,
    /// How long a new one stays provisioning, unless its spec says.
    pub provisioning_delay: Duration,
    /// What dataplanes share.
    pub shared: Shared,
}

/// All load balancers.
#[derive(Clone, Debug)]
pub struct Registry {
    setup: Arc<Setup>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<Key, Record>,
    live: BTreeMap<Key, Live>,
    /// Addresses whose last connections are ending.
    draining: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Live {
    balancer: LiveBalancer,
    errors: BTreeMap<ListenerKey, String>,
}

impl Registry {
    /// Claims what the state says before anything else: addresses, then listeners (law 6).
    pub async fn start(setup: Setup) -> Result<Self, RegistryError> {
        let records = setup.store.load()?;
        let registry = Self { setup: Arc::new(setup), inner: Arc::default() };
        let mut inner = registry.inner.lock().await;
        inner.records = records;
        registry.sweep_interface(&inner).await?;
        drop(inner);
        registry.tend().await;
        Ok(registry)
    }

    /// Takes addresses off the interface that an earlier run left there.
    async fn sweep_interface(&self, inner: &Inner) -> Result<(), RegistryError> {
        let Setup { ipam, placement, .. } = &*self.setup;
        let held = inner.taken(None);
        let present = placement.present().await?;
        for address in present.difference(&held).filter(|address| ipam.holds(**address)) {
            placement.remove(*address).await?;
        }
        Ok(())
    }

    /// Brings up what became due and tries again what failed.
    pub async fn tend(&self) {
        let mut inner = self.inner.lock().await;
        let now = unix_now();
        let due: Vec<Record> =
            inner.records.values().filter(|record| record.active_at <= now).cloned().collect();
        for record in due {
            let settled = inner.live.get(&record.key()).is_some_and(|live| live.errors.is_empty());
            if !settled {
                self.bring_up(&mut inner, &record).await;
            }
        }
    }

    /// Creates or changes one.
    pub async fn put(&self, owner: Owner, put: Put) -> Result<View, RegistryError> {
        let Put { name: _, spec, claim } = put;
        super::http::check_spec(&spec).map_err(RegistryError::Invalid)?;
        let mut inner = self.inner.lock().await;
        let key = (owner.cluster.clone(), owner.service.clone());
        let before = inner.records.get(&key).cloned();
        let current = before.as_ref().map(|record| record.addresses.clone()).unwrap_or_default();
        let held = before.as_ref().map(Record::held).unwrap_or_default();
        let ask =
            Ask { families: &spec.ip_families, requested: &spec.requested, current: &current, claim: &claim };
        let addresses = self.setup.ipam.assign(ask, &inner.taken(Some(&key)))?;
        let retained =
            held.intersection(&spec.retain).filter(|kept| !addresses.contains(kept)).copied().collect();
        let delay = spec.provisioning_delay.unwrap_or(self.setup.provisioning_delay);
        let active_at =
            before.map_or_else(|| unix_now().saturating_add(milliseconds(delay)), |record| record.active_at);
        let record = Record { owner, spec, addresses, retained, active_at };
        self.keep(&mut inner, &key, Some(record.clone()))?;
        if record.active_at <= unix_now() {
            self.bring_up(&mut inner, &record).await;
        }
        let gone: BTreeSet<IpAddr> = held.difference(&record.held()).copied().collect();
        self.take_off(&mut inner, &gone).await;
        Ok(inner.view(&record))
    }

    /// Deletes one; deleting the absent is done. Its connections drain in the background.
    pub async fn delete(&self, key: &Key) -> Result<(), RegistryError> {
        let mut inner = self.inner.lock().await;
        let Some(record) = inner.records.get(key).cloned() else { return Ok(()) };
        self.keep(&mut inner, key, None)?;
        let addresses = record.held();
        inner.draining.extend(&addresses);
        let live = inner.live.remove(key);
        let registry = self.clone();
        tokio::spawn(async move {
            if let Some(Live { balancer, errors: _ }) = live {
                balancer.retire().await;
            }
            let mut inner = registry.inner.lock().await;
            registry.take_off(&mut inner, &addresses).await;
            inner.draining.retain(|address| !addresses.contains(address));
        });
        Ok(())
    }

    /// One, if there is.
    pub async fn get(&self, key: &Key) -> Option<View> {
        let inner = self.inner.lock().await;
        inner.records.get(key).map(|record| inner.view(record))
    }

    /// All, or a cluster's.
    pub async fn list(&self, cluster: Option<&ClusterUid>) -> Vec<View> {
        let inner = self.inner.lock().await;
        let wanted = |record: &&Record| cluster.is_none_or(|cluster| record.owner.cluster == *cluster);
        inner.records.values().filter(wanted).map(|record| inner.view(record)).collect()
    }

    /// How many there are.
    pub async fn len(&self) -> usize {
        self.inner.lock().await.records.len()
    }

    /// Whether there is none.
    pub async fn is_empty(&self) -> bool {
        self.len().await == 0
    }

    /// Accepts nothing new and lets connections end; the state and the addresses stay for the next start.
    pub async fn retire(&self) {
        let live = std::mem::take(&mut self.inner.lock().await.live);
        let retiring = live.into_values().map(|live| live.balancer.retire());
        futures::future::join_all(retiring).await;
    }

    fn keep(&self, inner: &mut Inner, key: &Key, record: Option<Record>) -> Result<(), StoreError> {
        let mut records = inner.records.clone();
        match record {
            Some(record) => records.insert(key.clone(), record),
            None => records.remove(key),
        };
        self.setup.store.save(&records)?;
        inner.records = records;
        Ok(())
    }

    async fn bring_up(&self, inner: &mut Inner, record: &Record) {
        let mut failed = None;
        for address in record.held() {
            if let Err(error) = self.setup.placement.add(address).await {
                tracing::error!(%address, owner = %record.owner, %error, "cannot place an address");
                failed = Some(format!("{address} could not be placed: {error}"));
            }
        }
        let live = inner.live.entry(record.key()).or_insert_with(|| Live {
            balancer: LiveBalancer::new(self.setup.shared.clone()),
            errors: BTreeMap::new(),
        });
        live.errors = live.balancer.apply(&record.spec, &record.held()).await;
        if let Some(failed) = failed {
            live.errors.extend(record.spec.listeners.keys().map(|key| (*key, failed.clone())));
        }
        for (listener, error) in &live.errors {
            tracing::error!(%listener, owner = %record.owner, %error, "listener is not open");
        }
    }

    async fn take_off(&self, inner: &mut Inner, addresses: &BTreeSet<IpAddr>) {
        let held = inner.records.values().flat_map(Record::held).collect::<BTreeSet<_>>();
        for address in addresses.difference(&held) {
            if let Err(error) = self.setup.placement.remove(*address).await {
                // The next start sweeps it.
                tracing::error!(%address, %error, "cannot take an address off the interface");
            }
        }
    }
}

impl Inner {
    /// Addresses that are somebody's, but for this one's own.
    fn taken(&self, own: Option<&Key>) -> BTreeSet<IpAddr> {
        let others = self.records.iter().filter(|(key, _record)| Some(*key) != own);
        others.flat_map(|(_key, record)| record.held()).chain(self.draining.iter().copied()).collect()
    }

    fn view(&self, record: &Record) -> View {
        let Record { owner, spec, addresses, retained, active_at: _ } = record.clone();
        let live = self.live.get(&record.key());
        let active = live.is_some();
        let found = |verdict: Verdict| live.map(|live| live.balancer.targets(verdict)).unwrap_or_default();
        View {
            owner,
            spec,
            state: if active { State::Active } else { State::Provisioning },
            addresses: if active { addresses } else { BTreeSet::new() },
            retained: if active { retained } else { BTreeSet::new() },
            listener_errors: live.map(|live| live.errors.clone()).unwrap_or_default(),
            healthy_targets: found(Verdict::Healthy),
            unknown_targets: found(Verdict::Unknown),
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, milliseconds)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
