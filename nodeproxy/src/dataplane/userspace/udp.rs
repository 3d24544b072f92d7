//! UDP: a flow for each client, with its own socket to the endpoint.
//!
//! Owns flows: their begin, and their end when they are idle, when their endpoint leaves, or when files are
//! short. Leaves the choice to the pool, and pending datagrams to `exchange`.
//!
//! Invariants: answers leave from the socket that the client sent to. Unanswered datagrams that an endpoint
//! refuses go to another endpoint, so a dead endpoint costs no client its first questions. Nothing is queued
//! here.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use portico_proxy_core::table::Backend;
use tokio::{
    net::UdpSocket,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    exchange::{Exchange, Pending, idlest},
    socket::{Received, connect, hear},
};
use super::{
    files::{self, Share},
    pool::Pool,
    proxy::Proxy,
};

mod exchange;
mod socket;
#[cfg(test)]
mod tests;

/// Interval of the search for idle flows.
const SWEEP: Duration = Duration::from_secs(1);
/// Endpoints that one datagram is tried on.
const ATTEMPTS: usize = 4;
/// Longest wait of a datagram for a file of a flow that was closed for it.
const EVICTION: Duration = Duration::from_millis(50);

/// The flows of one pool.
#[derive(Debug)]
pub struct UdpFlows {
    socket: UdpSocket,
    pool: Arc<Pool>,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
    number: AtomicU64,
    by_client: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
}

/// One client's datagrams to one endpoint.
#[derive(Debug)]
struct Flow {
    number: u64,
    backend: Backend,
    socket: UdpSocket,
    exchange: Mutex<Exchange>,
    stop: CancellationToken,
    _share: Share,
}

/// Reasons why a client's datagrams are in no flow.
#[derive(Debug, thiserror::Error)]
enum NoFlow {
    #[error("no file is left")]
    File,
    #[error("no endpoint is left")]
    Endpoint,
    #[error("too many endpoints refused it")]
    Attempts,
    #[error("this node cannot send to {0}")]
    Connect(Backend, #[source] io::Error),
}

impl UdpFlows {
    /// Without flows. All end with `stop`.
    pub fn new(socket: UdpSocket, pool: Arc<Pool>, proxy: Arc<Proxy>, stop: CancellationToken) -> Arc<Self> {
        let (number, by_client) = (AtomicU64::new(0), Mutex::default());
        Arc::new(Self { socket, pool, proxy, stop, number, by_client })
    }

