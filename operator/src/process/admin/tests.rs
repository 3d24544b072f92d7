//! The port as clients meet it, with the API server's two reviews played by a router of this test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::process::fence::fence;
use crate::reconcile::plan::ServicePlan;

/// How many reviews of each kind there were.
#[derive(Clone, Default)]
struct Reviews {
    tokens: Arc<AtomicU32>,
    accesses: Arc<AtomicU32>,
}

/// An API server that knows the tokens `reader` and `other`, and lets the first one get `/plan`.
fn api_server(reviews: &Reviews) -> Client {
    let Reviews { tokens, accesses } = reviews.clone();
    let who = move |Json(asked): Json<Value>| async move {
        tokens.fetch_add(1, Ordering::Relaxed);
        let name = asked["spec"]["token"].as_str().unwrap_or_default().to_owned();
        let known = matches!(name.as_str(), "reader" | "other");
        let user = json!({ "username": name, "groups": ["system:authenticated"], "extra": { "k": ["v"] } });
        let status = if known { json!({ "authenticated": true, "user": user }) } else { json!({}) };
        Json(json!({ "metadata": {}, "spec": asked["spec"], "status": status }))
    };
    let may = move |Json(asked): Json<Value>| async move {
        accesses.fetch_add(1, Ordering::Relaxed);
        let spec = &asked["spec"];
        let url = json!({ "path": "/plan", "verb": "get" });
        let allowed = spec["user"] == "reader"
            && spec["nonResourceAttributes"] == url
            && spec["groups"][0] == "system:authenticated"
            && spec["extra"]["k"][0] == "v";
        Json(json!({ "metadata": {}, "spec": spec, "status": { "allowed": allowed } }))
    };
    let router = Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(who))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(may));
    Client::new(router, "default")
}

fn mk_plan() -> ServicePlan {
    ServicePlan {
        service: "shop/secret".to_owned(),
        stages: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        plan: None,
        failed: None,
    }
}

fn mk_admin(reviews: &Reviews, make: impl Fn() + Send + Sync + 'static) -> Admin {
    let make = move || {
        make();
        vec![mk_plan()]
    };
    Admin {
        cache: Arc::default(),
        registry: Arc::default(),
        plans: Arc::new(Plans::new(make)),
        access: Arc::new(Access::new(api_server(reviews))),
    }
}

/// A served port on both families.
fn start(admin: Admin) -> (u16, JoinSet<()>) {
    let listener = http::listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut server = JoinSet::new();
    server.spawn(async move { serve(listener, admin).await });
    (port, server)
}

/// One request, and all of the answer.
async fn ask(to: SocketAddr, path: &str, headers: &str) -> String {
    say(TcpStream::connect(to).await.unwrap(), path, headers).await
}

async fn say(mut stream: TcpStream, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

/// From an address that is not the pod's own, as packets of other pods and of sidecars come.
async fn ask_as_another(port: u16, path: &str, headers: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), 0)).unwrap();
    say(socket.connect(v4(port)).await.unwrap(), path, headers).await
}

