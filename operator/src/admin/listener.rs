//! The admin port: an address of both families, and a bounded number of connections.
//!
//! Owns: binding, and closing the oldest connection for a new one. Leaves to others: what is said on one.
//! Invariants: where the address is unspecified, clients of either family get an answer; idle connections never use up the
//! process's file descriptors, nor keep the kubelet's probes out.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections at once.
const MOST: usize = 256;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 256;

/// An open port.
pub(crate) struct Listener {
    socket: TcpListener,
    open: VecDeque<CancellationToken>,
}

impl Listener {
    /// Opens it. An unspecified address of either family means both; where the machine has no IPv6, all of IPv4.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.ip().is_unspecified() {
            let both = listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port()));
            both.or_else(|error| {
                let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                // The first error tells more if this fails, too: the port may just be taken.
                listen(v4).or(Err(error))
            })?
        } else {
            listen(address)?
        };
        Ok(Self { socket, open: VecDeque::new() })
    }

    /// Where it listens; port 0 has become a real one.
    #[cfg(test)]
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// A place for one more: the oldest that is still open gives way.
    fn admit(&mut self) -> CancellationToken {
        self.open.retain(|closed| !closed.is_cancelled());
        if self.open.len() >= MOST
            && let Some(oldest) = self.open.pop_front()
        {
            oldest.cancel();
        }
        let closed = CancellationToken::new();
        self.open.push_back(closed.clone());
        closed
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // The machine's default (net.ipv6.bindv6only) may be either.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, peer) = axum::serve::Listener::accept(&mut self.socket).await;
        let closed = self.admit();
        (Connection { stream, cut: Box::pin(closed.clone().cancelled_owned()), closed }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// A connection, until a newer one needs its place.
pub(crate) struct Connection {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    closed: CancellationToken,
}

impl Connection {
    /// The stream, unless it has to give way.
    fn poll_stream(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Pin::new(&mut self.stream))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(context)?.poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_stream(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
