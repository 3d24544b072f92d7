//! The dataplane with real sockets on loopback: every address in 127.0.0.0/8 answers by itself, and each test
//! has a network of its own in it. Waiting is for events (`eventually`), bounded, never for a time to pass.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portico_provider::{
    HealthCheck, ListenerKey, Port, Probe, ProbePort, Protocol, ProxyProtocol, SessionAffinity,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::health::Verdict;
use super::metrics::Metrics;
use super::proxy_header::parser;
use super::{LiveBalancer, Shared, Timing};
use crate::api::Spec;

const PATIENCE: Duration = Duration::from_secs(10);

fn mk_key(protocol: Protocol, port: u16) -> ListenerKey {
    ListenerKey { protocol, port: Port::try_from(port).unwrap() }
}

fn mk_spec(key: ListenerKey, targets: &[SocketAddr]) -> Spec {
    Spec::plain([(key, targets.iter().copied().collect())].into())
}

fn mk_check(probe: Probe) -> HealthCheck {
    let quick = Duration::from_millis(20);
    HealthCheck { probe, interval: quick, timeout: PATIENCE, healthy_threshold: 2, unhealthy_threshold: 2 }
}

/// One balancer on one address, with a short drain.
struct Bench {
    balancer: LiveBalancer,
    address: IpAddr,
}

impl Bench {
    async fn new(address: &str, spec: &Spec, drain: Duration) -> Self {
        let timing = Timing { drain, udp_idle: Duration::from_mins(1), connect: PATIENCE };
        let shared = Shared { timing, metrics: Arc::new(Metrics::default()) };
        let mut bench = Self { balancer: LiveBalancer::new(shared), address: address.parse().unwrap() };
        bench.apply(spec).await;
        bench
    }

    async fn apply(&mut self, spec: &Spec) {
        let errors = self.balancer.apply(spec, &[self.address].into()).await;
        assert_eq!(errors, BTreeMap::new());
    }

    /// Targets of these that are healthy.
    fn healthy(&self, targets: &[SocketAddr]) -> Vec<SocketAddr> {
        let verdicts = self.balancer.health().verdicts(targets.iter().copied()).targets;
        let healthy = |(target, verdict)| (verdict == Verdict::Healthy).then_some(target);
        verdicts.into_iter().filter_map(healthy).collect()
    }

    async fn connect(&self, port: u16) -> TcpStream {
        TcpStream::connect((self.address, port)).await.unwrap()
    }
}

/// A TCP server that says its name and then echoes; stops listening when dropped.
struct Backend {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Backend {
    async fn new(ip: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                tokio::spawn(echo(stream, address));
            }
        });
        Self { address, task }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(mut stream: TcpStream, name: SocketAddr) {
    let greeting = format!("{name}\n");
    if stream.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    let (mut read, mut write) = stream.split();
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        write.write_all(b"end").await.ok();
    }
}

async fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        match timeout(PATIENCE, stream.read_u8()).await?? {
            b'\n' => return Ok(text),
            byte => text.push(char::from(byte)),
        }
    }
}

