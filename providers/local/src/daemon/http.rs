//! The API over HTTP: routes, the token, and errors with their status.
//!
//! Owns: what `api` describes, as a service. Leaves to others: doing it (`registry`).
//! Invariant: without the token nothing is shown and nothing changes; every refusal says why as JSON.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header::AUTHORIZATION};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use portico_provider::Owner;

use super::ipam::NoAddress;
use super::registry::{Registry, RegistryError};
use super::store::Key;
use crate::api::{Failure, FailureReason, Filter, Put, Targets, View};
use crate::dataplane::metrics::Metrics;

/// The state of the API's handlers.
#[derive(Clone, Debug)]
pub struct Api {
    /// The load balancers.
    pub registry: Registry,
    /// The bearer token.
    pub token: Arc<str>,
    /// The counters of `/metrics`.
    pub metrics: Arc<Metrics>,
}

/// The router of the API.
pub fn router(api: Api) -> Router {
    let one = get(get_one).put(put_one).delete(delete_one);
    Router::new()
        .route("/v1/load-balancers", get(list))
        .route("/v1/load-balancers/{cluster}/{service}", one)
        .route("/v1/load-balancers/{cluster}/{service}/targets", put(put_targets))
        .route_layer(from_fn_with_state(api.clone(), authorize))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .with_state(api)
}

async fn authorize(State(api): State<Api>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if same(token.as_bytes(), api.token.as_bytes()) {
        return next.run(request).await;
    }
    let message = "no bearer token, or not the one in this daemon's --token-file";
    Failure { reason: FailureReason::Unauthorized, message: message.to_owned() }.into_response()
}

/// Compares in a time that depends on the length only.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differing = given.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b));
    given.len() == token.len() && differing == 0
}

async fn metrics(State(api): State<Api>) -> String {
    api.metrics.text(api.registry.len())
}

async fn list(
    State(api): State<Api>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Vec<View>>, Failure> {
    let Query(filter) = filter.map_err(|rejection| invalid(rejection.body_text()))?;
    Ok(Json(api.registry.list(filter.cluster.as_ref())))
}

async fn get_one(State(api): State<Api>, Path(path): Path<(String, String)>) -> Result<Json<View>, Failure> {
    api.registry.get(&key(&path)?).map(Json).ok_or_else(absent)
}

fn absent() -> Failure {
    Failure { reason: FailureReason::NotFound, message: "no such load balancer".to_owned() }
}

async fn put_one(
    State(api): State<Api>,
    Path(path): Path<(String, String)>,
    body: Result<Json<Put>, JsonRejection>,
) -> Result<Json<View>, Failure> {
    let (cluster, service) = key(&path)?;
    let Json(put) = body.map_err(|rejection| invalid(rejection.body_text()))?;
    let owner = Owner { cluster, service, name: put.name.clone() };
    Ok(Json(api.registry.put(owner, put).await?))
}

async fn put_targets(
    State(api): State<Api>,
    Path(path): Path<(String, String)>,
    body: Result<Json<Targets>, JsonRejection>,
) -> Result<Json<View>, Failure> {
    let Json(targets) = body.map_err(|rejection| invalid(rejection.body_text()))?;
    api.registry.put_targets(key(&path)?, targets).await?.map(Json).ok_or_else(absent)
}

async fn delete_one(
    State(api): State<Api>,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    api.registry.delete(key(&path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn key((cluster, service): &(String, String)) -> Result<Key, Failure> {
    let cluster = cluster.parse().map_err(|error| invalid(format!("{error}")))?;
    let service = service.parse().map_err(|error| invalid(format!("{error}")))?;
    Ok((cluster, service))
}

fn invalid(message: String) -> Failure {
    Failure { reason: FailureReason::Invalid, message }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let reason = match &error {
            RegistryError::Invalid(_) | RegistryError::Address(NoAddress::OutOfRange { .. }) => {
                FailureReason::Invalid
            }
            RegistryError::Address(NoAddress::Taken(_)) => FailureReason::Conflict,
            RegistryError::Address(NoAddress::Exhausted { .. }) => FailureReason::Exhausted,
            RegistryError::Store(_) | RegistryError::Placement(_) | RegistryError::Broken(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "request failed");
                FailureReason::Internal
            }
        };
        Self { reason, message: error.to_string() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.reason {
            FailureReason::Invalid => StatusCode::BAD_REQUEST,
            FailureReason::Unauthorized => StatusCode::UNAUTHORIZED,
            FailureReason::NotFound => StatusCode::NOT_FOUND,
            FailureReason::Conflict => StatusCode::CONFLICT,
            FailureReason::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
            FailureReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}
