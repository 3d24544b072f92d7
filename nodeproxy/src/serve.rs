//! The HTTP servers: /healthz and /livez for load balancers and the kubelet, /metrics and /proxyMode for operators.
//!
//! Owns binding, which waits for a predecessor to let go of a port, and the routes. Leaves what they say to
//! [`crate::health`] and [`crate::metrics`], and what a client may cost to [`connections`].

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use backon::{ConstantBuilder, Retryable};
use prometheus_client::registry::Registry;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Health, Report},
    metrics::Metrics,
};

use connections::Connections;

pub mod connections;

/// How long between two attempts to bind.
const PAUSE: Duration = Duration::from_millis(500);
/// Connections that may wait to be accepted on a port.
const BACKLOG: i32 = 1024;

/// A port that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: give {flag} another address, or end the program that has this one")]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Binds a flag's address, waiting up to `patience` for whoever has it.
pub async fn bind(
    flag: &'static str,
    address: SocketAddr,
    patience: Duration,
) -> Result<TcpListener, BindError> {
    let attempts = usize::try_from(patience.as_millis() / PAUSE.as_millis()).unwrap_or(usize::MAX);
    (|| listen(address))
        .retry(ConstantBuilder::default().with_delay(PAUSE).with_max_times(attempts))
        .when(|error| error.kind() == io::ErrorKind::AddrInUse)
        .notify(|error, _| tracing::warn!(flag, %address, %error, "waiting for a port"))
        .await
        .map_err(|source| BindError { flag, address, source })
}

/// Listens on an address. One that stands for all addresses stands for those of both families, as in Go's `net.Listen`.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return TcpListener::bind(address).await;
    }
    match listen_on_both_families(address.port()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(address).await, // no IPv6 here
        both => both,
    }
}

fn listen_on_both_families(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?; // a predecessor's connections may linger
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until told to stop. When it returns, nobody listens any more.
pub async fn serve(listener: TcpListener, router: Router, connections: Connections, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.admit(stream, router.clone(), &stop),
                Err(error) => connections.rest(&error).await,
            },
        }
    }
}

/// /healthz and /livez.
pub fn health_router(health: Health, metrics: Metrics) -> Router {
    let (live_health, live_metrics) = (health.clone(), metrics.clone());
    let healthz = move || async move {
        let report = health.healthz();
        metrics.answered_healthz(code(&report).as_u16());
        answer(&report)
    };
    let livez = move || async move {
        let report = live_health.livez();
        live_metrics.answered_livez(code(&report).as_u16());
        answer(&report)
    };
    Router::new().route("/healthz", get(healthz)).route("/livez", get(livez))
}

/// /metrics and /proxyMode.
pub fn metrics_router(registry: Arc<Registry>, mode: &'static str) -> Router {
    let metrics = move || async move { exposition(&registry) };
    Router::new().route("/metrics", get(metrics)).route("/proxyMode", get(move || async move { mode }))
}

fn exposition(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn code(report: &Report) -> StatusCode {
    if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn answer(report: &Report) -> Response {
    let nosniff = [(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))];
    (code(report), nosniff, Json(report)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_names_the_flag() {
        let first = bind("--healthz-bind-address", ([127, 0, 0, 1], 0).into(), Duration::ZERO).await;
        let address = first.as_ref().expect("any port").local_addr().expect("an address");
        let second = bind("--healthz-bind-address", address, Duration::ZERO).await;
        assert!(second.expect_err("taken").to_string().contains("--healthz-bind-address"));
    }

    #[tokio::test]
    async fn the_unspecified_address_of_either_family_is_that_of_both() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let listener = listen(address.parse().expect("an address")).await.expect("any port");
            let port = listener.local_addr().expect("an address").port();
            for host in ["127.0.0.1", "::1"] {
                assert!(tokio::net::TcpStream::connect((host, port)).await.is_ok(), "{address} by {host}");
            }
        }
    }

    #[tokio::test]
    async fn a_port_that_becomes_free_in_time_is_taken() {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("any port");
        let address = first.local_addr().expect("an address");
        let second = tokio::spawn(bind("--healthz-bind-address", address, Duration::from_secs(20)));
        drop(first);
        assert!(second.await.expect("no panic").is_ok());
    }
}
