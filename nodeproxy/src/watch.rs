//! Watches the API server and this node's addresses, and sends their changes to the sync loop.
//!
//! Owns selectors, lists, and objects that a new list lacks. kube's watcher reports a whole new list, while the
//! model needs deletions. So each watch caches the names of its objects. Leaves the decoding of objects to
//! [`crate::convert`].
//!
//! Invariants: an unreadable field is reported and skipped, and stops nothing else. API objects are dropped
//! while they are decoded. A source sends [`InputEvent::Listed`] once, after its first complete list, and
//! [`InputEvent::First`] before it. A list without any Service or slice, where there were some, deletes none, because
//! every API server has `default/kubernetes`.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt, stream::BoxStream};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use portico_netlink::addresses::{self, Scope};
use portico_proxy_core::input::{Event, Name, Service, ServiceName};
use tokio::{io::unix::AsyncFd, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;

pub mod first;

use self::first::First;
use crate::{
    convert::{BadField, Decode, Decoded, DecodedRanges, DecodedSlice, SOURCE_RANGES},
    events::{About, Notice},
    input_event::{InputEvent, Source, Times},
    metrics::Metrics,
    node::NodeState,
};

/// Label that selects another proxy for a Service.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// Reasons why a watch of this node's addresses ended. Watches of the API server do not end.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A call into the kernel failed.
    #[error("cannot follow this node's addresses")]
    Addresses(#[from] portico_netlink::Error),
    /// The runtime refused the socket.
    #[error("cannot wait for changes of this node's addresses")]
    Wait(#[from] std::io::Error),
}

impl WatchError {
    /// Whether a new process may succeed.
    pub fn retry(&self) -> bool {
        true
    }

    /// One word for a log field.
    pub fn reason(&self) -> &'static str {
        "Addresses"
    }
}

/// Sends input to the sync loop, and reports unreadable fields.
#[derive(Clone)]
pub struct InputSender {
    inputs: mpsc::Sender<InputEvent>,
    metrics: Metrics,
    notices: Option<mpsc::Sender<Notice>>,
}

impl InputSender {
    /// A sender to the loop behind `inputs`.
    pub fn new(inputs: mpsc::Sender<InputEvent>, metrics: Metrics) -> Self {
        Self { inputs, metrics, notices: None }
    }

    /// Also sends Events to the owners of Services.
    #[must_use]
    pub fn noticing(self, notices: mpsc::Sender<Notice>) -> Self {
        Self { notices: Some(notices), ..self }
    }

    /// Warns the owner of a Service that unreadable source ranges admit nobody.
    fn warn_of_ranges(&self, service: &ServiceName, bad: &[&BadField]) {
        let values: Vec<_> = bad.iter().map(|field| format!("\"{}\"", field.value)).collect();
        let values = values.join(", ");
        let note = format!(
            "{SOURCE_RANGES}: {values} cannot be read and admits nobody, so only clients in the other ranges may come; write \
             each like 203.0.113.0/24"
        );
        let about = About::Service(service.clone());
        let notice = Notice { about, reason: "UnreadableSourceRange", action: "Read", note };
        if self.notices.as_ref().is_some_and(|notices| notices.try_send(notice).is_err()) {
            tracing::debug!(%service, "no room for an Event");
        }
    }

    async fn send(&self, input: InputEvent) {
        // The loop only stops listening when the process ends.
        if self.inputs.send(input).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn warn_of_fields(&self, kind: &'static str, bad: &[BadField]) {
        for field in bad {
            self.metrics.bad_field(kind);
            tracing::warn!(object = field.object, field = field.field, "{field}");
        }
    }
}

/// Services and their slices: the first ones, and, once these are programmed, all.
pub async fn objects(
    client: Client,
    proxy_name: Option<String>,
    first_programmed: first::FirstProgrammed,
    sender: InputSender,
) {
    let (first_services, first_slices) = first::list(&client, proxy_name.as_deref(), &first_programmed).await;
    let services = services(client.clone(), proxy_name.clone(), first_services, sender.clone());
    let slices = slices(client, proxy_name, first_slices, sender);
    // Two tasks, so that both lists are decoded at once. Neither ends.
    let services = AbortOnDropHandle::new(tokio::spawn(services));
    let slices = AbortOnDropHandle::new(tokio::spawn(slices));
    drop(futures::future::select(services, slices).await);
}

/// Services of this proxy: not headless, and of its proxy name.
async fn services(client: Client, proxy_name: Option<String>, first: First<Service>, sender: InputSender) {
    let config =
        watcher::Config::default().labels(&ours(proxy_name.as_deref())).fields("spec.clusterIP!=None");
    let stream = stream::<Service>(Api::all(client), config);
    // The last Event to the owners of a few Services.
    let mut warned: HashMap<ServiceName, Vec<String>> = HashMap::new();
    let input = |seen: Seen<Service, ()>| {
        let event = match seen {
            Seen::Applied(object) => {
                let Decoded { metadata: _, value, bad } = *object;
                sender.warn_of_fields("Service", &bad);
                let ranges: Vec<_> = bad.iter().filter(|field| field.field == SOURCE_RANGES).collect();
                let values: Vec<_> = ranges.iter().map(|field| field.value.clone()).collect();
                if ranges.is_empty() {
                    warned.remove(&value.name);
                } else if warned.insert(value.name.clone(), values.clone()) != Some(values) {
                    sender.warn_of_ranges(&value.name, &ranges);
                }
                Event::Service(value)
            }
            Seen::Gone((namespace, name), ()) => {
                let name = ServiceName { namespace, name: name.into() };
                warned.remove(&name);
                Event::ServiceGone(name)
            }
        };
        Some(InputEvent::Change(Box::new(event), Times::received_now(None)))
    };
    let cache = WatchCache::new(proxy_name.is_none());
    follow(stream, cache, first, (Source::Services, &sender), |_| Some(()), input).await;
}

/// Slices of this proxy's Services. The watch caches the Service of each slice.
async fn slices(client: Client, proxy_name: Option<String>, first: First<DecodedSlice>, sender: InputSender) {
    let labels = format!("!service.kubernetes.io/headless,{}", ours(proxy_name.as_deref()));
    let config = watcher::Config::default().labels(&labels);
    let stream = stream::<DecodedSlice>(Api::all(client), config);
    let owner = |value: &DecodedSlice| value.slice.as_ref().map(|slice| slice.service.name.clone());
    let input = |seen: Seen<DecodedSlice, Name>| match seen {
        Seen::Applied(object) => {
            let Decoded { metadata: _, value: DecodedSlice { slice, trigger }, bad } = *object;
            sender.warn_of_fields("EndpointSlice", &bad);
            Some(InputEvent::Change(Box::new(Event::Slice(slice?)), Times::received_now(trigger)))
        }
        Seen::Gone((namespace, name), owner) => {
            let service = ServiceName { namespace, name: owner };
            let name = name.into();
            Some(InputEvent::Change(Box::new(Event::SliceGone { service, name }), Times::received_now(None)))
        }
    };
    let cache = WatchCache::new(proxy_name.is_none());
    follow(stream, cache, first, (Source::EndpointSlices, &sender), owner, input).await;
}

/// This node's Node object.
pub async fn node(client: Client, name: String, sender: InputSender) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = stream::<NodeState>(Api::all(client), config);
    let input = |seen: Seen<NodeState, ()>| {
        let state = match seen {
            Seen::Applied(object) => {
                let Decoded { metadata: _, value, bad } = *object;
                sender.warn_of_fields("Node", &bad);
                Some(value)
            }
            Seen::Gone(..) => None,
        };
        Some(InputEvent::Node(state))
    };
    let to = (Source::Node, &sender);
    follow(stream, WatchCache::new(false), First::none(), to, |_| Some(()), input).await;
}

/// Ranges of `ClusterIP`s. Clusters before Kubernetes 1.33 do not have them. There unallocated `ClusterIP`s are
/// treated like other addresses.
pub async fn service_cidrs(client: Client, sender: InputSender) {
    let stream = stream::<DecodedRanges>(Api::all(client), watcher::Config::default());
    let mut all = BTreeMap::<Id, Vec<IpNet>>::new();
    let input = |seen: Seen<DecodedRanges, ()>| {
        match seen {
            Seen::Applied(object) => {
                let Decoded { metadata, value: DecodedRanges(nets), bad } = *object;
                sender.warn_of_fields("ServiceCIDR", &bad);
                all.insert(id(&metadata), nets);
            }
            Seen::Gone(id, ()) => {
                all.remove(&id);
            }
        }
        let nets = all.values().flatten().copied().collect();
        Some(InputEvent::Change(Box::new(Event::ServiceCidrs(nets)), Times::received_now(None)))
    };
    let to = (Source::ServiceCidrs, &sender);
    follow(stream, WatchCache::new(false), First::none(), to, |_| Some(()), input).await;
}

/// Addresses in this network namespace, except loopback and link-local ones.
pub async fn addresses(sender: InputSender) -> Result<(), WatchError> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a Watch keeps one open descriptor for as long as it lives"
    )]
    let mut watch = AsyncFd::new(addresses::Watch::open()?)?;
    let mut listed = false;
    loop {
        let all = tokio::task::spawn_blocking(addresses::list).await.map_err(std::io::Error::other)??;
        let usable = all.into_iter().filter(|a| a.scope == Scope::Global && !a.address.is_loopback());
        sender.send(InputEvent::Addresses(usable.map(|a| a.address).collect())).await;
        if !listed {
            listed = true;
            sender.send(InputEvent::Listed(Source::Addresses)).await;
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

/// An object that exists, or one that was deleted with its former owner.
enum Seen<T, N> {
    Applied(Box<Decoded<T>>),
    Gone(Id, N),
}

/// Streaming lists spare the server and the proxy a whole list in memory. Servers before 1.34 may have disabled
/// them, and answer "sendInitialEvents is forbidden". Then the watch lists in pages.
fn lacks_streaming_lists(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status) => {
            status.code == 422
        }
        _ => false,
    }
}