    /// Forwards until `stop`.
    pub async fn forward(self: Arc<Self>) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_flows = !self.flows().is_empty();
            tokio::select! {
                () = self.stop.cancelled() => break,
                _tick = sweep.tick(), if has_flows => self.sweep(),
                heard = hear(&self.socket) => match heard {
                    Ok(Received::Datagram(datagram, client)) => {
                        self.deliver(client, Pending { questions: vec![datagram], tried: Vec::new() }).await;
                    }
                    Ok(Received::Nothing) => {}
                    // About a client that an earlier answer did not reach, not about this socket.
                    Err(error) => tracing::debug!(%error, "cannot receive"),
                }
            }
        }
        self.end_where(|_flow| true);
    }

    /// Ends the flows to all other endpoints, and returns their number.
    pub fn keep(&self, backends: &BTreeSet<Backend>) -> usize {
        self.end_where(|flow| !backends.contains(&flow.backend))
    }

    /// Sends a client's datagrams by its flow, or by a new one to an endpoint that was not tried.
    async fn deliver(self: &Arc<Self>, client: SocketAddr, mut pending: Pending) {
        while !pending.questions.is_empty() {
            let flow = match self.flow(client, &pending.tried).await {
                Ok(flow) => flow,
                Err(NoFlow::Connect(backend, error)) if !files::is_exhausted(&error) => {
                    self.failed(client, backend, &error);
                    pending.tried.push(backend);
                    continue;
                }
                Err(error) => return self.dropped(client, &error),
            };
            // What an earlier datagram met is only said now, and then this one was not sent.
            let Err(error) = flow.send(&pending.questions).await else { return };
            self.broken(client, &flow, &error);
            pending = flow.exchange().refused(Instant::now());
        }
    }

    fn dropped(&self, client: SocketAddr, error: &NoFlow) {
        self.proxy.counters.failed("NoFlow");
        if let NoFlow::Connect(_, error) = error
            && files::is_exhausted(error)
        {
            self.proxy.files.exhausted();
        }
        let frontend = self.pool.key().frontend;
        tracing::debug!(%frontend, %client, error = portico_runtime::chain(error), "a datagram was dropped");
    }

    /// The client's flow, or a new one.
    async fn flow(self: &Arc<Self>, client: SocketAddr, tried: &[Backend]) -> Result<Arc<Flow>, NoFlow> {
        if let Some(flow) = self.flows().get(&client) {
            return Ok(flow.clone());
        }
        if tried.len() >= ATTEMPTS {
            return Err(NoFlow::Attempts);
        }
        let share = self.share().await.ok_or(NoFlow::File)?;
        let backend = self.pool.choose(client.ip(), tried).ok_or(NoFlow::Endpoint)?;
        let socket = connect(&self.proxy, backend).await;
        let flow = Arc::new(Flow {
            number: self.number.fetch_add(1, Ordering::Relaxed),
            backend,
            socket: socket.map_err(|error| NoFlow::Connect(backend, error))?,
            exchange: Mutex::new(Exchange::new(backend, tried, Instant::now())),
            stop: self.stop.child_token(),
            _share: share,
        });
        Ok(self.add(client, flow))
    }

    /// Adds a flow, unless the client has got another meanwhile. Then the client uses that one.
    fn add(self: &Arc<Self>, client: SocketAddr, flow: Arc<Flow>) -> Arc<Flow> {
        let known = self.flows().entry(client).or_insert_with(|| flow.clone()).clone();
        if known.number == flow.number {
            self.proxy.counters.flows.inc();
            self.proxy.counters.open_flows.inc();
            tokio::spawn(self.clone().answers(client, flow));
        }
        // Whoever ends all flows when the socket closes may have done so already.
        if self.stop.is_cancelled() {
            self.end_where(|_flow| true);
        }
        known
    }

    /// A file for one more flow. Idle flows are closed for it; their files are free once their tasks have
    /// ended.
    async fn share(&self) -> Option<Share> {
        let files = &self.proxy.files;
        if let Some(share) = files.try_take(1) {
            return Some(share);
        }
        let closed =
            idlest(self.flows().values().map(|flow| (flow.exchange().used(), flow.number)).collect());
        self.end_where(|flow| closed.contains(&flow.number));
        timeout(EVICTION, files.take(1)).await.ok()
    }

    /// Sends an endpoint's answers to the client until the flow ends. Boxed, because a refusal leads to the
    /// next flow.
    fn answers(self: Arc<Self>, client: SocketAddr, flow: Arc<Flow>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let heard = tokio::select! {
                    () = flow.stop.cancelled() => return,
                    heard = hear(&flow.socket) => heard,
                };
                match heard {
                    Ok(Received::Datagram(datagram, _endpoint)) => {
                        flow.exchange().answers(Instant::now());
                        if let Err(error) = self.socket.send_to(&datagram, client).await {
                            tracing::debug!(%client, %error, "an answer was not sent");
                        }
                    }
                    Ok(Received::Nothing) => {}
                    Err(error) => {
                        if !self.broken(client, &flow, &error) {
                            return;
                        }
                        let pending = flow.exchange().refused(Instant::now());
                        // Its file may be the one that the next flow needs.
                        drop(flow);
                        return self.deliver(client, pending).await;
                    }
                }
            }
        })
    }

    /// Ends a flow whose endpoint refuses; `false` if it had ended already.
    fn broken(&self, client: SocketAddr, flow: &Flow, error: &io::Error) -> bool {
        self.failed(client, flow.backend, error);
        let mut flows = self.flows();
        let is_it = flows.get(&client).is_some_and(|known| known.number == flow.number);
        if is_it {
            flows.remove(&client);
            self.proxy.counters.open_flows.dec();
            flow.stop.cancel();
        }
        is_it
    }

    fn failed(&self, client: SocketAddr, backend: Backend, error: &io::Error) {
        self.proxy.counters.failed("Attempt");
        self.pool.failed(client.ip(), backend);
        tracing::debug!(%backend, %client, %error, "an endpoint refused a datagram");
    }

    fn sweep(&self) {
        let (udp_timeout, now) = (self.proxy.options.udp_timeout, Instant::now());
        self.end_where(|flow| flow.exchange().is_over(udp_timeout, now));
    }

    fn end_where(&self, ends: impl Fn(&Flow) -> bool) -> usize {
        let mut flows = self.flows();
        let before = flows.len();
        flows.retain(|_client, flow| {
            let ends = ends(flow);
            if ends {
                flow.stop.cancel();
                self.proxy.counters.open_flows.dec();
            }
            !ends
        });
        before - flows.len()
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Flow>>> {
        // A panic elsewhere leaves the map whole: every change of it is one call.
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    async fn send(&self, questions: &[Vec<u8>]) -> io::Result<()> {
        for question in questions {
            self.exchange().asks(question, Instant::now());
        }
        for question in questions {
            self.socket.send(question).await?;
        }
        Ok(())
    }

    fn exchange(&self) -> MutexGuard<'_, Exchange> {
        // A panic elsewhere leaves the history complete, or one datagram short.
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
