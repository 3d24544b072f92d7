//! The proxy between a program and a cloud.
//!
//! Owns: HTTP in both directions, and applying a decision to a call. Leaves to others: deciding (`faults`), naming
//! (`call`), recording (`record`). Invariants: a call that is passed on reaches the cloud as it came. A dropped call gets
//! no byte of an answer. A cloud that does not answer is a dropped connection, never an invented answer.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, HeaderName, Request, Response, StatusCode, header, request},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{
    attribution::Attribution,
    call::{Call, Effect},
    control,
    faults::{Decision, Fate, Faults, Judge, refusal},
    http_client,
    record::{Counts, Logged, Record},
    trap::{Moment, Trap, Traps},
};

/// No call of these APIs is larger.
const BODY_LIMIT: usize = 16 << 20;
/// Earlier answers that are kept of each read.
const HISTORY: usize = 4;

/// A running proxy; drop ends it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) struct Shared {
    upstream: String,
    client: reqwest::Client,
    started: Instant,
    traps: Traps,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: Faults,
    pub(super) record: Record,
    judge: Judge,
    attribution: Attribution,
    number: u64,
    /// Answers to each read, the newest last.
    history: BTreeMap<String, VecDeque<(Instant, Answer)>>,
}

/// An answer of the cloud.
#[derive(Clone, Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed on purpose")]
struct Dropped;

impl FaultProxy {
    /// Listens on `listen` (port 0: a free one) for calls to `upstream`, `http://HOST:PORT`. No fault is on yet.
    pub async fn start(listen: SocketAddr, upstream: &str, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
        let address = listener.local_addr().context("reading the proxy's address")?;
        let state = State {
            faults: Faults::none(),
            record: Record::default(),
            judge: Judge::new(seed),
            attribution: Attribution::default(),
            number: 0,
            history: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            upstream: upstream.trim_end_matches('/').to_owned(),
            client: http_client()?,
            started: Instant::now(),
            traps: Traps::default(),
            state: Mutex::new(state),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// Address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Endpoint URL, `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the faults from now on.
    pub fn set(&self, faults: Faults) {
        self.shared.state().faults = faults;
    }

    /// Counts since the start, or since they were taken.
    pub fn counts(&self) -> Counts {
        self.shared.state().record.counts.clone()
    }

    /// Counts since the start, or since they were taken; they start again from zero.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.shared.state().record.counts)
    }

    /// Calls in the order in which they came.
    pub fn log(&self) -> Vec<Logged> {
        self.shared.state().record.log()
    }

    /// Calls after the one with this number, in order; those that are still under way are not among them.
    pub fn log_after(&self, number: u64) -> Vec<Logged> {
        self.shared.state().record.log_after(number)
    }

    /// The number of the last call that came in.
    pub fn number(&self) -> u64 {
        self.shared.state().number
    }

    /// How many calls there were, by the counts.
    pub fn calls(&self) -> u64 {
        self.shared.state().record.counts.calls()
    }

    /// Holds the `nth` write from now (1 is the next) until the trap is dropped; its caller gets no answer.
    pub fn trap(&self, nth: u64, moment: Moment) -> Trap {
        self.shared.traps.set(nth, moment)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(connection(stream, Arc::clone(&shared))); }
                Err(error) => {
                    tracing::warn!(%error, "fault proxy cannot accept");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, request).await }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the fault proxy ended");
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), BODY_LIMIT).await.map_err(|_unreadable| Dropped)?;
    if let Some(asked) = head.uri.path().strip_prefix(control::PREFIX) {
        let State { record, faults, .. } = &mut *shared.state();
        return Ok(control::answer(record, faults, &head.method, asked, &body));
    }
    let call = Call::read(&head.method, &head.uri, &head.headers, &body);
    if let Some(caught) = shared.traps.catch(&call) {
        let entry = shared.enter(&call, true);
        if caught.moment == Moment::After {
            shared.pass(&head, body, &call).await?;
        }
        let fate = if caught.moment == Moment::Before { Fate::DroppedBefore } else { Fate::DroppedAfter };
        shared.leave(entry, call, fate, None);
        caught.hold().await;
        return Err(Dropped);
    }
    let mut entry = shared.enter(&call, false);
    sleep(entry.decision.delay).await;
    let (fate, answered) = shared.meet(&head, body, &call, entry.decision.fate).await;
    entry.decision.fate = fate;
    let status = answered.as_ref().ok().map(Response::status);
    shared.leave(entry, call, fate, status);
    answered
}

