//! Watches the API server and this node's addresses, and turns what changes into facts.
//!
//! Owns selectors, lists, and what a new list leaves out: kube's watcher says "here is everything again", the model wants to
//! know what is gone, so each watch remembers the names it has told. Leaves reading of objects to [`crate::convert`].
//!
//! Invariants: an object that cannot be read is reported and skipped, and does not stop the others; API objects are dropped
//! as soon as they are read; a source is [`Fact::Listed`] once, after its first complete list.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
};

use futures::{StreamExt, stream::BoxStream};
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use portico_netlink::addresses::{self, Scope};
use portico_proxy_core::input::{Event, Name, ServiceName};
use serde::de::DeserializeOwned;
use tokio::{io::unix::AsyncFd, sync::mpsc};

use crate::{
    convert::{self, BadField},
    facts::{Fact, Source},
    metrics::Metrics,
};

/// Label by which a Service chooses another proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// Why a watch of this node's addresses ended. Watches of the API server do not end.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel could not be asked.
    #[error("cannot follow this node's addresses")]
    Addresses(#[from] portico_netlink::Error),
    /// The runtime refused the socket.
    #[error("cannot wait for changes of this node's addresses")]
    Wait(#[from] std::io::Error),
}

impl WatchError {
    /// Whether a new process may do better.
    pub fn retry(&self) -> bool {
        true
    }

    /// One word for a log field.
    pub fn reason(&self) -> &'static str {
        "Addresses"
    }
}

/// Where facts go, with what happens to bad fields.
#[derive(Clone)]
pub struct Telling {
    facts: mpsc::Sender<Fact>,
    metrics: Metrics,
}

impl Telling {
    /// Tells the loop behind `facts`.
    pub fn new(facts: mpsc::Sender<Fact>, metrics: Metrics) -> Self {
        Self { facts, metrics }
    }

    async fn tell(&self, fact: Fact) {
        // The loop only stops listening when the process ends.
        if self.facts.send(fact).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn complain(&self, kind: &'static str, bad: &[BadField]) {
        for field in bad {
            self.metrics.bad_field(kind);
            tracing::warn!(object = field.object, field = field.field, "{field}");
        }
    }
}

/// Services that are ours: not headless, and of our proxy name.
pub async fn services(client: Client, proxy_name: Option<String>, telling: Telling) {
    let config =
        watcher::Config::default().labels(&ours(proxy_name.as_deref())).fields("spec.clusterIP!=None");
    let stream = stream::<Service>(Api::all(client), config);
    let fact = |seen: Seen<Service>| {
        let event = match seen {
            Seen::Applied(object) => {
                let (service, bad) = convert::service(&object);
                telling.complain("Service", &bad);
                Event::Service(service)
            }
            Seen::Gone(name) => Event::ServiceGone(name),
        };
        Some(Fact::Event(Box::new(event), None))
    };
    follow(stream, Source::Services, &telling, |object| Some(convert::service_name(object)), fact).await;
}

/// Slices of Services that are ours.
pub async fn slices(client: Client, proxy_name: Option<String>, telling: Telling) {
    let labels = format!("!service.kubernetes.io/headless,{}", ours(proxy_name.as_deref()));
    let config = watcher::Config::default().labels(&labels);
    let stream = stream::<EndpointSlice>(Api::all(client), config);
    let key = |slice: &EndpointSlice| Some((convert::slice_owner(slice)?, Name::from(slice.name_any())));
    let fact = |seen: Seen<EndpointSlice, (ServiceName, Name)>| match seen {
        Seen::Applied(object) => {
            let (slice, bad) = convert::slice(&object, convert::slice_owner(&object)?);
            telling.complain("EndpointSlice", &bad);
            Some(Fact::Event(Box::new(Event::Slice(slice)), convert::trigger_time(&object)))
        }
        Seen::Gone((service, name)) => Some(Fact::Event(Box::new(Event::SliceGone { service, name }), None)),
    };
    follow(stream, Source::EndpointSlices, &telling, key, fact).await;
}

/// This node's Node object.
pub async fn node(client: Client, name: String, telling: Telling) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = stream::<Node>(Api::all(client), config);
    let fact = |seen: Seen<Node>| {
        let state = match seen {
            Seen::Applied(object) => {
                let (state, bad) = convert::node(&object);
                telling.complain("Node", &bad);
                Some(state)
            }
            Seen::Gone(_) => None,
        };
        Some(Fact::Node(state))
    };
    follow(stream, Source::Node, &telling, |object| Some(convert::service_name(object)), fact).await;
}

