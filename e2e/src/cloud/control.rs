//! The proxy's own endpoint, for what is not in its process.
//!
//! ```text
//! GET  /_faults/counts  {"calls": {"elb:CreateListener": {…}}, "services": {"shop/web": {…}}}
//! POST /_faults/reset   the counts as they were; they start again from zero
//! GET  /_faults/faults  the switches      PUT /_faults/faults  sets all of them; what is left out is off
//! ```
//! Owns: these. Invariant: none of it is counted as a call.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    http::{Method, Response, StatusCode},
    response::IntoResponse as _,
};
use serde::Serialize;

use super::{
    faults::Faults,
    record::{Counts, Record, Tally},
};

/// Path prefix of the endpoint.
pub(super) const PREFIX: &str = "/_faults/";

#[derive(Serialize)]
struct Shown {
    calls: BTreeMap<String, Tally>,
    services: BTreeMap<String, Tally>,
}

fn shown(counts: &Counts) -> Shown {
    let Counts { kinds, services } = counts;
    let name = |service: &Option<String>| service.clone().unwrap_or_else(|| "(none)".to_owned());
    Shown {
        calls: kinds.iter().map(|(kind, tally)| (kind.to_string(), tally.clone())).collect(),
        services: services.iter().map(|(service, tally)| (name(service), tally.clone())).collect(),
    }
}

/// Answers a request of the endpoint.
pub(super) fn answer(
    record: &mut Record,
    faults: &mut Faults,
    method: &Method,
    asked: &str,
    body: &[u8],
) -> Response<Body> {
    match (method.as_str(), asked) {
        ("GET", "counts") => Json(shown(&record.counts)).into_response(),
        ("POST", "reset") => Json(shown(&std::mem::take(&mut record.counts))).into_response(),
        ("GET", "faults") => Json(&*faults).into_response(),
        ("PUT", "faults") => match serde_json::from_slice(body) {
            Ok(wanted) => {
                *faults = wanted;
                Json(&*faults).into_response()
            }
            Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
        },
        _ => (StatusCode::NOT_FOUND, "GET counts, POST reset, GET or PUT faults\n").into_response(),
    }
}