type Events<T> = BoxStream<'static, watcher::Result<watcher::Event<Decoded<T>>>>;

fn stream<T: Decode>(api: Api<Decoded<T>>, config: watcher::Config) -> Events<T> {
    let streaming = watcher(api.clone(), config.clone().streaming_lists())
        .take_while(|event| std::future::ready(!event.as_ref().is_err_and(lacks_streaming_lists)));
    streaming.chain(watcher(api, config)).default_backoff().boxed()
}

/// Sends the first objects, then follows a watch for ever and sends its changes. The owner of an object
/// (`name`) may change. Then the object is deleted under its former owner.
async fn follow<T: Decode, N: Clone + Eq + Send>(
    mut stream: Events<T>,
    mut cache: WatchCache<N>,
    first: First<T>,
    (source, sender): (Source, &InputSender),
    name: impl Fn(&T) -> Option<N> + Send,
    mut input: impl FnMut(Seen<T, N>) -> Option<InputEvent> + Send,
) {
    // If one of them was deleted by the time of the list, its deletion follows from the list.
    for object in first.objects {
        for input in cache.applied(object, &name).into_iter().filter_map(&mut input) {
            sender.send(input).await;
        }
    }
    sender.send(InputEvent::First(source)).await;
    first::wait(first.after).await;
    let mut listed = false;
    while let Some(event) = stream.next().await {
        let complete = match &event {
            Ok(event) => matches!(event, watcher::Event::InitDone),
            Err(error) => {
                tracing::warn!(?source, error = %portico_runtime::chain(error), "a watch failed; trying again");
                source == Source::ServiceCidrs && is_denied(error)
            }
        };
        for seen in event.map(|event| cache.take(event, &name)).unwrap_or_default() {
            if let Some(input) = input(seen) {
                sender.send(input).await;
            }
        }
        if complete && !std::mem::replace(&mut listed, true) {
            sender.send(InputEvent::Listed(source)).await;
        }
    }
}

