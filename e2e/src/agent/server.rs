//! The node's HTTPS API, as far as the API server uses the kubelet's: health, logs, exec and attach.
//!
//! Owns TLS, routes and query parameters. Invariants: every client shows a certificate of the cluster's CA; an unknown container
//! is 404 with its name. Port-forward, `run`, stats and checkpoints are left out and answer 404.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{Path as Segments, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum_server::tls_rustls::RustlsConfig;
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use tokio::sync::mpsc;

use crate::pods::Host;
use crate::pods::log::Wanted;
use crate::pods::shelf::Slot;

use super::exec::{self, Request};
use super::framing::PROTOCOLS;

/// The kubelet's port.
pub(super) const PORT: u16 = 10_250;

/// Serves for ever.
pub(super) async fn run(
    cert: &Path,
    key: &Path,
    client_ca: &Path,
    ip: IpAddr,
    host: Arc<Host>,
) -> Result<()> {
    let config = RustlsConfig::from_config(Arc::new(tls(cert, key, client_ca)?));
    let routes = Router::new()
        .route("/healthz", any(|| async { "ok" }))
        .route("/containerLogs/{namespace}/{pod}/{container}", any(logs))
        .route("/exec/{namespace}/{pod}/{container}", any(run_command))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .with_state(host);
    let address = SocketAddr::new(ip, PORT);
    let served = axum_server::bind_rustls(address, config).serve(routes.into_make_service()).await;
    served.with_context(|| format!("listen on {address}"))
}

fn tls(cert: &Path, key: &Path, client_ca: &Path) -> Result<rustls::ServerConfig> {
    let name = |flag: &str, path: &Path| format!("{flag} {}: want PEM", path.display());
    let read = |flag: &str, path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let certs = CertificateDer::pem_file_iter(path).with_context(|| name(flag, path))?;
        certs.collect::<Result<_, _>>().with_context(|| name(flag, path))
    };
    let mut roots = RootCertStore::empty();
    for root in read("--client-ca", client_ca)? {
        roots.add(root).with_context(|| name("--client-ca", client_ca))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| name("--tls-key", key))?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_client_cert_verifier(verifier.context("--client-ca")?)
        .with_single_cert(read("--tls-cert", cert)?, key)
        .context("--tls-cert and --tls-key")?;
    Ok(config)
}

/// Namespace, pod, container.
type Names = Segments<(String, String, String)>;

/// The answer to a request that cannot be served.
type Refusal = (StatusCode, String);

fn find(host: &Host, (namespace, pod, container): &(String, String, String)) -> Result<Slot, Refusal> {
    host.shelf.get(namespace, pod, container).ok_or_else(|| {
        let node = &host.name;
        let text = format!("container {container:?} of pod {namespace}/{pod} has not started on node {node}");
        (StatusCode::NOT_FOUND, text)
    })
}

