//! UDP flows over loopback: whom they reach, when they end, and what one that is refused does.

use std::collections::BTreeSet;

use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::dataplane::userspace::{
    pool::Rules,
    pool::{
        Choice, Pool,
        tests::{mk_key, mk_pool},
    },
    tests::mk_proxy,
};

async fn mk_endpoint() -> (UdpSocket, Backend) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port");
    let address = socket.local_addr().expect("an address");
    (socket, Backend { address: address.ip(), port: address.port() })
}

async fn mk_flows(backend: Backend) -> (Arc<Flows>, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port");
    let address = socket.local_addr().expect("an address");
    let rules = Rules { backends: Box::new([backend]), affinity: None };
    let pool: Pool = mk_pool(Choice::RoundRobin, rules);
    assert_eq!(pool.key(), mk_key());
    let flows = Flows::new(socket, Arc::new(pool), mk_proxy(100_000).0, CancellationToken::new());
    (flows, address)
}

async fn ask(client: &UdpSocket, endpoint: &UdpSocket, to: SocketAddr) -> SocketAddr {
    client.send_to(b"?", to).await.expect("sends");
    endpoint.recv_from(&mut [0; 16]).await.expect("is asked").1
}

async fn answer(endpoint: &UdpSocket, client: &UdpSocket, flow: SocketAddr) {
    endpoint.send_to(b"!", flow).await.expect("answers");
    client.recv_from(&mut [0; 16]).await.expect("is answered");
}

async fn turn(client: &UdpSocket, endpoint: &UdpSocket, to: SocketAddr) {
    let flow = ask(client, endpoint, to).await;
    answer(endpoint, client, flow).await;
}

/// Whether the only flow is still there `after` it was last used. The clock is paused: nothing else takes time.
async fn lives(flows: &Flows, after: Duration) -> bool {
    tokio::time::pause();
    tokio::time::advance(after).await;
    flows.sweep();
    tokio::time::resume();
    !flows.flows().is_empty()
}

#[tokio::test]
async fn a_question_and_its_answer_are_forgotten_soon_and_a_conversation_later() {
    let ((endpoint, backend), client) =
        (mk_endpoint().await, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port"));
    let (flows, to) = mk_flows(backend).await;
    let task = tokio::spawn(flows.clone().forward());
    turn(&client, &endpoint, to).await;
    assert!(lives(&flows, SHORT.saturating_sub(Duration::from_secs(2))).await);
    assert!(!lives(&flows, Duration::from_secs(3)).await, "one question");
    turn(&client, &endpoint, to).await;
    turn(&client, &endpoint, to).await;
    assert!(lives(&flows, Duration::from_secs(110)).await, "a conversation");
    assert!(!lives(&flows, Duration::from_secs(11)).await);
    flows.stop.cancel();
    task.await.expect("no panic");
}

#[tokio::test]
async fn questions_without_an_answer_are_no_conversation() {
    let ((endpoint, backend), client) =
        (mk_endpoint().await, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port"));
    let (flows, to) = mk_flows(backend).await;
    let _task = AbortOnDropHandle::new(tokio::spawn(flows.clone().forward()));
    for _ in 0..3 {
        ask(&client, &endpoint, to).await;
    }
    assert!(!lives(&flows, SHORT + Duration::from_secs(1)).await);
}

#[tokio::test]
async fn either_side_keeps_a_conversation_alive() {
    let ((endpoint, backend), client) =
        (mk_endpoint().await, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port"));
    let (flows, to) = mk_flows(backend).await;
    let _task = AbortOnDropHandle::new(tokio::spawn(flows.clone().forward()));
    turn(&client, &endpoint, to).await;
    turn(&client, &endpoint, to).await;
    let nearly = Duration::from_secs(110);
    assert!(lives(&flows, nearly).await);
    let flow = ask(&client, &endpoint, to).await;
    assert!(lives(&flows, nearly).await, "the client has asked");
    answer(&endpoint, &client, flow).await;
    assert!(lives(&flows, nearly).await, "the endpoint has answered");
}

#[tokio::test]
async fn all_flows_end_with_their_socket() {
    let ((endpoint, backend), client) =
        (mk_endpoint().await, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port"));
    let (flows, to) = mk_flows(backend).await;
    let task = tokio::spawn(flows.clone().forward());
    turn(&client, &endpoint, to).await;
    assert_eq!(flows.keep(&BTreeSet::from([backend])), 0);
    flows.stop.cancel();
    task.await.expect("no panic");
    assert!(flows.flows().is_empty());
    assert_eq!(flows.proxy.counters.open_flows.get(), 0);
}
