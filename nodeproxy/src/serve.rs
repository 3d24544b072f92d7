//! The HTTP servers: /healthz and /livez for load balancers and the kubelet, /metrics and /proxyMode for operators.
//!
//! Owns binding, which waits for a predecessor to release a port, and the routes. Leaves the answers to
//! [`crate::health`] and [`crate::metrics`], and sockets to [`portico_runtime::http`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use backon::{ConstantBuilder, Retryable};
use portico_runtime::http;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::{
    health::{Health, Report},
    metrics::Metrics,
};

/// Pause between two attempts to bind.
const PAUSE: Duration = Duration::from_millis(500);

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: give {flag} another address, or end the program that has this one")]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Binds a flag's address; waits up to `patience` until it is free.
pub async fn bind(
    flag: &'static str,
    address: SocketAddr,
    patience: Duration,
) -> Result<TcpListener, BindError> {
    let attempts = usize::try_from(patience.as_millis() / PAUSE.as_millis()).unwrap_or(usize::MAX);
    (|| async move { http::listen(address) })
        .retry(ConstantBuilder::default().with_delay(PAUSE).with_max_times(attempts))
        .when(|error| error.kind() == io::ErrorKind::AddrInUse)
        .notify(|error, _| tracing::warn!(flag, %address, %error, "waiting for a port"))
        .await
        .map_err(|source| BindError { flag, address, source })
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
    let metrics = move || async move { http::exposition(&registry) };
    Router::new().route("/metrics", get(metrics)).route("/proxyMode", get(move || async move { mode }))
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
    async fn a_port_that_becomes_free_in_time_is_taken() {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("any port");
        let address = first.local_addr().expect("an address");
        let second = tokio::spawn(bind("--healthz-bind-address", address, Duration::from_secs(20)));
        drop(first);
        assert!(second.await.expect("no panic").is_ok());
    }
}