/// Query parameters in order; a name may come several times.
fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    let query = query.unwrap_or_default();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Percent-decoding of a query (`+` is a blank).
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let code = code.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Options of `kubectl logs`, and whether the run before is meant.
fn log_request(parameters: &[(String, String)], now: Timestamp) -> Result<(Wanted, bool), String> {
    let (mut wanted, mut previous) = (Wanted::default(), false);
    for (name, value) in parameters {
        let bad = |what: &str| format!("{name}={value}: want {what}");
        let count = || value.parse::<usize>().map_err(|_not_a_number| bad("a number"));
        match name.as_str() {
            "follow" => wanted.follow = truth(value),
            "timestamps" => wanted.timestamps = truth(value),
            "previous" => previous = truth(value),
            "tailLines" => wanted.tail = Some(count()?),
            "limitBytes" => wanted.limit = Some(count()?),
            "sinceSeconds" => {
                let seconds = i64::try_from(count()?).unwrap_or(i64::MAX);
                wanted.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            "sinceTime" => wanted.since = Some(value.parse().map_err(|_not_a_time| bad("an RFC 3339 time"))?),
            _ => {}
        }
    }
    Ok((wanted, previous))
}

fn truth(value: &str) -> bool {
    matches!(value, "1" | "true")
}

async fn logs(State(host): State<Arc<Host>>, Segments(names): Names, RawQuery(query): RawQuery) -> Response {
    let slot = match find(&host, &names) {
        Ok(slot) => slot,
        Err(refusal) => return refusal.into_response(),
    };
    let (wanted, previous) = match log_request(&parameters(query.as_deref()), Timestamp::now()) {
        Ok(request) => request,
        Err(text) => return (StatusCode::BAD_REQUEST, text).into_response(),
    };
    let Some(log) = (if previous { slot.previous } else { slot.log }) else {
        let text = format!("previous terminated container {:?} in pod {:?} not found", names.2, names.1);
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    let (pieces, received) = mpsc::channel(16);
    tokio::spawn(async move {
        if let Err(error) = log.send(wanted, pieces).await {
            tracing::warn!(error = format!("{error:#}"), "send a log");
        }
    });
    let stream = futures::stream::unfold(received, |mut received| async {
        let piece = received.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), received))
    });
    ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream.boxed())).into_response()
}

fn stream_request(query: Option<&str>) -> Request {
    let mut request = Request::default();
    for (name, value) in parameters(query) {
        match name.as_str() {
            "command" => request.command.push(value),
            "input" | "stdin" => request.stdin = truth(&value),
            "tty" => request.tty = truth(&value),
            _ => {}
        }
    }
    request
}

/// The upgrade, or axum's rejection of a request that is no WebSocket's. A wrong name is reported first: kubectl retries by SPDY
/// and shows the second answer.
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

async fn run_command(
    State(host): State<Arc<Host>>,
    Segments(names): Names,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let request = stream_request(query.as_deref());
    if request.command.is_empty() {
        return (StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container")
            .into_response();
    }
    match (find(&host, &names).map(|slot| slot.process), upgrade) {
        (Ok(Some(process)), Ok(upgrade)) => {
            upgrade.protocols(PROTOCOLS).on_upgrade(move |socket| exec::exec(socket, process, request))
        }
        (Ok(Some(_)), Err(rejection)) => rejection.into_response(),
        (Ok(None), _) => not_running(&names.2),
        (Err(refusal), _) => refusal.into_response(),
    }
}

fn not_running(container: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("container {container:?} is not running")).into_response()
}

async fn attach(
    State(host): State<Arc<Host>>,
    Segments(names): Names,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let request = stream_request(query.as_deref());
    match (find(&host, &names), upgrade) {
        (Ok(Slot { process: Some(_), log: Some(log), previous: _, stdin }), Ok(upgrade)) => {
            upgrade.protocols(PROTOCOLS).on_upgrade(move |socket| exec::attach(socket, log, stdin, request))
        }
        (Ok(Slot { process: Some(_), .. }), Err(rejection)) => rejection.into_response(),
        (Ok(_), _) => not_running(&names.2),
        (Err(refusal), _) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_words_and_their_order() {
        let request =
            stream_request(Some("command=sh&command=-c&command=echo%20a+b%26c&input=1&output=1&tty=false"));
        assert_eq!(request.command, ["sh", "-c", "echo a b&c"]);
        assert!(request.stdin && !request.tty);
    }

    #[test]
    fn a_bad_number_is_named_with_its_remedy() {
        let bad = parameters(Some("tailLines=many"));
        let error = log_request(&bad, Timestamp::UNIX_EPOCH).expect_err("refused");
        assert_eq!(error, "tailLines=many: want a number");
        let good = parameters(Some("tailLines=3&previous=true&timestamps=1"));
        let (wanted, previous) = log_request(&good, Timestamp::UNIX_EPOCH).expect("good");
        assert_eq!((wanted.tail, wanted.timestamps, previous), (Some(3), true, true));
    }
}
