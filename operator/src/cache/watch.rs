//! Watches that keep the cache, and what a change sets in motion.
//!
//! Owns: one stream per kind, trimming, and fanning out. Leaves to others: what is kept (`cache`), the work.
//! Invariant: changes that come in a burst (a rollout's endpoints, a node pool's nodes) are reconciled once.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::cache::service::{ClassRule, ServiceKey};
use crate::cache::store::{Cache, Change, Concern, Followed};
use crate::reconcile::queue::Queue;

/// How long a burst of node changes is gathered.
const NODES_SETTLE: Duration = Duration::from_millis(250);
/// How long changes of one Service's endpoints are gathered.
pub(crate) const ENDPOINTS_SETTLE: Duration = Duration::from_millis(50);
/// The pause before a Service is reconciled for a pod that its EndpointSlices name: these follow the pods, and requeue it sooner.
pub(crate) const PODS_SETTLE: Duration = Duration::from_secs(1);

/// The path of changes into the cache and the queue.
#[derive(Clone)]
pub(crate) struct Router {
    cache: Arc<Cache>,
    queue: Arc<Queue>,
    all_services: Arc<Notify>,
}

impl Router {
    /// Changes are applied to `cache`, the Services that they concern are added to `queue`.
    pub(crate) fn new(cache: Arc<Cache>, queue: Arc<Queue>) -> Self {
        Self { cache, queue, all_services: Arc::default() }
    }

    /// Takes one change in.
    pub(crate) fn take<K: Followed>(&self, change: Change<K>, settle: Duration) {
        match K::follow(&self.cache, change) {
            None => {}
            Some(Concern::AllServices) => self.all_services.notify_one(),
            Some(Concern::Services(keys)) if settle.is_zero() => {
                for key in keys {
                    self.queue.add(key);
                }
            }
            Some(Concern::Services(keys)) => {
                let due = Instant::now() + settle;
                for key in keys {
                    self.queue.add_at(key, due);
                }
            }
        }
    }

    /// There is no such kind.
    pub(crate) fn absent<K: Followed>(&self) {
        K::absent(&self.cache);
    }

    /// Requeues every Service that has, or shall have, a load balancer, each time something concerns them all.
    pub(crate) async fn fan_out(self, classes: ClassRule) {
        loop {
            self.all_services.notified().await;
            sleep(NODES_SETTLE).await;
            self.requeue_all(&classes);
        }
    }

    /// Requeues them now.
    pub(crate) fn requeue_all(&self, classes: &ClassRule) {
        let services = self.cache.services();
        let ours = services.iter().filter(|service| classes.claims(service));
        ours.for_each(|service| self.queue.add(ServiceKey::of(service)));
    }
}

/// Watches one kind of object; a broken watch is restarted with growing delays.
pub(crate) async fn follow<K>(api: Api<K>, router: Router, settle: Duration)
where
    K: Followed + Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let config =
        watcher::Config { field_selector: K::FIELDS.map(str::to_owned), ..watcher::Config::default() };
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut unknown = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => router.take(change(event), settle),
            Err(error) if is_unknown_kind(&error) => {
                // Silent after the first time: it is a choice not to install it.
                if !unknown {
                    tracing::info!(kind, "the API server does not know this kind; there are none");
                }
                unknown = true;
                router.absent::<K>();
            }
            Err(error) => {
                tracing::warn!(kind, error = portico_runtime::chain(&error), "watch broken; it is restarted");
            }
        }
    }
}

/// 404 to a list: no such kind. A 403 may be one that exists and holds something, and is none.
fn is_unknown_kind(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source)) = error else {
        return false;
    };
    matches!(source, kube::Error::Api(status) if status.code == 404)
}

fn change<K: Followed>(event: watcher::Event<K>) -> Change<K> {
    let change = match event {
        watcher::Event::Apply(object) => Change::Put(object),
        watcher::Event::Delete(object) => Change::Remove(object),
        watcher::Event::Init => Change::Begin,
        watcher::Event::InitApply(object) => Change::Stage(object),
        watcher::Event::InitDone => Change::Finish,
    };
    change.trimmed()
}
