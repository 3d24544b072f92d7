//! UDP sockets to endpoints, and their datagrams and errors.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use portico_proxy_core::table::Backend;
use tokio::{io::Interest, net::UdpSocket};

use super::{super::proxy::Proxy, exchange::DATAGRAM};

thread_local! {
    /// One buffer for all sockets of a thread, used only between two awaits.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM]);
}

/// Result of one read of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A datagram, and who sent it.
    Datagram(Vec<u8>, SocketAddr),
    /// Nothing, although the socket was ready.
    Nothing,
}

/// A new socket that is connected to an endpoint.
pub(super) async fn connect(proxy: &Proxy, backend: Backend) -> io::Result<UdpSocket> {
    let any: IpAddr = match backend.address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    proxy.mark(&socket)?;
    socket.connect((backend.address, backend.port)).await?;
    Ok(socket)
}

/// Waits until a socket is ready, and reads it. Also returns the error of an ICMP message about an earlier
/// datagram, which does not make a socket readable.
pub(super) async fn hear(socket: &UdpSocket) -> io::Result<Received> {
    let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
    if ready.is_error() {
        let pending = || socket.take_error()?.map_or_else(|| Err(io::ErrorKind::WouldBlock.into()), Err);
        match socket.try_io(Interest::ERROR, pending) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    BUFFER.with_borrow_mut(|buffer| match socket.try_recv_from(buffer) {
        Ok((length, from)) => Ok(Received::Datagram(buffer[..length].to_vec(), from)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(error) => Err(error),
    })
}
