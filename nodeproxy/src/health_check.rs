//! Health check node ports: how a load balancer finds the nodes that have endpoints of an `externalTrafficPolicy: Local`
//! Service.
//!
//! Owns the listeners and the answer, which is kube-proxy's to the byte (`pkg/proxy/healthcheck/service_health.go`). Leaves
//! counting endpoints to the model. A port that is taken is tried again with the next change, and said once.

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
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{health::Health, serve};

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
}

/// Keeps the servers as published until the publisher is gone.
pub async fn follow(mut published: watch::Receiver<Published>, health: Health) {
    let mut servers = Servers::new(health);
    loop {
        let now = published.borrow_and_update().clone();
        servers.update(&now).await;
        if published.changed().await.is_err() {
            return;
        }
    }
}

impl Servers {
    /// No server yet.
    pub fn new(health: Health) -> Self {
        Self { health, running: BTreeMap::new(), refused: BTreeSet::new() }
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
        let mut servers = Servers::new(Health::default());
        servers.update(&mk_published(port, 2)).await;
        assert!(servers.running.is_empty(), "the port is taken");
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
}
