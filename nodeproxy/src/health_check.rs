//! Health check node ports, for load balancers that look for nodes with endpoints of an `externalTrafficPolicy:
//! Local` Service.
//!
//! Owns the listeners and the answer, which is kube-proxy's to the byte
//! (`pkg/proxy/healthcheck/service_health.go`). Each family answers on its own addresses and counts its own
//! endpoints. Leaves counting them to the model. A port that is taken is retried with the next change and every
//! [`RETRY`]. It is reported once, in the log and by an Event with kube-proxy's reason.
//!
//! Invariants: a port that passes from a Service to another keeps its listener. A port that is closed is free
//! before the next one opens.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use portico_proxy_core::{input::ServiceName, model::HealthCheck, table::Family};
use portico_runtime::http::{self, Connections};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Duration, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    events::{About, Notice},
    health::Health,
};

/// Interval of retries for a port that is taken.
pub const RETRY: Duration = Duration::from_secs(5);

/// Output of the sync loop: the checks, and the addresses to answer on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Health check node ports by Service.
    pub checks: BTreeMap<ServiceName, HealthCheck>,
    /// Node addresses on which NodePorts answer.
    pub addresses: BTreeSet<IpAddr>,
}

/// Content of an answer: the Service, and its ready endpoints on this node in the port's family.
type Answer = (ServiceName, usize);