/// A call that came in.
struct Entry {
    number: u64,
    at: Duration,
    service: Option<String>,
    decision: Decision,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: &Call, trapped: bool) -> Entry {
        let mut state = self.state();
        state.number += 1;
        let State { faults, judge, attribution, number, .. } = &mut *state;
        let decision = if trapped {
            Decision { fate: Fate::Passed, delay: Duration::ZERO }
        } else {
            judge.judge(faults, call, Instant::now())
        };
        Entry { number: *number, at: self.started.elapsed(), service: attribution.service(call), decision }
    }

    fn leave(&self, entry: Entry, call: Call, fate: Fate, status: Option<StatusCode>) {
        let Entry { number, at, service, decision: _ } = entry;
        let Call { kind, scope: _, words, text: _ } = call;
        let status = status.map(|status| status.as_u16());
        self.state().record.add(Logged { number, at, kind, service, words, fate, status });
    }

    /// Does to a call what was decided; what really became of it, too: a read without an earlier answer is passed.
    async fn meet(
        &self,
        head: &request::Parts,
        body: Bytes,
        call: &Call,
        fate: Fate,
    ) -> (Fate, Result<Response<Body>, Dropped>) {
        match fate {
            Fate::Throttled | Fate::Failed => (fate, Ok(refused(call, fate))),
            Fate::DroppedBefore => (fate, Err(Dropped)),
            Fate::Stale => match self.earlier(call) {
                Some(answer) => (fate, Ok(answer.response())),
                None => (Fate::Passed, self.pass(head, body, call).await.map(Answer::response)),
            },
            Fate::DroppedAfter => {
                let passed = self.pass(head, body, call).await;
                (fate, passed.and(Err(Dropped)))
            }
            Fate::Passed => (fate, self.pass(head, body, call).await.map(Answer::response)),
        }
    }

    /// To the cloud and back.
    async fn pass(&self, head: &request::Parts, body: Bytes, call: &Call) -> Result<Answer, Dropped> {
        let url = format!("{}{}", self.upstream, head.uri);
        let request =
            self.client.request(head.method.clone(), url).headers(end_to_end(&head.headers)).body(body);
        let sent = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), end_to_end(response.headers()));
            Ok::<_, reqwest::Error>(Answer { status, headers, body: response.bytes().await? })
        };
        let answer = sent.await.map_err(|error| {
            tracing::warn!(%error, call = %call.kind, "the emulator gave no answer");
            Dropped
        })?;
        let mut state = self.state();
        if call.kind.effect == Effect::Read {
            let history = state.history.entry(call.text.clone()).or_default();
            history.push_back((Instant::now(), answer.clone()));
            if history.len() > HISTORY {
                history.pop_front();
            }
        } else if answer.status.is_success() {
            state.attribution.learn(call, &String::from_utf8_lossy(&answer.body));
        }
        Ok(answer)
    }

    /// The oldest answer to the same read that is young enough.
    fn earlier(&self, call: &Call) -> Option<Answer> {
        let state = self.state();
        let age = Duration::from_millis(state.faults.stale_ms);
        let history = state.history.get(&call.text)?;
        history.iter().find(|(at, _)| at.elapsed() <= age).map(|(_, answer)| answer.clone())
    }
}

impl Answer {
    fn response(self) -> Response<Body> {
        let Self { status, headers, body } = self;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

fn refused(call: &Call, fate: Fate) -> Response<Body> {
    let (status, kind, body) = refusal(call, fate);
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, axum::http::HeaderValue::from_static(kind))]);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Answer { status, headers, body: Bytes::from(body) }.response()
}

/// Headers without those of one connection and one encoding of a body.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const HOP: [HeaderName; 5] =
        [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TE, header::UPGRADE];
    let kept = headers.iter().filter(|(name, _)| !HOP.contains(name));
    let mut end_to_end = HeaderMap::new();
    for (name, value) in kept {
        end_to_end.append(name.clone(), value.clone());
    }
    end_to_end
}

#[cfg(test)]
mod tests;