#[tokio::test]
async fn plans_are_for_loopback_and_for_those_whom_rbac_lets() {
    let reviews = Reviews::default();
    let (port, _server) = start(mk_admin(&reviews, || ()));
    for (headers, code) in [
        ("", "401"),
        ("Authorization: Basic cmVhZGVyOng=\r\n", "401"),
        ("Authorization: Bearer \r\n", "401"),
        ("Authorization: Bearer nobody\r\n", "401"),
        ("Authorization: Bearer other\r\n", "403"),
        ("X-Forwarded-For: 127.0.0.1\r\n", "401"),
    ] {
        let answer = ask_as_another(port, "/plan", headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{headers}: {answer}");
        assert!(!answer.contains("shop/secret"), "{headers}: {answer}");
    }
    let answer = ask_as_another(port, "/plan", "Authorization: bearer reader\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("shop/secret"), "{answer}");
    let before = reviews.tokens.load(Ordering::Relaxed);
    ask_as_another(port, "/plan", "Authorization: Bearer reader\r\n").await;
    assert_eq!(reviews.tokens.load(Ordering::Relaxed), before, "who passed is remembered for a moment");
    for local in [v4(port), SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)] {
        let answer = ask(local, "/plan", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("application/json"), "{answer}");
        let answer = ask(local, "/plan", "X-Forwarded-For: 10.0.0.9\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "a proxy in this pod is not its callers: {answer}");
    }
}

#[tokio::test]
async fn without_an_answer_of_the_api_server_nobody_is_let_in() {
    let admin = mk_admin(&Reviews::default(), || ());
    let deaf = Client::new(Router::new(), "default");
    let (port, _server) = start(Admin { access: Arc::new(Access::new(deaf)), ..admin });
    let answer = ask_as_another(port, "/plan", "Authorization: Bearer reader\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && !answer.contains("shop/secret"), "{answer}");
}

#[tokio::test]
async fn health_and_metrics_are_for_everybody_and_show_no_service() {
    let admin = mk_admin(&Reviews::default(), || ());
    let (port, _server) = start(admin);
    for (path, code) in
        [("/livez", 200), ("/healthz", 200), ("/readyz", 503), ("/metrics", 200), ("/debug", 404)]
    {
        let answer = ask_as_another(port, path, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{path}: {answer}");
        assert!(!answer.contains("secret"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn however_many_ask_it_is_planned_once_and_the_lease_is_renewed_meanwhile() {
    let made = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&made);
    let planning = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        // What a thousand Services cost: a thread that does nothing else.
        std::thread::sleep(Duration::from_millis(300));
    };
    let (port, _server) = start(mk_admin(&Reviews::default(), planning));
    // A lease of 150 ms that is renewed on the runtime's one thread, and a thread that watches whether it ever lapses.
    let (keeper, fence) = fence();
    let lease = Duration::from_millis(150);
    keeper.open(Instant::now() + lease);
    let watching = fence.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        while stopped
            .recv_timeout(Duration::from_millis(5))
            .is_err_and(|it| it == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            if !watching.is_open() {
                return false;
            }
        }
        true
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            keeper.open(Instant::now() + lease);
            sleep(Duration::from_millis(20)).await;
        }
    });
    // Clients that hang up begin nothing that goes on beside the others.
    for _ in 0..8 {
        let mut stream = TcpStream::connect(v4(port)).await.unwrap();
        stream.write_all(b"GET /plan HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    }
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        clients.spawn(async move { ask(v4(port), "/plan", "").await });
    }
    let answers = timeout(Duration::from_secs(20), clients.join_all()).await.unwrap();
    assert!(answers.iter().all(|answer| answer.contains("shop/secret")));
    drop(stop);
    assert!(watch.join().unwrap(), "the lease lapsed while plans were made");
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn idle_connections_keep_no_probe_out() {
    let (port, _server) = start(mk_admin(&Reviews::default(), || ()));
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(v4(port)).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    let answer = timeout(Duration::from_secs(10), ask(v4(port), "/livez", "")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut rest = Vec::new();
    let oldest = timeout(Duration::from_secs(10), idle[0].read_to_end(&mut rest)).await.unwrap();
    assert!(oldest.is_err() || rest.is_empty(), "the oldest was closed without an answer");
}

#[tokio::test]
async fn an_unspecified_address_of_either_family_answers_on_both() {
    for unspecified in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        let listener = http::listen(SocketAddr::new(unspecified, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for client in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            TcpStream::connect(SocketAddr::new(client, port)).await.unwrap();
        }
    }
    let only = http::listen(v4(0)).unwrap();
    let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), only.local_addr().unwrap().port());
    assert!(TcpStream::connect(other).await.is_err(), "an address that is named is that one");
}
