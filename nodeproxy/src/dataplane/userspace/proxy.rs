//! State that every socket of the userspace proxy shares.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::{runtime::Handle, sync::mpsc};

use super::{clients::Clients, counters::Counters, faults::Fault, files::Files, pool::Choice};

/// Connections that the kernel queues for each listening socket.
const BACKLOG: i32 = 1024;
/// Silence after which keepalive probes detect a dead peer.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Flags of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Choice of endpoints.
    pub choice: Choice,
    /// Longest idle time of a UDP flow.
    pub udp_timeout: Duration,
    /// Mark of the packets to endpoints, so that the ruleset does not redirect them. Setting it needs
    /// `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
}

/// Shared by all pools.
#[derive(Debug)]
pub struct Proxy {
    /// Runtime of the tasks.
    pub runtime: Handle,
    /// Flags of the proxy.
    pub options: Options,
    /// The budget of open files.
    pub files: Files,
    /// Clients with affinity.
    pub clients: Arc<Clients>,
    /// Metrics of the proxy.
    pub counters: Counters,
    /// Reports to owners of Services.
    pub faults: mpsc::Sender<Fault>,
}

impl Proxy {
    /// Sets the proxy's mark on a socket to an endpoint.
    pub fn mark<'s>(&self, socket: impl Into<SockRef<'s>>) -> io::Result<()> {
        self.options.mark.map_or(Ok(()), |mark| socket.into().set_mark(mark))
    }
}

/// A listening TCP socket on exactly this address.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, Type::STREAM)?;
    // A predecessor's connections may still be in TIME_WAIT. This lets nobody listen beside us.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A UDP socket on exactly this address.
pub fn receive(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket(address, Type::DGRAM)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)
}

/// Sets options of both sockets of a connection: no delay, and keepalives. A socket that refuses them still
/// works.
pub fn tune<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "a connection is not tuned");
    }
}

/// Makes a socket close with RST, so that an aborted stream does not look complete.
pub fn reset<'s>(socket: impl Into<SockRef<'s>>) {
    if let Err(error) = socket.into().set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection is not reset");
    }
}
