//! A connection to AWS whose caller dies before or after any one request, or never gets the reply to one write; or that
//! fails one request, or refuses whatever names one thing.
//!
//! Owns: counting and failing, below the SDK. Leaves to others: the cloud behind it.
//! Invariant: after its death no request of this process reaches the cloud.

use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// When the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Before call `k` (from 1) reaches the cloud.
    Before(usize),
    /// After it took effect, before its reply.
    After(usize),
    /// It lives, and the reply to write `k` is lost.
    LoseReply(usize),
    /// It lives, and call `k` fails without having reached the cloud.
    Fail(usize),
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    /// What names this is refused with this code.
    refused: Option<(String, &'static str)>,
    calls: usize,
    writes: usize,
    dead: bool,
    /// Every call, for counting.
    log: Vec<(String, Kind)>,
}

/// The fault, shared by all clones.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<Mutex<State>>);

impl Faults {
    pub(super) fn arm(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap() = State { fault, ..State::default() };
    }

    /// Every request that names `what` is refused with this code of AWS's; `None`: none is.
    pub(super) fn refuse(&self, what: Option<(&str, &'static str)>) {
        self.0.lock().unwrap().refused = what.map(|(what, code)| (what.to_owned(), code));
    }

    fn refusal(&self, body: &str) -> Option<&'static str> {
        let state = self.0.lock().unwrap();
        state.refused.as_ref().filter(|(what, _)| body.contains(what)).map(|(_, code)| *code)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.0.lock().unwrap().dead
    }

    pub(super) fn log(&self) -> Vec<(String, Kind)> {
        self.0.lock().unwrap().log.clone()
    }

    /// The same connection, with these faults.
    pub(super) fn on(self, http: SharedHttpClient) -> SharedHttpClient {
        http_client_fn(move |settings, components| {
            let connector = http.http_connector(settings, components);
            SharedHttpConnector::new(Faulty { connector, faults: self.clone() })
        })
    }

    /// Whether the request may be sent, and whether its reply arrives.
    fn enter(&self, name: String, kind: Kind) -> (bool, bool) {
        let mut state = self.0.lock().unwrap();
        if state.dead {
            return (false, false);
        }
        state.calls += 1;
        state.writes += usize::from(kind == Kind::Write);
        state.log.push((name, kind));
        match state.fault {
            Some(Fault::Before(k)) if k == state.calls => {
                state.dead = true;
                (false, false)
            }
            Some(Fault::After(k)) if k == state.calls => {
                state.dead = true;
                (true, false)
            }
            Some(Fault::Fail(k)) if k == state.calls => (false, false),
            Some(Fault::LoseReply(k)) if kind == Kind::Write && k == state.writes => (true, false),
            _ => (true, true),
        }
    }
}

#[derive(Clone, Debug)]
struct Faulty {
    connector: SharedHttpConnector,
    faults: Faults,
}

impl Faulty {
    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let body = unescaped(request.body().bytes().unwrap());
        let json = request.headers().get("x-amz-target").map(|target| target.rsplit('.').next().unwrap());
        let named = || body.split(['=', '&']).nth(1).unwrap();
        let name = json.unwrap_or_else(named).to_owned();
        let reads = ["Describe", "Get"].iter().any(|verb| name.starts_with(verb));
        if let Some(code) = self.faults.refusal(&body) {
            return Ok(refused(json.is_some(), code));
        }
        let (sent, heard) = self.faults.enter(name, if reads { Kind::Read } else { Kind::Write });
        let gone =
            || ConnectorError::io("this process died, or the request failed, or its reply was lost".into());
        if !sent {
            return Err(gone());
        }
        let answer = self.connector.call(request).await;
        if heard { answer } else { Err(gone()) }
    }
}

impl HttpConnector for Faulty {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

/// A form without percent-encoding; JSON as it is.
fn unescaped(body: &[u8]) -> String {
    let text = std::str::from_utf8(body).unwrap();
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => plain.extend([&String::from(char::from(byte)), &part[2..]]),
            None => plain.extend(["%", part]),
        }
    }
    plain
}

/// An error of `ELBv2` and EC2 at once, or of tagging.
fn refused(json: bool, code: &str) -> HttpResponse {
    let error = format!("<Error><Code>{code}</Code><Message>as the test asks</Message></Error>");
    let text = if json {
        format!(r#"{{"__type": "x#{code}", "Message": "as the test asks"}}"#)
    } else {
        format!("<ErrorResponse><Errors>{error}</Errors>{error}</ErrorResponse>")
    };
    HttpResponse::new(StatusCode::try_from(400).unwrap(), SdkBody::from(text))
}
