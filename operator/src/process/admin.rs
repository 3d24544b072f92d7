//! Health, metrics and plans over HTTP.
//!
//! ```text
//! /livez /healthz /readyz /metrics   everybody
//! /plan                              loopback, or a bearer token whose user may get the URL (`access`)
//! ```
//! Owns: the paths. Leaves to others: what is counted and planned, who may read plans (`access`), connections (the runtime crate).
//! Invariants: neither the provider nor the lease makes a pod unready: a standby is ready to take over, and a
//! restart does not mend a cloud. `/plan` needs authorization; however many ask, it is planned once at a
//! time, beside the threads that renew the lease.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kube::Client;
use portico_runtime::http::{self, Connections};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cache::store::Cache;
use crate::reconcile::plan::ServicePlan;

mod access;
mod plans;

use access::Access;
use plans::Plans;

/// The path of the plans, which is also the `nonResourceURL` that RBAC grants.
const PLAN: &str = "/plan";

/// The sources of the endpoints' answers.
#[derive(Clone)]
pub(crate) struct Admin {
    /// Ready once all watches have their first list.
    cache: Arc<Cache>,
    registry: Arc<Registry>,
    /// The plans of every Service.
    plans: Arc<Plans>,
    /// Authorization for the plans.
    access: Arc<Access>,
}

impl Admin {
    /// `plans`: those of every Service, whether this process leads or not. `client`: reviews bearer tokens.
    pub(crate) fn new(
        cache: Arc<Cache>,
        registry: Registry,
        plans: impl Fn() -> Vec<ServicePlan> + Send + Sync + 'static,
        client: Client,
    ) -> Self {
        Self {
            cache,
            registry: Arc::new(registry),
            plans: Arc::new(Plans::new(plans)),
            access: Arc::new(Access::new(client)),
        }
    }
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, admin: Admin) {
    let alive = || async { "ok\n" };
    let router = Router::new()
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route(PLAN, get(plan))
        .with_state(admin);
    http::serve(listener, router, Connections::default(), CancellationToken::new()).await;
}

async fn ready(State(Admin { cache, .. }): State<Admin>) -> Response {
    if cache.is_synced() {
        return "ok\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the first lists of Services, Nodes, EndpointSlices and pods are not there yet\n",
    )
        .into_response()
}

async fn metrics(State(Admin { registry, .. }): State<Admin>) -> Response {
    http::exposition(&registry)
}

/// By what was read last, so that asking costs the provider nothing; JSON, as `portico-operator plan -o json` prints it.
async fn plan(
    State(Admin { plans, access, .. }): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = access.check(peer, &headers, PLAN).await {
        return refusal.into_response();
    }
    match plans.get().await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => {
            tracing::error!(error, "plans not made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests;
