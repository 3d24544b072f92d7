//! Health and metrics over HTTP.
//!
//! Owns: `/livez`, `/readyz`, `/metrics`, `/plan`. Leaves to others: what is counted and planned.
//! Invariant: neither the provider nor the lease makes a pod unready: a standby is ready to take over, and a
//! restart does not mend a cloud.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use portico_provider::LoadBalancerProvider;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::cluster::Cluster;
use crate::planned::ServicePlan;
use crate::reconcile::Operator;
use crate::world::World;

/// What the endpoints answer from.
#[derive(Clone)]
pub(crate) struct Admin {
    /// Ready once all watches have their first list.
    pub(crate) world: Arc<World>,
    /// The metrics.
    pub(crate) registry: Arc<Registry>,
    /// What would be done for each Service.
    plans: Arc<dyn Fn() -> Vec<ServicePlan> + Send + Sync>,
}

impl Admin {
    /// Of an operator, whether it leads or not.
    pub(crate) fn of<P: LoadBalancerProvider, C: Cluster>(
        operator: &Arc<Operator<P, C>>,
        registry: Registry,
    ) -> Self {
        let (world, planning) = (Arc::clone(&operator.world), Arc::clone(operator));
        Self { world, registry: Arc::new(registry), plans: Arc::new(move || planning.plans_known()) }
    }
}

/// Opens the port. Where the machine has no IPv6, `[::]` means all of IPv4.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => {
            let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            // The first error tells more if this fails, too: the port may just be taken.
            TcpListener::bind(v4).await.or(Err(error))
        }
        bound => bound,
    }
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/plan", get(plan))
        .with_state(admin);
    axum::serve(listener, router).await
}

async fn ready(State(Admin { world, .. }): State<Admin>) -> Response {
    if world.is_synced() {
        return "ok\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the first lists of Services, Nodes and EndpointSlices are not there yet\n",
    )
        .into_response()
}

async fn metrics(State(Admin { registry, .. }): State<Admin>) -> Response {
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// By what was read last, so that asking costs the provider nothing; JSON, as `portico-operator plan -o json` prints it.
async fn plan(State(Admin { plans, .. }): State<Admin>) -> Json<Vec<ServicePlan>> {
    Json(plans())
}