async fn who(bench: &Bench, port: u16) -> std::io::Result<SocketAddr> {
    let mut stream = bench.connect(port).await;
    Ok(line(&mut stream).await?.parse().unwrap())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_are_spread_evenly_over_the_targets() {
    let backends = [Backend::new("127.210.1.1").await, Backend::new("127.210.1.2").await];
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let bench = Bench::new("127.210.0.1", &mk_spec(mk_key(Protocol::Tcp, 80), &addresses), PATIENCE).await;
    let mut counts = BTreeMap::new();
    for _ in 0..20 {
        *counts.entry(who(&bench, 80).await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_half_closed_connection_still_carries_the_answer() {
    let backend = Backend::new("127.211.1.1").await;
    let bench =
        Bench::new("127.211.0.1", &mk_spec(mk_key(Protocol::Tcp, 80), &[backend.address]), PATIENCE).await;
    let mut stream = bench.connect(80).await;
    line(&mut stream).await.unwrap();
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "questionend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_that_refuses_costs_no_client_anything() {
    let (alive, dead) = (Backend::new("127.212.1.1").await, "127.212.1.2:9".parse().unwrap());
    let bench =
        Bench::new("127.212.0.1", &mk_spec(mk_key(Protocol::Tcp, 80), &[alive.address, dead]), PATIENCE)
            .await;
    for _ in 0..6 {
        assert_eq!(who(&bench, 80).await.unwrap(), alive.address);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn new_traffic_leaves_an_unhealthy_target_and_comes_back() {
    let backends = [Backend::new("127.213.1.1").await, Backend::new("127.213.1.2").await];
    let sick = backends[1].address;
    let both = [backends[0].address, sick];
    let mut spec = mk_spec(mk_key(Protocol::Tcp, 80), &both);
    let port = Port::try_from(31_000u16).unwrap();
    spec.health_check =
        Some(mk_check(Probe::Http { port: ProbePort::Fixed(port), path: "/healthz".to_owned() }));
    let healthy = mk_healthz("127.213.1.1:31000", "200 OK");
    let failing = mk_healthz("127.213.1.2:31000", "503 Service Unavailable");
    let bench = Bench::new("127.213.0.1", &spec, PATIENCE).await;
    eventually("only the first is healthy", async || bench.healthy(&both) == [both[0]]).await;
    for _ in 0..4 {
        assert_eq!(who(&bench, 80).await.unwrap(), backends[0].address);
    }
    failing.abort();
    assert!(failing.await.unwrap_err().is_cancelled());
    let recovered = mk_healthz("127.213.1.2:31000", "200 OK");
    eventually("the second recovers", async || bench.healthy(&both).contains(&sick)).await;
    let seen = [who(&bench, 80).await.unwrap(), who(&bench, 80).await.unwrap()];
    assert!(seen.contains(&sick), "{seen:?}");
    for probe in [healthy, recovered] {
        probe.abort();
        assert!(probe.await.unwrap_err().is_cancelled());
    }
    eventually("none is healthy", async || bench.healthy(&both).is_empty()).await;
    who(&bench, 80).await.expect("with no healthy target it fails open");
}

fn mk_healthz(address: &str, status: &str) -> JoinHandle<()> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    tokio::spawn(async move {
        while let Ok((mut stream, _peer)) = listener.accept().await {
            let mut request = [0; 1024];
            if !matches!(stream.read(&mut request).await, Ok(length) if length > 0) {
                continue;
            }
            assert!(request.starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.ok();
        }
    })
}

async fn connect_from(client: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{client}:0").parse().unwrap())?;
    socket.connect(to).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_outside_the_source_ranges_gets_nothing() {
    let backend = Backend::new("127.214.1.1").await;
    let mut spec = mk_spec(mk_key(Protocol::Tcp, 80), &[backend.address]);
    spec.source_ranges = ["127.214.5.0/24".parse().unwrap()].into();
    let bench = Bench::new("127.214.0.1", &spec, PATIENCE).await;
    let frontend = SocketAddr::new(bench.address, 80);
    let mut inside = connect_from("127.214.5.1", frontend).await.unwrap();
    assert!(line(&mut inside).await.is_ok());
    // Reset before it is seen as connected, or after.
    if let Ok(mut outside) = connect_from("127.214.6.1", frontend).await {
        assert!(line(&mut outside).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_with_affinity_stays_and_another_may_go_elsewhere() {
    let backends = [Backend::new("127.215.1.1").await, Backend::new("127.215.1.2").await];
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let mut spec = mk_spec(mk_key(Protocol::Tcp, 80), &addresses);
    spec.session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_hours(1) };
    let bench = Bench::new("127.215.0.1", &spec, PATIENCE).await;
    let frontend = SocketAddr::new(bench.address, 80);
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for client in ["127.215.5.1", "127.215.5.2", "127.215.5.1", "127.215.5.1", "127.215.5.2"] {
        let mut stream = connect_from(client, frontend).await.unwrap();
        seen.entry(client).or_default().insert(line(&mut stream).await.unwrap());
    }
    assert!(seen.values().all(|targets| targets.len() == 1), "{seen:?}");
    assert_ne!(seen["127.215.5.1"], seen["127.215.5.2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_target_reads_the_clients_address_from_the_proxy_header() {
    let listener = TcpListener::bind("127.216.1.1:0").await.unwrap();
    let mut spec = mk_spec(mk_key(Protocol::Tcp, 80), &[listener.local_addr().unwrap()]);
    spec.proxy_protocol = ProxyProtocol::V2;
    let bench = Bench::new("127.216.0.1", &spec, PATIENCE).await;
    let mut client = bench.connect(80).await;
    client.write_all(b"data").await.unwrap();
    let (mut server, _peer) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut bytes = [0; 32];
    timeout(PATIENCE, server.read_exact(&mut bytes)).await.unwrap().unwrap();
    let (source, destination, length) = parser::parse(&bytes).unwrap();
    assert_eq!((source, destination), (client.local_addr().unwrap(), client.peer_addr().unwrap()));
    assert_eq!(&bytes[length..], b"data");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unaffected_connections_outlive_a_change_and_those_of_a_removed_target_drain() {
    let backends = [Backend::new("127.217.1.1").await, Backend::new("127.217.1.2").await];
    let [kept, removed] = [backends[0].address, backends[1].address];
    let key = mk_key(Protocol::Tcp, 80);
    let mut bench = Bench::new("127.217.0.1", &mk_spec(key, &[kept, removed]), Duration::from_secs(1)).await;
    let mut streams = BTreeMap::new();
    for _ in 0..2 {
        let mut stream = bench.connect(80).await;
        streams.insert(line(&mut stream).await.unwrap(), stream);
    }
    let mut spec = mk_spec(key, &[kept]);
    spec.listeners.insert(mk_key(Protocol::Tcp, 81), [kept].into());
    bench.apply(&spec).await;
    for stream in streams.values_mut() {
        stream.write_all(b"still here\n").await.unwrap();
        assert_eq!(line(stream).await.unwrap(), "still here");
    }
    assert_eq!([who(&bench, 80).await.unwrap(), who(&bench, 81).await.unwrap()], [kept, kept]);
    let ended = line(streams.get_mut(&removed.to_string()).unwrap()).await;
    assert!(ended.is_err(), "the drain timeout ends it");
    let stays = streams.get_mut(&kept.to_string()).unwrap();
    stays.write_all(b"and on\n").await.unwrap();
    assert_eq!(line(stays).await.unwrap(), "and on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn retiring_refuses_the_new_and_waits_for_the_old() {
    let backend = Backend::new("127.218.1.1").await;
    let bench =
        Bench::new("127.218.0.1", &mk_spec(mk_key(Protocol::Tcp, 80), &[backend.address]), PATIENCE).await;
    let mut stream = bench.connect(80).await;
    line(&mut stream).await.unwrap();
    let frontend = SocketAddr::new(bench.address, 80);
    let retiring = tokio::spawn(bench.balancer.retire());
    eventually("new connections are refused", async || TcpStream::connect(frontend).await.is_err()).await;
    assert!(!retiring.is_finished());
    stream.write_all(b"last words\n").await.unwrap();
    assert_eq!(line(&mut stream).await.unwrap(), "last words");
    drop(stream);
    timeout(PATIENCE, retiring).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_udp_client_keeps_its_flow_and_moves_when_its_target_leaves() {
    let servers = [mk_udp_server("127.219.1.1").await, mk_udp_server("127.219.1.2").await];
    let key = mk_key(Protocol::Udp, 53);
    let mut bench = Bench::new("127.219.0.1", &mk_spec(key, &servers), PATIENCE).await;
    let client = UdpSocket::bind("127.219.5.1:0").await.unwrap();
    client.connect((bench.address, 53)).await.unwrap();
    let first = ask(&client).await;
    assert_eq!([ask(&client).await, ask(&client).await], [first, first]);
    let other = servers.into_iter().find(|server| *server != first).unwrap();
    bench.apply(&mk_spec(key, &[other])).await;
    assert_eq!(ask(&client).await, other);
}

/// Answers each packet with its own address.
async fn mk_udp_server(ip: &str) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 64];
        while let Ok((_length, peer)) = socket.recv_from(&mut packet).await {
            socket.send_to(address.to_string().as_bytes(), peer).await.unwrap();
        }
    });
    address
}

/// The client is connected, so only an answer from the balancer's own address arrives.
async fn ask(client: &UdpSocket) -> SocketAddr {
    client.send(b"who").await.unwrap();
    let mut answer = [0; 64];
    let length = timeout(PATIENCE, client.recv(&mut answer)).await.unwrap().unwrap();
    std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap()
}