/// Whether the cluster lacks the kind, or the proxy lacks the permission. The watcher retries. Meanwhile the
/// first sync must not wait for ranges of `ClusterIP`s, which are optional.
fn is_denied(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 404 || status.code == 403
    )
}

/// Objects of a watch, by namespace and name.
struct WatchCache<N> {
    /// Owner of each object, and the number of the last list that had it.
    objects: HashMap<Id, (N, u32)>,
    /// Number of the current or the last list.
    list: u32,
    /// Whether that list has had any object.
    has_any: bool,
    /// Whether a list without objects cannot be right.
    never_empty: bool,
    /// Interned namespaces, since there are few.
    namespaces: HashSet<Name>,
}

/// Namespace and name of an object.
type Id = (Name, Box<str>);

fn id(metadata: &ObjectMeta) -> Id {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    (namespace.into(), metadata.name.as_deref().unwrap_or_default().into())
}

impl<N: Clone + Eq> WatchCache<N> {
    fn new(never_empty: bool) -> Self {
        Self { objects: HashMap::new(), list: 0, has_any: false, never_empty, namespaces: HashSet::new() }
    }

    fn id(&mut self, metadata: &ObjectMeta) -> Id {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default().into();
        if let Some(known) = self.namespaces.get(namespace) {
            return (known.clone(), name);
        }
        let namespace = Name::from(namespace);
        self.namespaces.insert(namespace.clone());
        (namespace, name)
    }

    /// Changes that an event of the watch leads to.
    fn take<T: Decode>(
        &mut self,
        event: watcher::Event<Decoded<T>>,
        name: &impl Fn(&T) -> Option<N>,
    ) -> Vec<Seen<T, N>> {
        match event {
            watcher::Event::Init => {
                self.list = self.list.wrapping_add(1);
                self.has_any = false;
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                self.has_any = true;
                self.applied(object, name)
            }
            watcher::Event::Apply(object) => self.applied(object, name),
            watcher::Event::Delete(object) => {
                let id = self.id(object.meta());
                let object = self.objects.remove(&id);
                object.map(|(name, _)| Seen::Gone(id, name)).into_iter().collect()
            }
            watcher::Event::InitDone => self.left_out(),
        }
    }

