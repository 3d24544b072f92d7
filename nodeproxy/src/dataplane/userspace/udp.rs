//! UDP: a flow for each client, with a socket of its own to its endpoint.
//!
//! Owns flows: their beginning, their end by idleness, by their endpoint's end, or for want of files. Leaves the choice to the
//! pool. Invariants: answers leave from the socket that the client sent to; a datagram that nobody has answered and that an
//! endpoint refuses goes to another, so a dead endpoint costs no client its first question; nothing is queued here.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use portico_proxy_core::table::Backend;
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    files::{self, Share},
    pool::Pool,
    proxy::Proxy,
};

#[cfg(test)]
mod tests;

/// The largest UDP payload (RFC 768: 65,535 less the header).
const DATAGRAM: usize = 65_527;
/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long a flow stays that has not been more than one question and its answers, as in the kernel
/// (`nf_conntrack_udp_timeout`).
pub const SHORT: Duration = Duration::from_secs(30);
/// Endpoints that one datagram is tried on.
const ATTEMPTS: usize = 4;
/// When files run out, one in so many of a pool's flows is closed, the idlest first.
const EVICTED: usize = 8;
/// How long a datagram waits for a file of a flow that was closed for it.
const EVICTION: Duration = Duration::from_millis(50);

/// The flows of one pool.
#[derive(Debug)]
pub struct Flows {
    socket: UdpSocket,
    pool: Arc<Pool>,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
    clock: Instant,
    number: AtomicU64,
    by_client: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
}

/// One client's datagrams to one endpoint.
#[derive(Debug)]
struct Flow {
    number: u64,
    backend: Backend,
    socket: UdpSocket,
    /// Endpoints that refused what this flow has to send.
    tried: Vec<Backend>,
    /// Milliseconds since the pool began: the last datagram of either direction.
    used: AtomicU64,
    questions: AtomicU64,
    answered: AtomicBool,
    unanswered: Mutex<Option<Vec<u8>>>,
    stop: CancellationToken,
    _share: Share,
}

/// What one look at a socket brought.
enum Received {
    Datagram(Vec<u8>, SocketAddr),
    Nothing,
}

thread_local! {
    /// One buffer for all sockets of a thread: it is only used between two awaits.
    static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; DATAGRAM]);
}