/// Ranges of `ClusterIP`s. Clusters before Kubernetes 1.33 do not have them, and then unallocated `ClusterIP`s are not told
/// from other addresses.
pub async fn service_cidrs(client: Client, telling: Telling) {
    let stream = stream::<ServiceCIDR>(Api::all(client), watcher::Config::default());
    let mut all = BTreeMap::<ServiceName, Vec<IpNet>>::new();
    let fact = |seen: Seen<ServiceCIDR>| {
        match seen {
            Seen::Applied(object) => {
                let (nets, bad) = convert::service_cidr(&object);
                telling.complain("ServiceCIDR", &bad);
                all.insert(convert::service_name(&object), nets);
            }
            Seen::Gone(name) => {
                all.remove(&name);
            }
        }
        let nets = all.values().flatten().copied().collect();
        Some(Fact::Event(Box::new(Event::ServiceCidrs(nets)), None))
    };
    follow(stream, Source::ServiceCidrs, &telling, |object| Some(convert::service_name(object)), fact).await;
}

/// Addresses in this network namespace, but loopback and link-local ones.
pub async fn addresses(telling: Telling) -> Result<(), WatchError> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a Watch keeps one open descriptor for as long as it lives"
    )]
    let mut watch = AsyncFd::new(addresses::Watch::open()?)?;
    let mut listed = false;
    loop {
        let all = tokio::task::spawn_blocking(addresses::list).await.map_err(std::io::Error::other)??;
        let usable = all.into_iter().filter(|a| a.scope == Scope::Global && !a.address.is_loopback());
        telling.tell(Fact::Addresses(usable.map(|a| a.address).collect())).await;
        if !listed {
            listed = true;
            telling.tell(Fact::Listed(Source::Addresses)).await;
        }
        loop {
            let mut ready = watch.readable_mut().await?;
            let changed = ready.get_inner_mut().changed()?;
            ready.clear_ready();
            if changed {
                break;
            }
        }
    }
}

fn ours(proxy_name: Option<&str>) -> String {
    proxy_name.map_or_else(|| format!("!{PROXY_NAME}"), |name| format!("{PROXY_NAME}={name}"))
}

/// An object that was seen, or the name of one that is gone.
enum Seen<K, N = ServiceName> {
    Applied(K),
    Gone(N),
}

/// Lists as streams spare the server and us the whole list in memory. Servers before 1.34 may have them switched off, and
/// say so with "sendInitialEvents is forbidden"; then pages do.
fn lacks_streaming_lists(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status) => {
            status.code == 422
        }
        _ => false,
    }
}

type Guarded<K> = watcher::Result<watcher::Event<DeserializeGuard<K>>>;

fn stream<K>(api: Api<DeserializeGuard<K>>, config: watcher::Config) -> BoxStream<'static, Guarded<K>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let streaming = watcher(api.clone(), config.clone().streaming_lists())
        .take_while(|event| std::future::ready(!event.as_ref().is_err_and(lacks_streaming_lists)));
    streaming.chain(watcher(api, config)).default_backoff().boxed()
}

