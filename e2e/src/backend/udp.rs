//! Datagrams: each one is answered by one, to where it came from. Leaves sockets and the stop signal to `backend.rs`.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::Identity;

/// Answers until the stop signal. A datagram that cannot be answered is logged and dropped, as UDP does.
pub(super) async fn answer(socket: UdpSocket, identity: Arc<Identity>, stop: CancellationToken) {
    let mut buffer = vec![0; 65_536];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, client)) => reply(&socket, &identity, client, &buffer[..length]).await,
            Err(error) => tracing::debug!(%error, "receive"), // an ICMP error about an earlier answer
        }
    }
}

async fn reply(socket: &UdpSocket, identity: &Identity, client: SocketAddr, payload: &[u8]) {
    let port = socket.local_addr().map_or(0, |address| address.port());
    let own = identity.ip.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let mut answer = identity.answer("udp", client, SocketAddr::new(own, port));
    answer.payload = Some(String::from_utf8_lossy(payload).into_owned());
    let Ok(text) = serde_json::to_vec(&answer) else { return };
    if let Err(error) = socket.send_to(&text, client).await {
        tracing::warn!(%error, %client, "answer");
    }
}
