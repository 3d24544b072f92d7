//! The HTTP servers of a process: listening, serving, and the answer of `/metrics`.
//!
//! Owns: sockets and limits ([`Connections`]). Leaves to others: routes. A handler reads its client's address as
//! `ConnectInfo<SocketAddr>`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use axum::{
    Extension, Router,
    extract::ConnectInfo,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod connections;

pub use connections::{Connections, MOST};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Listens on an address. The unspecified address of either family means both families, as in Go's `net.Listen`; where the
/// machine has no IPv6, it means all of IPv4.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let on = |ip: IpAddr| bind(SocketAddr::new(ip, address.port()));
    if !address.ip().is_unspecified() {
        return bind(address);
    }
    match on(Ipv6Addr::UNSPECIFIED.into()) {
        // The first error says more if this fails, too.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            on(Ipv4Addr::UNSPECIFIED.into()).or(Err(error))
        }
        both => both,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // The machine's default (net.ipv6.bindv6only) may be either.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?; // a predecessor's connections may linger
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `router` until `stop`. When it returns, nobody listens any more.
pub async fn serve(listener: TcpListener, router: Router, connections: Connections, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.admit(stream, router.clone().layer(Extension(ConnectInfo(peer))), &stop);
                }
                Err(error) => connections.rest(&error).await,
            },
        }
    }
}

/// The answer of `/metrics`: the registry in the `OpenMetrics` text format.
pub fn exposition(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_of_either_family_is_that_of_both() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let listener = listen(address.parse().expect("an address")).expect("any port");
            let port = listener.local_addr().expect("an address").port();
            for host in ["127.0.0.1", "::1"] {
                assert!(tokio::net::TcpStream::connect((host, port)).await.is_ok(), "{address} by {host}");
            }
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error() {
        let first = listen(([127, 0, 0, 1], 0).into()).expect("any port");
        let second = listen(first.local_addr().expect("an address"));
        assert_eq!(second.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
