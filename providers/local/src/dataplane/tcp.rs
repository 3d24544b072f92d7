//! TCP: accept, choose a target, copy both ways.
//!
//! Owns: listening sockets and connections. Leaves to others: the choice (`pool`).
//! Invariant: half-close passes through in both directions; a target that refuses costs a client nothing while
//! another accepts; closing the listener does not close its connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use portico_provider::ProxyProtocol;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::metrics::count;
use super::{Wiring, proxy_header};

/// Connections the kernel keeps for us until we accept them.
const BACKLOG: u32 = 1024;
/// After a failed accept (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket on exactly this address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // After a restart old connections are in TIME_WAIT, and the address must be ours at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until told to stop.
pub async fn accept(listener: TcpListener, wiring: Wiring) {
    loop {
        let accepted = tokio::select! {
            () = wiring.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) if wiring.pool.choice().admits(peer.ip()) => {
                count(&wiring.shared.metrics.tcp_connections);
                wiring.connections.spawn(serve(client, peer, wiring.clone()));
            }
            Ok((client, _peer)) => {
                count(&wiring.shared.metrics.source_rejected);
                reset(&client);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(mut client: TcpStream, peer: SocketAddr, wiring: Wiring) {
    let ended = tokio::select! {
        () = wiring.kill.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        ended = carry(&mut client, peer, &wiring) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended early");
        // An end that is not the target's own must not look like one.
        reset(&client);
    }
}

async fn carry(client: &mut TcpStream, peer: SocketAddr, wiring: &Wiring) -> io::Result<()> {
    let (mut target, address) = connect(peer, wiring).await?;
    client.set_nodelay(true)?;
    target.set_nodelay(true)?;
    if wiring.pool.proxy_protocol() == ProxyProtocol::V2 {
        target.write_all(&proxy_header::header(peer, client.local_addr()?)).await?;
    }
    tokio::select! {
        copied = tokio::io::copy_bidirectional(client, &mut target) => copied.map(|_bytes| ()),
        () = drained(address, wiring) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The first candidate that accepts.
async fn connect(peer: SocketAddr, wiring: &Wiring) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
    for target in wiring.pool.candidates(peer.ip()) {
        match tokio::time::timeout(wiring.shared.timing.connect, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => {
                wiring.pool.connected(peer.ip(), target);
                return Ok((stream, target));
            }
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
        tracing::debug!(to = %target, error = %last, "target did not accept");
    }
    count(&wiring.shared.metrics.no_target);
    Err(last)
}

/// Ends when the connection's target or listener has been gone for the drain timeout.
async fn drained(target: SocketAddr, wiring: &Wiring) {
    loop {
        tokio::select! {
            () = wiring.leaving.cancelled() => {}
            () = wiring.pool.left(target) => {}
        }
        tokio::time::sleep(wiring.shared.timing.drain).await;
        // A target that came back keeps its connections.
        if wiring.leaving.is_cancelled() || !wiring.pool.has(target) {
            return;
        }
    }
}

/// Closes with RST: `SO_LINGER` of zero, through the socket that tokio holds.
fn reset(client: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(client).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset a connection");
    }
}
