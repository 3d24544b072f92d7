//! UDP flows over loopback: their endpoints, their end, and the effect of a refusal.

use std::{future::Future, net::Ipv4Addr};

use socket2::SockRef;
use tokio_util::task::AbortOnDropHandle;

use super::{exchange::SHORT, *};
use crate::dataplane::userspace::{
    pool::{
        Choice, Rules,
        tests::{mk_affinity, mk_key},
    },
    tests::{PATIENCE, mk_proxy},
};

/// Files of the process beside those of flows.
const RESERVE: u64 = 256;

async fn mk_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port")
}

fn backend_of(endpoint: &UdpSocket) -> Backend {
    let address = endpoint.local_addr().expect("an address");
    Backend { address: address.ip(), port: address.port() }
}

/// The port stays taken, but only for datagrams of one other peer: those of others are refused.
async fn dies(endpoint: &UdpSocket) {
    endpoint.connect((Ipv4Addr::LOCALHOST, 9)).await.expect("a peer");
}

/// Flows to these endpoints, in turn, with files for so many.
async fn mk_flows(
    backends: &[Backend],
    affinity: Option<Duration>,
    files: u64,
) -> (Arc<UdpFlows>, SocketAddr) {
    let socket = mk_socket().await;
    let address = socket.local_addr().expect("an address");
    let proxy = mk_proxy(RESERVE + files).0;
    let rules = Rules { backends: backends.into(), affinity: affinity.map(mk_affinity) };
    let pool = Pool::new(mk_key(), rules, Choice::RoundRobin, proxy.clients.clone());
    (UdpFlows::new(socket, Arc::new(pool), proxy, CancellationToken::new()), address)
}

fn mk_pending(question: &str) -> Pending {
    Pending { questions: vec![question.as_bytes().to_vec()], tried: Vec::new() }
}

fn start(flows: &Arc<UdpFlows>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(flows.clone().forward()))
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

async fn say(from: &UdpSocket, text: &str, to: SocketAddr) {
    from.send_to(text.as_bytes(), to).await.expect("sends");
}

/// The next datagram, and its sender.
async fn heard(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 16];
    let (length, from) = within(socket.recv_from(&mut buffer)).await.expect("hears");
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

/// A question and its answer.
async fn turn(client: &UdpSocket, endpoint: &UdpSocket, to: SocketAddr) {
    say(client, "?", to).await;
    let (_, flow) = heard(endpoint).await;
    say(endpoint, "!", flow).await;
    assert_eq!(heard(client).await, ("!".to_owned(), to));
}