/// Waits for a socket to have something to say, and looks. An error is news of its own: the kernel says what an ICMP message
/// answered an earlier datagram with, and that does not make a socket readable.
async fn hear(socket: &UdpSocket) -> io::Result<Received> {
    let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
    if ready.is_error() {
        let pending = || socket.take_error()?.map_or_else(|| Err(io::ErrorKind::WouldBlock.into()), Err);
        match socket.try_io(Interest::ERROR, pending) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    BUFFER.with_borrow_mut(|buffer| match socket.try_recv_from(buffer) {
        Ok((length, from)) => Ok(Received::Datagram(buffer[..length].to_vec(), from)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(error) => Err(error),
    })
}

impl Flows {
    /// No flow yet. All end with `stop`.
    pub fn new(socket: UdpSocket, pool: Arc<Pool>, proxy: Arc<Proxy>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            socket,
            pool,
            proxy,
            stop,
            clock: Instant::now(),
            number: AtomicU64::new(0),
            by_client: Mutex::default(),
        })
    }

    /// Forwards until told to stop.
    pub async fn forward(self: Arc<Self>) {
        let mut sweep = interval(SWEEP.min(self.proxy.options.udp_timeout));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_flows = !self.flows().is_empty();
            tokio::select! {
                () = self.stop.cancelled() => break,
                _tick = sweep.tick(), if has_flows => self.sweep(),
                heard = hear(&self.socket) => match heard {
                    Ok(Received::Datagram(datagram, client)) => self.deliver(datagram, client, Vec::new()).await,
                    Ok(Received::Nothing) => {}
                    // About a client that an earlier answer did not reach, not about this socket.
                    Err(error) => tracing::debug!(%error, "cannot receive"),
                }
            }
        }
        self.end_where(|_flow| true);
    }

    /// Ends the flows to all endpoints but these, and returns how many there were.
    pub fn keep(&self, backends: &BTreeSet<Backend>) -> usize {
        self.end_where(|flow| !backends.contains(&flow.backend))
    }

    /// Sends a client's datagram on, by its flow or a new one to none of `tried`.
    async fn deliver(self: &Arc<Self>, datagram: Vec<u8>, client: SocketAddr, mut tried: Vec<Backend>) {
        while tried.len() < ATTEMPTS {
            let known = self.flows().get(&client).cloned();
            let flow = match known {
                Some(flow) => flow,
                None => match self.begin(client, &tried).await {
                    Ok(flow) => flow,
                    Err(error) => {
                        self.proxy.counters.failed("NoFlow");
                        let frontend = self.pool.key().frontend;
                        tracing::debug!(%frontend, %client, %error, "a datagram was dropped");
                        return;
                    }
                },
            };
            flow.asks(&datagram, self.now());
            match flow.socket.send(&datagram).await {
                Ok(_sent) => return,
                // What an earlier datagram met is only said now, and then this one was not sent.
                Err(error) => {
                    tracing::debug!(backend = %flow.backend, %client, %error, "a flow ended");
                    self.broken(client, &flow);
                    tried.push(flow.backend);
                }
            }
        }
    }

    async fn begin(self: &Arc<Self>, client: SocketAddr, tried: &[Backend]) -> io::Result<Arc<Flow>> {
        let share = self.share().await.ok_or_else(|| io::Error::other("no file is left"))?;
        let backend = self.pool.choose(client.ip(), tried).ok_or(io::ErrorKind::HostUnreachable)?;
        let socket = self.connect(backend).await.inspect_err(|error| {
            if files::is_exhausted(error) {
                self.proxy.files.exhausted();
            }
        })?;
        let flow = Arc::new(Flow {
            number: self.number.fetch_add(1, Ordering::Relaxed),
            backend,
            socket,
            tried: tried.to_vec(),
            used: AtomicU64::new(self.now()),
            questions: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            unanswered: Mutex::default(),
            stop: self.stop.child_token(),
            _share: share,
        });
        self.proxy.counters.flows.inc();
        self.proxy.counters.open_flows.inc();
        self.flows().insert(client, flow.clone());
        tokio::spawn(self.clone().answers(client, flow.clone()));
        Ok(flow)
    }

    async fn connect(&self, backend: Backend) -> io::Result<UdpSocket> {
        let any: IpAddr = match backend.address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        self.proxy.mark(&socket)?;
        socket.connect((backend.address, backend.port)).await?;
        Ok(socket)
    }

    /// A file for one more flow, for which idle ones may have to go. Theirs are free as soon as their tasks have noticed.
    async fn share(&self) -> Option<Share> {
        let files = &self.proxy.files;
        if let Some(share) = files.try_take(1) {
            return Some(share);
        }
        self.evict();
        timeout(EVICTION, files.take(1)).await.ok()
    }

    fn evict(&self) {
        let mut used: Vec<_> = self.flows().values().map(|flow| flow.used.load(Ordering::Relaxed)).collect();
        if used.is_empty() {
            return;
        }
        let last = used.len() / EVICTED;
        let (_, oldest, _) = used.select_nth_unstable(last);
        let oldest = *oldest;
        self.end_where(|flow| flow.used.load(Ordering::Relaxed) <= oldest);
    }

    /// Carries an endpoint's answers to the client until the flow ends. Boxed, because a refusal leads to the next flow.
    fn answers(self: Arc<Self>, client: SocketAddr, flow: Arc<Flow>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let heard = tokio::select! {
                    () = flow.stop.cancelled() => return,
                    heard = hear(&flow.socket) => heard,
                };
                match heard {
                    Ok(Received::Datagram(datagram, _endpoint)) => {
                        flow.is_answered(self.now());
                        if let Err(error) = self.socket.send_to(&datagram, client).await {
                            tracing::debug!(%client, %error, "an answer was not sent");
                        }
                    }
                    Ok(Received::Nothing) => {}
                    Err(error) => return self.refused(client, &flow, &error).await,
                }
            }
        })
    }

    async fn refused(self: &Arc<Self>, client: SocketAddr, flow: &Flow, error: &io::Error) {
        self.proxy.counters.failed("Attempt");
        tracing::debug!(backend = %flow.backend, %client, %error, "an endpoint refused a datagram");
        if !self.broken(client, flow) {
            return;
        }
        let unanswered = flow.unanswered().take();
        if let Some(datagram) = unanswered {
            let tried = flow.tried.iter().copied().chain([flow.backend]).collect();
            self.deliver(datagram, client, tried).await;
        }
    }

    /// Ends a flow whose endpoint does not answer; `false` if it had ended already.
    fn broken(&self, client: SocketAddr, flow: &Flow) -> bool {
        self.pool.failed(client.ip(), flow.backend);
        let mut flows = self.flows();
        let is_it = flows.get(&client).is_some_and(|known| known.number == flow.number);
        if is_it {
            flows.remove(&client);
            self.proxy.counters.open_flows.dec();
            flow.stop.cancel();
        }
        is_it
    }

    fn sweep(&self) {
        let now = self.now();
        let long = self.proxy.options.udp_timeout;
        self.end_where(|flow| {
            let idle = Duration::from_millis(now.saturating_sub(flow.used.load(Ordering::Relaxed)));
            idle >= if flow.is_stream() { long } else { long.min(SHORT) }
        });
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

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Flow>>> {
        // A panic elsewhere leaves the map whole: every change of it is one call.
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    fn asks(&self, datagram: &[u8], now: u64) {
        self.used.store(now, Ordering::Relaxed);
        self.questions.fetch_add(1, Ordering::Relaxed);
        if !self.answered.load(Ordering::Relaxed) {
            *self.unanswered() = Some(datagram.to_vec());
        }
    }

    fn is_answered(&self, now: u64) {
        self.used.store(now, Ordering::Relaxed);
        if !self.answered.swap(true, Ordering::Relaxed) {
            *self.unanswered() = None;
        }
    }

    /// Whether this is more than a question and its answers.
    fn is_stream(&self) -> bool {
        self.answered.load(Ordering::Relaxed) && self.questions.load(Ordering::Relaxed) > 1
    }

    fn unanswered(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