    /// If the owner of an object changes, the object is deleted from the former owner.
    fn applied<T: Decode>(&mut self, object: Decoded<T>, name: &impl Fn(&T) -> Option<N>) -> Vec<Seen<T, N>> {
        let (id, name) = (self.id(object.meta()), name(&object.value));
        let before = match &name {
            Some(name) => self.objects.insert(id.clone(), (name.clone(), self.list)),
            None => self.objects.remove(&id),
        };
        let before = before.map(|(before, _)| before).filter(|before| Some(before) != name.as_ref());
        let gone = before.map(|before| Seen::Gone(id, before));
        gone.into_iter().chain(name.map(|_| Seen::Applied(Box::new(object)))).collect()
    }

    /// Deletions of all objects that the list lacked which just ended.
    fn left_out<T>(&mut self) -> Vec<Seen<T, N>> {
        if self.never_empty && !self.has_any && !self.objects.is_empty() {
            tracing::warn!(
                known = self.objects.len(),
                "the API server lists nothing at all; what is known stays"
            );
            return Vec::new();
        }
        let list = self.list;
        let gone = self.objects.extract_if(|_, (_, last)| *last != list);
        gone.map(|(id, (name, _))| Seen::Gone(id, name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_slice(name: &str, owner: &str) -> Decoded<DecodedSlice> {
        let metadata =
            json!({"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": owner}});
        serde_json::from_value(json!({"metadata": metadata, "addressType": "IPv4"})).expect("a slice")
    }

    fn owner(value: &DecodedSlice) -> Option<Name> {
        value.slice.as_ref().map(|slice| slice.service.name.clone())
    }

    /// Changes for each event, as text.
    fn changes(
        cache: &mut WatchCache<Name>,
        events: Vec<watcher::Event<Decoded<DecodedSlice>>>,
    ) -> Vec<String> {
        let seen = events.into_iter().flat_map(|event| cache.take(event, &owner));
        let words = seen.map(|seen| match seen {
            Seen::Applied(object) => format!("+{}", object.metadata.name.unwrap_or_default()),
            Seen::Gone((_, name), owner) => format!("-{name} of {owner}"),
        });
        words.collect()
    }

    fn mk_cache() -> WatchCache<Name> {
        WatchCache::new(true)
    }

    #[test]
    fn objects_that_a_new_list_lacks_are_deleted_those_before_any_list_included() {
        let mut cache = mk_cache();
        assert_eq!(cache.applied(mk_slice("first", "dns"), &owner).len(), 1);
        let list = |names: &[&str]| {
            let objects = names.iter().map(|name| watcher::Event::InitApply(mk_slice(name, "web")));
            std::iter::once(watcher::Event::Init).chain(objects).chain([watcher::Event::InitDone]).collect()
        };
        assert_eq!(changes(&mut cache, list(&["a", "b"])), ["+a", "+b", "-first of dns"]);
        // A list that breaks off says nothing about what it did not get to.
        let broken = vec![watcher::Event::Init, watcher::Event::InitApply(mk_slice("a", "web"))];
        assert_eq!(changes(&mut cache, broken), ["+a"]);
        assert_eq!(changes(&mut cache, list(&["b"])), ["+b", "-a of web"]);
    }

    #[test]
    fn an_empty_list_takes_nothing_away_and_the_next_one_does() {
        let list = |names: &[&str]| {
            let objects = names.iter().map(|name| watcher::Event::InitApply(mk_slice(name, "web")));
            std::iter::once(watcher::Event::Init).chain(objects).chain([watcher::Event::InitDone]).collect()
        };
        let mut cache = mk_cache();
        assert_eq!(changes(&mut cache, list(&["a", "b"])), ["+a", "+b"]);
        assert_eq!(changes(&mut cache, list(&[])), Vec::<String>::new());
        assert_eq!(changes(&mut cache, list(&["b"])), ["+b", "-a of web"]);
        let mut of_some_services = WatchCache::new(false);
        assert_eq!(changes(&mut of_some_services, list(&["a"])), ["+a"]);
        assert_eq!(changes(&mut of_some_services, list(&[])), ["-a of web"], "where others serve the rest");
    }

    #[test]
    fn a_slice_that_changes_its_service_is_deleted_from_the_first() {
        let mut cache = mk_cache();
        let events = vec![
            watcher::Event::Apply(mk_slice("a", "web")),
            watcher::Event::Apply(mk_slice("a", "api")),
            watcher::Event::Delete(mk_slice("a", "api")),
            watcher::Event::Delete(mk_slice("a", "api")),
        ];
        assert_eq!(changes(&mut cache, events), ["+a", "-a of web", "+a", "-a of api"]);
    }
}
