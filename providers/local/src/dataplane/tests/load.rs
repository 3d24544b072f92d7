//! The dataplane under load: changes in a storm of datagrams, and what one datagram costs.

use std::sync::mpsc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::*;

/// Runs on several threads, and fails instead of waiting for ever when all of them wait for each other.
fn on_threads(patience: Duration, test: impl Future<Output = ()> + Send + 'static) {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
        runtime.block_on(async { tokio::spawn(test).await.unwrap() });
        done.send(()).unwrap();
    });
    assert!(finished.recv_timeout(patience).is_ok(), "not done after {patience:?}: deadlocked, or it failed");
}

/// Targets that nobody serves; a probe of them is refused at once.
fn mk_targets(network: u8, count: u16) -> Vec<SocketAddr> {
    (0..count).map(|n| SocketAddr::from(([127, network, 1, 1], 10_000 + n))).collect()
}

#[test]
fn a_storm_of_changes_under_udp_traffic_ends_and_serving_targets_continue() {
    on_threads(Duration::from_mins(1), async {
        let server = mk_udp_server("127.220.0.9").await;
        let mut targets = mk_targets(220, 50);
        let mut spec = mk_spec(mk_key(Protocol::Udp, 53), &targets);
        // Of the UDP targets too, so that each change leaves some that are not known yet.
        let port = ProbePort::Fixed(Port::try_from(9u16).unwrap());
        spec.health_check =
            Some(HealthCheck { interval: Duration::from_millis(1), ..mk_check(Probe::Tcp { port }) });
        let mut bench = Bench::new("127.220.0.1", &spec, PATIENCE).await;
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            clients.spawn(flood(SocketAddr::new(bench.address, 53)));
        }
        for change in 0..500 {
            targets.rotate_left(7);
            let some = targets.iter().take(25 + change % 25).copied();
            spec.listeners = [(mk_key(Protocol::Udp, 53), some.collect())].into();
            bench.apply(&spec).await;
            tokio::task::yield_now().await;
        }
        clients.shutdown().await;
        // Another port: the socket of this one may still have its buffer full of packets.
        bench.apply(&mk_spec(mk_key(Protocol::Udp, 54), &[server])).await;
        let client = UdpSocket::bind("127.220.5.1:0").await.unwrap();
        client.connect((bench.address, 54)).await.unwrap();
        assert_eq!(ask(&client).await, server);
    });
}

async fn flood(frontend: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    loop {
        // Refused by ICMP where the target is: no matter.
        socket.send_to(b"packet", frontend).await.ok();
        tokio::task::yield_now().await;
    }
}

/// How long a question and its answer take through a frontend with so many targets and source ranges: the median.
async fn round_trip(address: &str, server: SocketAddr, others: u16) -> Duration {
    let network = address.parse::<std::net::Ipv4Addr>().unwrap().octets()[1];
    let mut targets = mk_targets(network, others);
    targets.push(server);
    let mut spec = mk_spec(mk_key(Protocol::Udp, 53), &targets);
    let range = |n: u16| format!("10.{}.{}.0/25", n / 256, n % 256).parse().unwrap();
    spec.source_ranges = (0..others).map(range).chain(["127.0.0.0/8".parse().unwrap()]).collect();
    let bench = Bench::new(address, &spec, PATIENCE).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect((bench.address, 53)).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..101 {
        let start = Instant::now();
        assert_eq!(ask(&client).await, server);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_datagram_costs_the_same_whatever_the_number_of_targets_and_source_ranges() {
    // Lower than the other targets, so that the first flow goes there.
    let server = mk_udp_server("127.1.0.9").await;
    let (few, many) =
        (round_trip("127.221.0.1", server, 1).await, round_trip("127.222.0.1", server, 20_000).await);
    println!("round trip: {few:?} with 2 targets, {many:?} with 20,001");
    assert!(many < few * 5, "{few:?} with 2 targets, {many:?} with 20,001");
}
