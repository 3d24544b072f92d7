//! Health check node ports: how a load balancer finds the nodes that have endpoints of an `externalTrafficPolicy: Local`
//! Service.
//!
//! Owns the listeners and the answer, which is kube-proxy's to the byte (`pkg/proxy/healthcheck/service_health.go`). Leaves
//! counting endpoints to the model. A port that is taken is tried again with the next change and every [`RETRY`], and said
//! once, in the log and by an Event with kube-proxy's reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use portico_proxy_core::{input::ServiceName, model::HealthCheck};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{Duration, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    events::{About, Notice},
    health::Health,
    serve,
};

/// How often to try for a port that is taken.
pub const RETRY: Duration = Duration::from_secs(5);

/// What the sync loop publishes: the checks, and the addresses to answer on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Health check node ports by Service.
    pub checks: BTreeMap<ServiceName, HealthCheck>,
    /// Node addresses on which NodePorts answer.
    pub addresses: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Server {
    endpoints: Arc<AtomicUsize>,
    _stop: DropGuard,
}

/// The running servers, by Service and address.
#[derive(Debug)]
pub struct Servers {
    health: Health,
    running: BTreeMap<(ServiceName, SocketAddr), Server>,
    refused: BTreeSet<SocketAddr>,
    notices: mpsc::Sender<Notice>,
}

/// Keeps the servers as published until the publisher is gone.
pub async fn follow(
    mut published: watch::Receiver<Published>,
    health: Health,
    notices: mpsc::Sender<Notice>,
) {
    let mut servers = Servers::new(health, notices);
    loop {
        let now = published.borrow_and_update().clone();
        servers.update(&now).await;
        let changed = published.changed();
        let changed = if servers.refused.is_empty() {
            changed.await
        } else {
            timeout(RETRY, changed).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Servers {
    /// No server yet; `notices` are for the owners of Services.
    pub fn new(health: Health, notices: mpsc::Sender<Notice>) -> Self {
        Self { health, running: BTreeMap::new(), refused: BTreeSet::new(), notices }
    }

    /// Starts, changes and stops servers.
    pub async fn update(&mut self, published: &Published) {
        let Published { checks, addresses } = published;
        let wanted: BTreeMap<_, _> = checks
            .iter()
            .flat_map(|(name, check)| {
                addresses.iter().map(move |ip| ((name.clone(), SocketAddr::new(*ip, check.port)), check))
            })
            .collect();
        self.running.retain(|key, _| wanted.contains_key(key));
        self.refused.retain(|address| wanted.keys().any(|(_, wanted)| wanted == address));
        for (key, check) in wanted {
            if let Some(server) = self.running.get(&key) {
                server.endpoints.store(check.local_endpoints, Ordering::Relaxed);
            } else {
                self.start(key, check.local_endpoints).await;
            }
        }
    }

    async fn start(&mut self, key: (ServiceName, SocketAddr), endpoints: usize) {
        let (service, address) = &key;
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                if self.refused.insert(*address) {
                    tracing::warn!(%service, %address, %error, "cannot listen on a health check node port");
                    self.tell(service, *address, &error);
                }
                return;
            }
        };
        self.refused.remove(address);
        let stop = CancellationToken::new();
        let endpoints = Arc::new(AtomicUsize::new(endpoints));
        let router = router(service.clone(), endpoints.clone(), self.health.clone());
        let task = serve::serve(listener, router, stop.clone());
        tokio::spawn(async move {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a health check node port closed");
            }
        });
        self.running.insert(key, Server { endpoints, _stop: stop.drop_guard() });
    }
}

impl Servers {
    /// Tells the owner, if there is room.
    fn tell(&self, service: &ServiceName, address: SocketAddr, error: &std::io::Error) {
        let note = format!(
            "the health check node port {} cannot be served on {address} ({error}): load balancers may take this node for \
             one without endpoints; end the program that has the port, or give spec.healthCheckNodePort another",
            address.port()
        );
        let reason = "FailedToStartServiceHealthcheck";
        let about = About::Service(service.clone());
        let notice = Notice { about, reason, action: "Listen", note };
        if self.notices.try_send(notice).is_err() {
            tracing::debug!(%service, reason, "no room for an Event");
        }
    }
}

fn router(service: ServiceName, endpoints: Arc<AtomicUsize>, health: Health) -> Router {
    let handler =
        move || async move { answer(&service, endpoints.load(Ordering::Relaxed), health.is_live()) };
    Router::new().fallback(any(handler))
}

fn answer(service: &ServiceName, endpoints: usize, healthy: bool) -> Response {
    let code = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("x-load-balancing-endpoint-weight"), HeaderValue::from(endpoints)),
    ];
    (code, headers, body(service, endpoints, healthy)).into_response()
}

/// Names of Services and namespaces are DNS labels: nothing in them needs escaping.
fn body(service: &ServiceName, endpoints: usize, healthy: bool) -> String {
    let ServiceName { namespace, name } = service;
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::sleep,
    };

    use super::*;

    fn mk_name() -> ServiceName {
        ServiceName { namespace: "default".into(), name: "web".into() }
    }

    fn mk_published(port: u16, local_endpoints: usize) -> Published {
        Published {
            checks: BTreeMap::from([(mk_name(), HealthCheck { port, local_endpoints })]),
            addresses: BTreeSet::from(["127.0.0.1".parse().expect("an address")]),
        }
    }

    async fn get(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    #[tokio::test]
    async fn a_load_balancer_is_told_whether_the_node_has_endpoints() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("any port");
        let port = free.local_addr().expect("an address").port();
        let (notices, mut told) = mpsc::channel(8);
        let mut servers = Servers::new(Health::default(), notices);
        for _ in 0..2 {
            servers.update(&mk_published(port, 2)).await;
            assert!(servers.running.is_empty(), "the port is taken");
        }
        let notice = told.try_recv().expect("the owner is told");
        assert_eq!(notice.reason, "FailedToStartServiceHealthcheck");
        assert_eq!(notice.about, About::Service(mk_name()));
        assert!(notice.note.contains(&port.to_string()), "{}", notice.note);
        assert!(told.try_recv().is_err(), "and once only");
        drop(free);

        servers.update(&mk_published(port, 2)).await;
        let text = get(port).await.expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(text.contains("x-load-balancing-endpoint-weight: 2"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(text.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
        assert_eq!(json["service"]["name"], "web");
        assert_eq!(json["localEndpoints"], 2);
        assert_eq!(json["serviceProxyHealthy"], true);

        servers.update(&mk_published(port, 0)).await;
        assert!(get(port).await.expect("an answer").starts_with("HTTP/1.1 503"));
        servers.update(&Published::default()).await;
        assert!(servers.running.is_empty());
    }

    #[tokio::test]
    async fn a_port_that_becomes_free_is_served_without_any_change() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("any port");
        let port = taken.local_addr().expect("an address").port();
        let (notices, mut told) = mpsc::channel(8);
        let (publish, published) = watch::channel(mk_published(port, 1));
        let follower = tokio::spawn(follow(published, Health::default(), notices));
        told.recv().await.expect("the port is taken");
        drop(taken);
        let mut answer = None;
        while answer.is_none() {
            sleep(RETRY / 100).await;
            answer = get(port).await;
        }
        assert!(answer.is_some_and(|text| text.starts_with("HTTP/1.1 200 OK")));
        drop(publish);
        follower.await.expect("no panic");
    }
}