/// Follows a watch for ever and tells what changes.
async fn follow<K, N>(
    mut stream: BoxStream<'static, Guarded<K>>,
    source: Source,
    telling: &Telling,
    name: impl Fn(&K) -> Option<N> + Send,
    mut fact: impl FnMut(Seen<K, N>) -> Option<Fact> + Send,
) where
    K: Resource<DynamicType = ()> + Clone + Send,
    N: Clone + Eq + Send,
{
    let mut known = Known { told: HashMap::new(), listing: HashSet::new() };
    let mut listed = false;
    while let Some(event) = stream.next().await {
        let complete = match &event {
            Ok(event) => matches!(event, watcher::Event::InitDone),
            Err(error) => {
                tracing::warn!(?source, error = %crate::run::chain(error), "a watch failed; trying again");
                source == Source::ServiceCidrs && is_denied(error)
            }
        };
        for seen in event.map(|event| known.take(event, source, &name)).unwrap_or_default() {
            if let Some(fact) = fact(seen) {
                telling.tell(fact).await;
            }
        }
        if complete && !std::mem::replace(&mut listed, true) {
            telling.tell(Fact::Listed(source)).await;
        }
    }
}

/// A cluster without a kind, or without the right to see it. The watcher tries again by itself, but this must not keep the
/// rest from being served if we can do without; only without ranges of `ClusterIP`s we can.
fn is_denied(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 404 || status.code == 403
    )
}

/// What a watch has told, by namespace and name of the object.
struct Known<N> {
    told: HashMap<Id, N>,
    listing: HashSet<Id>,
}

type Id = (Box<str>, Box<str>);

fn id(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Id {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    (text(&metadata.namespace), text(&metadata.name))
}

fn uid<K: Resource>(object: &K) -> Id {
    id(object.meta())
}

fn readable<K>(object: Result<K, kube::core::error_boundary::InvalidObject>, source: Source) -> Option<K> {
    match object {
        Ok(object) => Some(object),
        Err(invalid) => {
            let (namespace, name) = id(&invalid.metadata);
            tracing::warn!(?source, %namespace, %name, error = invalid.error, "an object cannot be read and is skipped");
            None
        }
    }
}

impl<N: Clone + Eq> Known<N> {
    /// What an event of the watch means.
    fn take<K: Resource>(
        &mut self,
        event: watcher::Event<DeserializeGuard<K>>,
        source: Source,
        name: &impl Fn(&K) -> Option<N>,
    ) -> Vec<Seen<K, N>> {
        match event {
            watcher::Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            watcher::Event::InitApply(DeserializeGuard(object)) => {
                self.listing.insert(object.as_ref().map_or_else(|invalid| id(&invalid.metadata), uid));
                readable(object, source).map(|object| self.applied(object, name)).unwrap_or_default()
            }
            watcher::Event::Apply(DeserializeGuard(object)) => {
                readable(object, source).map(|object| self.applied(object, name)).unwrap_or_default()
            }
            watcher::Event::Delete(DeserializeGuard(object)) => {
                let key = object.as_ref().map_or_else(|invalid| id(&invalid.metadata), uid);
                self.told.remove(&key).map(Seen::Gone).into_iter().collect()
            }
            watcher::Event::InitDone => self.left_out(),
        }
    }

    /// An object may come to belong to another Service: then it is gone from the first.
    fn applied<K: Resource>(&mut self, object: K, name: &impl Fn(&K) -> Option<N>) -> Vec<Seen<K, N>> {
        let (key, name) = (uid(&object), name(&object));
        let before = match &name {
            Some(name) => self.told.insert(key, name.clone()),
            None => self.told.remove(&key),
        };
        let before = before.filter(|before| Some(before) != name.as_ref());
        let gone = before.map(Seen::Gone);
        gone.into_iter().chain(name.map(|_| Seen::Applied(object))).collect()
    }

    /// Everything that was told and is not in the list that just ended.
    fn left_out<K>(&mut self) -> Vec<Seen<K, N>> {
        let listing = std::mem::take(&mut self.listing);
        let gone = self.told.extract_if(|key, _| !listing.contains(key));
        gone.map(|(_, name)| Seen::Gone(name)).collect()
    }
}
