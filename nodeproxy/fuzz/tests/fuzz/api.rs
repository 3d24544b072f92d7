//! An API server of four kinds that answers lists and watches from memory, for a client in this process.
//!
//! Owns the input of a watch: events in a given order over all kinds, connections that end, lines that are no
//! event, "too old" and "no streaming lists".
//!
//! Invariants: its lists are what its watches have sent, so whatever a client missed or could not read, its
//! next list is right. An event that no client could read changes nothing here either. A deleted Node is still
//! listed, since the proxy keeps the last one. `default/kubernetes` always exists, as with every API server.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures::stream::{self, StreamExt};
use kube::{Client, core::WatchEvent};
use portico_nodeproxy::{
    convert::{Decode, Decoded, DecodedRanges, DecodedSlice},
    node::NodeState,
};
use portico_proxy_core::input::Service;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// The node whose proxy asks.
pub(crate) const NODE: &str = "here";

/// Kinds that the proxy watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Services,
    Slices,
    Nodes,
    Ranges,
}

/// The next step of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A line, whether it is an event or not.
    Line(String),
    /// An event that the watch never hears of, because it has to list again.
    Missed(String),
    /// The connection ends.
    End,
}

/// Namespace and name.
type Id = (String, String);

/// The last line about each object.
pub(crate) type Objects = BTreeMap<(Kind, Id), String>;

/// The API server.
pub(crate) struct Api {
    stored: Mutex<Stored>,
    moved: Notify,
}

struct Stored {
    objects: Objects,
    steps: VecDeque<(Kind, Step)>,
    /// Kinds whose watch has had everything and asked for more.
    over: BTreeSet<Kind>,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Services, Self::Slices, Self::Nodes, Self::Ranges];

    /// Its name in the API's paths.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slices => "endpointslices",
            Self::Nodes => "nodes",
            Self::Ranges => "servicecidrs",
        }
    }

    pub(crate) fn named(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }

    /// Reads a line as the proxy's watch does; `None` if it is no event of an object.
    fn read(self, line: &str) -> Option<(bool, Id)> {
        match self {
            Self::Services => event::<Service>(line),
            Self::Slices => event::<DecodedSlice>(line),
            Self::Nodes => event::<NodeState>(line),
            Self::Ranges => event::<DecodedRanges>(line),
        }
    }
}

/// Whether the object is there after the event, and which it is.
fn event<T: Decode>(line: &str) -> Option<(bool, Id)> {
    let (stays, Decoded { metadata, .. }) = match serde_json::from_str::<WatchEvent<Decoded<T>>>(line).ok()? {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => (true, object),
        WatchEvent::Deleted(object) => (false, object),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => return None,
    };
    Some((stays, (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default())))
}

impl Api {
    pub(crate) fn new(objects: Objects, steps: impl IntoIterator<Item = (Kind, Step)>) -> Arc<Self> {
        let stored = Stored { objects, steps: steps.into_iter().collect(), over: BTreeSet::new() };
        Arc::new(Self { stored: Mutex::new(stored), moved: Notify::new() })
    }

    /// A client of this server; to be made inside a runtime.
    pub(crate) fn client(self: &Arc<Self>) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    /// Everything that is there.
    pub(crate) fn objects(&self) -> Objects {
        self.stored().objects.clone()
    }

    /// Another client begins.
    pub(crate) fn begin(&self) {
        self.stored().over.clear();
    }

    /// How many steps are still to come.
    pub(crate) fn to_come(&self) -> usize {
        self.stored().steps.len()
    }

    /// Waits until no more than so many steps are to come.
    pub(crate) async fn until(&self, to_come: usize) {
        while self.to_come() > to_come {
            self.moved.notified().await;
        }
    }

    /// Waits until every watch has sent everything.
    pub(crate) async fn all_sent(&self) {
        while self.stored().over.len() < Kind::ALL.len() {
            self.moved.notified().await;
        }
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next line of a kind's watch, once it is its turn; `None` at the end of the connection.
    async fn next(&self, kind: Kind) -> Option<String> {
        loop {
            match self.stored().take(kind) {
                Turn::Over => return None,
                Turn::Step(step) => {
                    self.moved.notify_waiters();
                    return match step {
                        Step::Line(line) => Some(line),
                        Step::Missed(_) => Some(failure(410, "Expired")),
                        Step::End => None,
                    };
                }
                Turn::NotYet => {}
            }
            // One thread: nothing moves between the look and the wait.
            self.moved.notified().await;
        }
    }

    fn list(&self, kind: Kind) -> Response {
        let stored = self.stored();
        let items: Vec<Value> = stored
            .lines(kind)
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|mut event| event.get_mut("object").map(Value::take))
            .collect();
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
        list.to_string().into_response()
    }

