//! What every socket of the userspace proxy shares.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::{runtime::Handle, sync::mpsc};

use super::{clients::Clients, counters::Counters, faults::Fault, files::Files, pool::Choice};

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 1024;
/// A peer that is gone without a word is noticed by probes after so much silence.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What the proxy is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How endpoints are chosen.
    pub choice: Choice,
    /// How long a UDP flow may be idle.
    pub udp_timeout: Duration,
    /// Mark of the packets to endpoints, by which the ruleset tells them from clients'. Setting one needs `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
}

/// Shared by all pools.
#[derive(Debug)]
pub struct Proxy {
    /// Where tasks run.
    pub runtime: Handle,
    /// Settings.
    pub options: Options,
    /// The budget of open files.
    pub files: Files,
    /// Clients with affinity.
    pub clients: Arc<Clients>,
    /// Counters.
    pub counters: Counters,
    /// What owners of Services should know.
    pub faults: mpsc::Sender<Fault>,
}

impl Proxy {
    /// Puts our mark on what a socket sends to an endpoint.
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

/// What both ends of a connection should be: prompt, and noticed when they vanish. A socket that refuses still works.
pub fn tune<'s>(socket: impl Into<SockRef<'s>>) {
    let socket = socket.into();
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "a connection is not tuned");
    }
}

/// Lets a socket close with RST: what did not end by itself must not look as if it had.
pub fn reset<'s>(socket: impl Into<SockRef<'s>>) {
    if let Err(error) = socket.into().set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection is not reset");
    }
}