#[derive(Debug)]
struct Server {
    answer: Arc<Mutex<Answer>>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

/// The running servers, by address.
#[derive(Debug)]
pub struct Servers {
    health: Health,
    connections: Connections,
    running: BTreeMap<SocketAddr, Server>,
    refused: BTreeSet<SocketAddr>,
    notices: mpsc::Sender<Notice>,
}

/// Keeps the servers as published until the publisher is gone.
pub async fn follow(mut published: watch::Receiver<Published>, mut servers: Servers) {
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
    /// Without servers; `notices` carries Events for the owners of Services.
    pub fn new(health: Health, connections: Connections, notices: mpsc::Sender<Notice>) -> Self {
        Self { health, connections, running: BTreeMap::new(), refused: BTreeSet::new(), notices }
    }

    /// Starts, changes and stops servers.
    pub async fn update(&mut self, published: &Published) {
        let wanted = wanted(published);
        for (_, Server { stop, task, answer: _ }) in
            self.running.extract_if(.., |address, _| !wanted.contains_key(address))
        {
            drop(stop);
            // An error means that the server panicked, and then it does not listen either.
            drop(task.await);
        }
        self.refused.retain(|address| wanted.contains_key(address));
        for (address, answer) in wanted {
            if let Some(server) = self.running.get(&address) {
                *server.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
            } else {
                self.start(address, answer);
            }
        }
    }

    fn start(&mut self, address: SocketAddr, answer: Answer) {
        let listener = match http::listen(address) {
            Ok(listener) => listener,
            Err(error) => {
                if self.refused.insert(address) {
                    let service = &answer.0;
                    tracing::warn!(%service, %address, %error, "cannot listen on a health check node port");
                    self.report(service, address, &error);
                }
                return;
            }
        };
        self.refused.remove(&address);
        let stop = CancellationToken::new();
        let answer = Arc::new(Mutex::new(answer));
        let router = router(answer.clone(), self.health.clone());
        let task = tokio::spawn(http::serve(listener, router, self.connections.clone(), stop.clone()));
        self.running.insert(address, Server { answer, stop: stop.drop_guard(), task });
    }
}

/// The answers by address. If several Services have the same port, which the API server does not allow, the
/// first by name gets it.
fn wanted(published: &Published) -> BTreeMap<SocketAddr, Answer> {
    let Published { checks, addresses } = published;
    let mut wanted = BTreeMap::new();
    for (name, check) in checks {
        for address in addresses {
            if let Some(endpoints) = check.local_endpoints(Family::of(*address)) {
                let answer = (name.clone(), endpoints);
                wanted.entry(SocketAddr::new(*address, check.port)).or_insert(answer);
            }
        }
    }
    wanted
}

impl Servers {
    /// Reports to the owner, if the channel has room.
    fn report(&self, service: &ServiceName, address: SocketAddr, error: &std::io::Error) {
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

fn router(now: Arc<Mutex<Answer>>, health: Health) -> Router {
    let handler = move || async move {
        let (service, endpoints) = now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        answer(&service, endpoints, health.is_live())
    };
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

/// Names of Services and namespaces are DNS labels, so nothing in them needs escaping.
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
        net::{TcpListener, TcpStream},
        time::sleep,
    };

    use super::*;

    fn mk_name() -> ServiceName {
        ServiceName { namespace: "default".into(), name: "web".into() }
    }

    fn mk_published(port: u16, local_endpoints: usize) -> Published {
        mk_published_of(mk_name(), HealthCheck { port, v4: Some(local_endpoints), v6: None })
    }

    fn mk_published_of(name: ServiceName, check: HealthCheck) -> Published {
        Published {
            checks: BTreeMap::from([(name, check)]),
            addresses: ["127.0.0.1", "::1"].map(|text| text.parse().expect("an address")).into(),
        }
    }

    fn mk_free_port() -> u16 {
        let free = http::listen(([0, 0, 0, 0], 0).into()).expect("any port");
        free.local_addr().expect("an address").port()
    }

    fn mk_servers() -> (Servers, mpsc::Receiver<Notice>) {
        let (notices, reported) = mpsc::channel(8);
        (Servers::new(Health::default(), Connections::default(), notices), reported)
    }

    async fn get(port: u16) -> Option<String> {
        get_from("127.0.0.1", port).await
    }

    async fn get_from(host: &str, port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    #[tokio::test]
    async fn a_load_balancer_learns_whether_the_node_has_endpoints() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("any port");
        let port = free.local_addr().expect("an address").port();
        let (mut servers, mut reported) = mk_servers();
        for _ in 0..2 {
            servers.update(&mk_published(port, 2)).await;
            assert!(servers.running.is_empty(), "the port is taken");
        }
        let notice = reported.try_recv().expect("the owner gets an Event");
        assert_eq!(notice.reason, "FailedToStartServiceHealthcheck");
        assert_eq!(notice.about, About::Service(mk_name()));
        assert!(notice.note.contains(&port.to_string()), "{}", notice.note);
        assert!(reported.try_recv().is_err(), "and once only");
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
    async fn a_port_that_passes_from_a_service_to_another_is_served_all_the_while() {
        let (mut servers, mut reported) = mk_servers();
        let port = mk_free_port();
        for (name, endpoints) in [("shop/web", 1), ("other/api", 2), ("shop/web", 3)] {
            let check = HealthCheck { port, v4: Some(endpoints), v6: None };
            servers.update(&mk_published_of(name.parse().expect("a name"), check)).await;
            let text = get(port).await.expect("an answer at once");
            assert!(text.contains(&format!("\"localEndpoints\": {endpoints}")), "{text}");
            assert!(text.contains(name.split_once('/').expect("a name").1), "{text}");
        }
        assert!(reported.try_recv().is_err(), "nobody else has the port");
    }

    #[tokio::test]
    async fn a_port_that_is_removed_and_comes_back_is_served_at_once() {
        let (mut servers, mut reported) = mk_servers();
        let port = mk_free_port();
        for _ in 0..20 {
            servers.update(&mk_published(port, 1)).await;
            assert!(get(port).await.is_some());
            servers.update(&Published::default()).await;
            assert!(get(port).await.is_none());
        }
        assert!(reported.try_recv().is_err(), "nobody else has the port");
    }

    #[tokio::test]
    async fn each_family_counts_its_own_endpoints_and_one_that_the_service_lacks_is_not_served() {
        let (mut servers, _reported) = mk_servers();
        let port = mk_free_port();
        let both = HealthCheck { port, v4: Some(2), v6: Some(0) };
        servers.update(&mk_published_of(mk_name(), both)).await;
        let text = get(port).await.expect("an answer");
        assert!(text.contains("x-load-balancing-endpoint-weight: 2"), "{text}");
        let text = get_from("::1", port).await.expect("an answer");
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("\"localEndpoints\": 0"), "{text}");
        servers.update(&mk_published(port, 2)).await;
        assert!(get_from("::1", port).await.is_none(), "the Service has no IPv6");
    }

    #[tokio::test]
    async fn a_port_that_becomes_free_is_served_without_any_change() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("any port");
        let port = taken.local_addr().expect("an address").port();
        let (servers, mut reported) = mk_servers();
        let (publish, published) = watch::channel(mk_published(port, 1));
        let follower = tokio::spawn(follow(published, servers));
        reported.recv().await.expect("the port is taken");
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