    /// The first lines of a streaming list.
    fn beginning(&self, kind: Kind) -> Vec<String> {
        let end = json!({"type": "BOOKMARK", "object": {"kind": "Bookmark", "apiVersion": "v1", "metadata":
            {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}});
        self.stored().lines(kind).cloned().chain([end.to_string()]).collect()
    }
}

/// Objects of every API server: its own Service, with a slice, and the Node of the proxy.
pub(crate) fn always() -> Objects {
    let service = json!({"metadata": {"namespace": "default", "name": "kubernetes"}, "spec":
        {"clusterIPs": ["10.96.255.1"], "ports": [{"name": "https", "port": 443}]}});
    let labels = json!({"kubernetes.io/service-name": "kubernetes"});
    let slice = json!({"metadata": {"namespace": "default", "name": "kubernetes", "labels": labels},
        "addressType": "IPv4", "ports": [{"name": "https", "port": 6443}], "endpoints": [{"addresses": ["192.0.2.254"]}]});
    let line = |object: Value| json!({"type": "ADDED", "object": object}).to_string();
    let id = || ("default".to_owned(), "kubernetes".to_owned());
    let node = json!({"metadata": {"name": NODE}, "status":
        {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    Objects::from([
        ((Kind::Services, id()), line(service)),
        ((Kind::Slices, id()), line(slice)),
        ((Kind::Nodes, (String::new(), NODE.to_owned())), line(node)),
    ])
}

enum Turn {
    Step(Step),
    NotYet,
    Over,
}

impl Stored {
    fn lines(&self, kind: Kind) -> impl Iterator<Item = &String> {
        self.objects.iter().filter(move |((of, _), _)| *of == kind).map(|(_, line)| line)
    }

    fn take(&mut self, kind: Kind) -> Turn {
        let Some((first, _)) = self.steps.front() else { return Turn::Over };
        if *first != kind {
            let has_more = self.steps.iter().any(|(of, _)| *of == kind);
            return if has_more { Turn::NotYet } else { Turn::Over };
        }
        let Some((_, step)) = self.steps.pop_front() else { return Turn::Over };
        if let Step::Line(line) | Step::Missed(line) = &step
            && let Some((stays, id)) = kind.read(line)
        {
            if stays {
                self.objects.insert((kind, id), line.clone());
            } else if kind != Kind::Nodes {
                self.objects.remove(&(kind, id));
            }
        }
        Turn::Step(step)
    }
}

/// The line that says that a watch cannot go on: 410 is "too old", 422 is "no streaming lists".
pub(crate) fn failure(code: u16, reason: &str) -> String {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no",
        "reason": reason, "code": code});
    json!({"type": "ERROR", "object": status}).to_string()
}

/// Drops what the proxy's field selector keeps from it: other nodes.
pub(crate) fn is_sent(kind: Kind, step: &Step) -> bool {
    let (Step::Line(line) | Step::Missed(line)) = step else { return true };
    let other = |(_, (namespace, name)): (bool, Id)| !namespace.is_empty() || name != NODE;
    kind != Kind::Nodes || !kind.read(line).is_some_and(other)
}

async fn answer(State(api): State<Arc<Api>>, uri: Uri) -> Response {
    let Some(kind) = uri.path().rsplit('/').next().and_then(Kind::named) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let query = uri.query().unwrap_or_default();
    if !query.contains("watch=true") {
        return api.list(kind);
    }
    let is_list = query.contains("sendInitialEvents=true");
    if !is_list && !api.stored().steps.iter().any(|(of, _)| *of == kind) {
        api.stored().over.insert(kind);
        api.moved.notify_waiters();
        return std::future::pending().await;
    }
    let beginning = if is_list { api.beginning(kind) } else { Vec::new() };
    let rest = stream::unfold(api, move |api| async move { api.next(kind).await.map(|line| (line, api)) });
    let lines = stream::iter(beginning).chain(rest).map(|line| Ok::<_, Infallible>(line + "\n"));
    Body::from_stream(lines).into_response()
}
