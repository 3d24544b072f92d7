//! TCP: accepts a connection, connects to an endpoint, relays bytes.
//!
//! Owns accepting and the life of a connection. Leaves the choice to the pool, attempts to `dial`, bytes to
//! `relay`.
//!
//! Invariants: a connection outlives its listener, its pool and its endpoint's place in the list. A client
//! without an endpoint is reset, and never left waiting. Without files for both sockets a client waits, and the
//! next ones wait in the kernel's backlog.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use portico_proxy_core::table::Backend;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    dial::{self, Dial, DialError},
    files::{self, Share},
    pool::Pool,
    proxy::{Proxy, reset, tune},
    relay::relay,
};

/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Files of one connection: the client's and the endpoint's.
const FILES: u32 = 2;

/// Accepts until `stop`.
pub async fn accept(listener: TcpListener, pool: Arc<Pool>, proxy: Arc<Proxy>, stop: CancellationToken) {
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((client, peer)) => {
                    let share = proxy.files.take(FILES).await;
                    proxy.counters.connections.inc();
                    tokio::spawn(serve(client, peer, pool.clone(), proxy.clone(), share));
                }
                // A client that went away before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if files::is_exhausted(&error) {
                        proxy.files.exhausted();
                    } else {
                        tracing::warn!(frontend = %pool.key().frontend, %error, "clients cannot be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

async fn serve(client: TcpStream, peer: SocketAddr, pool: Arc<Pool>, proxy: Arc<Proxy>, share: Share) {
    proxy.counters.open_connections.inc();
    if let Err(error) = carry(client, peer.ip(), &pool, &proxy).await {
        let frontend = pool.key().frontend;
        tracing::debug!(%frontend, %peer, error = portico_runtime::chain(&error), "a connection ended early");
    }
    proxy.counters.open_connections.dec();
    drop(share);
}

/// Reasons why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    #[error("it was connected to no endpoint")]
    Dial(#[source] DialError),
    #[error("one side broke it off")]
    Relay(#[source] io::Error),
}

async fn carry(mut client: TcpStream, peer: IpAddr, pool: &Pool, proxy: &Proxy) -> Result<(), CarryError> {
    let failed = |backend: Backend, error: &io::Error| {
        proxy.counters.failed("Attempt");
        tracing::debug!(%backend, %error, "an endpoint did not accept");
    };
    let connected = dial::connect(pool, peer, &Endpoints { proxy }, failed).await;
    let (mut endpoint, _backend) = connected.map_err(|error| {
        proxy.counters.failed(error.reason());
        if matches!(error, DialError::Here(_)) {
            proxy.files.exhausted();
        }
        reset(&client);
        CarryError::Dial(error)
    })?;
    tune(&client);
    tune(&endpoint);
    relay(&mut client, &mut endpoint).await.map_err(|error| {
        reset(&client);
        reset(&endpoint);
        CarryError::Relay(error)
    })
}

/// Connections from this node to endpoints.
struct Endpoints<'a> {
    proxy: &'a Proxy,
}

impl Dial for Endpoints<'_> {
    type Stream = TcpStream;

    async fn dial(&self, backend: Backend) -> io::Result<TcpStream> {
        let socket = if backend.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        self.proxy.mark(&socket)?;
        socket.connect(SocketAddr::new(backend.address, backend.port)).await
    }
}