async fn counted(flows: &UdpFlows, reason: &'static str, times: u64) {
    let counters = &flows.proxy.counters;
    within(async {
        while counters.failures(reason) < times {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(counters.failures(reason), times, "{reason}");
}

/// Advances the paused clock.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Whether the only flow is still there `after` it was last used.
async fn lives(flows: &UdpFlows, after: Duration) -> bool {
    pass(after).await;
    flows.sweep();
    !flows.flows().is_empty()
}

#[tokio::test]
async fn a_question_and_its_answer_are_forgotten_soon_and_a_conversation_later() {
    let (endpoint, client) = (mk_socket().await, mk_socket().await);
    let (flows, to) = mk_flows(&[backend_of(&endpoint)], None, 9).await;
    let _task = start(&flows);
    turn(&client, &endpoint, to).await;
    assert!(lives(&flows, SHORT.saturating_sub(Duration::from_secs(2))).await);
    assert!(!lives(&flows, Duration::from_secs(3)).await, "one question");
    turn(&client, &endpoint, to).await;
    turn(&client, &endpoint, to).await;
    assert!(lives(&flows, Duration::from_secs(110)).await, "a conversation");
    assert!(!lives(&flows, Duration::from_secs(11)).await);
}

#[tokio::test]
async fn all_flows_end_with_their_socket() {
    let (endpoint, client) = (mk_socket().await, mk_socket().await);
    let (flows, to) = mk_flows(&[backend_of(&endpoint)], None, 9).await;
    let task = start(&flows);
    turn(&client, &endpoint, to).await;
    assert_eq!(flows.keep(&BTreeSet::from([backend_of(&endpoint)])), 0);
    flows.stop.cancel();
    task.await.expect("no panic");
    assert!(flows.flows().is_empty());
    assert_eq!(flows.proxy.counters.open_flows.get(), 0);
}

#[tokio::test]
async fn a_question_that_an_endpoint_refuses_goes_to_another_and_needs_no_second_file() {
    let (dead, alive, client) = (mk_socket().await, mk_socket().await, mk_socket().await);
    dies(&dead).await;
    let (flows, to) = mk_flows(&[backend_of(&dead), backend_of(&alive)], None, 1).await;
    let _task = start(&flows);
    say(&client, "?", to).await;
    assert_eq!(heard(&alive).await.0, "?");
    counted(&flows, "Attempt", 1).await;
}

#[tokio::test]
async fn an_endpoint_that_dies_in_a_conversation_costs_no_question_and_repeats_none() {
    let (one, two, client) = (mk_socket().await, mk_socket().await, mk_socket().await);
    let (flows, to) = mk_flows(&[backend_of(&one), backend_of(&two)], None, 9).await;
    let _task = start(&flows);
    turn(&client, &one, to).await;
    dies(&one).await;
    say(&client, "next", to).await;
    assert_eq!(heard(&two).await.0, "next", "and not what the other endpoint has answered");
}

#[tokio::test]
async fn questions_that_are_asked_at_once_all_go_to_another_endpoint() {
    let (dead, alive, client) = (mk_socket().await, mk_socket().await, mk_socket().await);
    dies(&dead).await;
    let (flows, _) = mk_flows(&[backend_of(&dead), backend_of(&alive)], None, 9).await;
    let client = client.local_addr().expect("an address");
    // A resolver's, before any task has heard that the first was refused.
    for question in ["A", "AAAA"] {
        flows.deliver(client, mk_pending(question)).await;
    }
    assert_eq!([heard(&alive).await.0, heard(&alive).await.0], ["A", "AAAA"]);
}

#[tokio::test]
async fn a_client_whose_questions_wait_for_files_at_once_gets_one_flow() {
    let (endpoint, others) = (mk_socket().await, [mk_socket().await, mk_socket().await]);
    let (flows, to) = mk_flows(&[backend_of(&endpoint)], None, 2).await;
    let _task = start(&flows);
    for other in &others {
        turn(other, &endpoint, to).await;
    }
    let client = mk_socket().await.local_addr().expect("an address");
    let ask = |question: &str| flows.deliver(client, mk_pending(question));
    // Each closes the flow of another client, and waits for its file.
    tokio::join!(ask("one"), ask("two"));
    let asked = BTreeSet::from([heard(&endpoint).await.0, heard(&endpoint).await.0]);
    assert_eq!(asked, ["one", "two"].map(str::to_owned).into());
    assert_eq!((flows.flows().len(), flows.proxy.counters.open_flows.get()), (1, 1));
}

#[tokio::test]
async fn a_question_that_comes_while_the_socket_closes_leaves_no_flow() {
    let (endpoint, client) = (mk_socket().await, mk_socket().await);
    let (flows, _) = mk_flows(&[backend_of(&endpoint)], None, 9).await;
    flows.stop.cancel();
    flows.deliver(client.local_addr().expect("an address"), mk_pending("?")).await;
    assert_eq!((flows.flows().len(), flows.proxy.counters.open_flows.get()), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_sent_by_a_flow_goes_to_another_endpoint() {
    let (one, two, client) = (mk_socket().await, mk_socket().await, mk_socket().await);
    let (flows, to) = mk_flows(&[backend_of(&one), backend_of(&two)], None, 9).await;
    let _task = start(&flows);
    turn(&client, &one, to).await;
    let flow = flows.flows().values().next().cloned().expect("a flow");
    SockRef::from(&flow.socket).shutdown(std::net::Shutdown::Write).expect("a socket");
    say(&client, "next", to).await;
    assert_eq!(heard(&two).await.0, "next");
}

#[tokio::test]
async fn an_endpoint_that_this_node_cannot_send_to_is_passed_over() {
    let (alive, client) = (mk_socket().await, mk_socket().await);
    // Broadcast, which a socket must ask for.
    let unreachable = Backend { address: Ipv4Addr::BROADCAST.into(), port: 9 };
    let (flows, to) = mk_flows(&[unreachable, backend_of(&alive)], None, 9).await;
    let _task = start(&flows);
    say(&client, "?", to).await;
    assert_eq!(heard(&alive).await.0, "?");
    counted(&flows, "Attempt", 1).await;
}

#[tokio::test]
async fn a_client_with_affinity_does_not_keep_an_endpoint_that_refused() {
    let (dead, client) = (mk_socket().await, mk_socket().await);
    dies(&dead).await;
    let (flows, to) = mk_flows(&[backend_of(&dead)], Some(Duration::from_mins(1)), 9).await;
    let _task = start(&flows);
    say(&client, "?", to).await;
    counted(&flows, "NoFlow", 1).await;
    let kept = flows.proxy.clients.get(
        &mk_affinity(Duration::from_mins(1)),
        Ipv4Addr::LOCALHOST.into(),
        Instant::now(),
    );
    assert_eq!(kept, None);
}

#[tokio::test]
async fn a_question_is_asked_a_few_times_and_then_dropped_and_counted() {
    let client = mk_socket().await;
    let mut dead = Vec::new();
    for _ in 0..=ATTEMPTS {
        dead.push(mk_socket().await);
        dies(&dead[dead.len() - 1]).await;
    }
    let backends: Vec<_> = dead.iter().map(backend_of).collect();
    let (flows, to) = mk_flows(&backends, None, 9).await;
    let _task = start(&flows);
    say(&client, "?", to).await;
    counted(&flows, "NoFlow", 1).await;
    counted(&flows, "Attempt", u64::try_from(ATTEMPTS).expect("few")).await;
    assert_eq!(flows.proxy.counters.open_flows.get(), 0);
}

#[tokio::test]
async fn without_files_the_idlest_flow_makes_room() {
    let endpoint = mk_socket().await;
    let clients = [mk_socket().await, mk_socket().await, mk_socket().await, mk_socket().await];
    let (flows, to) = mk_flows(&[backend_of(&endpoint)], None, 3).await;
    let _task = start(&flows);
    for number in [0, 1, 2, 0, 3] {
        turn(&clients[number], &endpoint, to).await;
        pass(Duration::from_secs(1)).await;
    }
    let with_flow =
        |client: &UdpSocket| flows.flows().contains_key(&client.local_addr().expect("an address"));
    assert_eq!(clients.each_ref().map(with_flow), [true, false, true, true]);
}
