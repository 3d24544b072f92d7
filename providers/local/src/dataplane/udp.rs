//! UDP: a flow for each client, with a socket of its own to its target.
//!
//! Owns: frontend sockets and flows. Leaves to others: the choice (`pool`).
//! Invariant: replies leave from the address the client sent to. A flow whose target left or fell ill is dropped
//! at the next packet and begun with another, because UDP has no end that would show it. Flows are bounded. A flow
//! is looked at again only when the rules or a verdict changed, so a datagram costs the same whatever their number.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Wiring;
use super::metrics::count;

/// The largest UDP payload (RFC 768: 65,535 less the header).
const DATAGRAM: usize = 65_527;
/// Flows of one frontend: each costs a socket.
const FLOWS: usize = 16_384;
/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// A socket on exactly this address.
pub fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// One client's packets to one target.
struct Flow {
    target: SocketAddr,
    socket: Arc<UdpSocket>,
    /// The choice by which its client and its target were last found good.
    generation: u64,
    /// Milliseconds since the frontend began: the last packet of either direction.
    used: Arc<AtomicU64>,
    /// Stops the task that carries replies.
    _replies: DropGuard,
}

/// Forwards until told to stop; then its flows end with it, as there is no connection that could end by itself.
pub async fn forward(frontend: UdpSocket, wiring: Wiring) {
    let frontend = Arc::new(frontend);
    let clock = Instant::now();
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    let mut sweep = tokio::time::interval(SWEEP.min(wiring.shared.timing.udp_idle));
    loop {
        tokio::select! {
            () = wiring.stop.cancelled() => return,
            _tick = sweep.tick() => {
                let now = milliseconds(clock);
                let idle = u64::try_from(wiring.shared.timing.udp_idle.as_millis()).unwrap_or(u64::MAX);
                flows.retain(|_client, flow| now.saturating_sub(flow.used.load(Ordering::Relaxed)) < idle);
            }
            received = frontend.recv_from(&mut buffer) => match received {
                Ok((length, client)) => {
                    let packet = buffer.get(..length).unwrap_or_default();
                    deliver(packet, client, &mut flows, &frontend, &wiring, clock).await;
                }
                // ICMP errors of earlier replies arrive here; they are about a client, not about this socket.
                Err(error) => tracing::debug!(%error, "cannot receive"),
            }
        }
    }
}

async fn deliver(
    packet: &[u8],
    client: SocketAddr,
    flows: &mut HashMap<SocketAddr, Flow>,
    frontend: &Arc<UdpSocket>,
    wiring: &Wiring,
    clock: Instant,
) {
    let choice = wiring.pool.choice();
    if flows.get(&client).is_none_or(|flow| flow.generation != choice.generation()) {
        if !choice.admits(client.ip()) {
            count(&wiring.shared.metrics.source_rejected);
            flows.remove(&client);
            return;
        }
        match flows.get_mut(&client).filter(|flow| choice.serves(flow.target)) {
            Some(flow) => flow.generation = choice.generation(),
            None => drop(flows.remove(&client)),
        }
    }
    if !flows.contains_key(&client) {
        match begin(client, flows.len(), choice.generation(), frontend, wiring, clock).await {
            Ok(flow) => flows.insert(client, flow),
            Err(error) => {
                count(&wiring.shared.metrics.no_target);
                tracing::debug!(%client, %error, "no flow");
                return;
            }
        };
    }
    if let Some(flow) = flows.get(&client) {
        flow.used.store(milliseconds(clock), Ordering::Relaxed);
        if let Err(error) = flow.socket.send(packet).await {
            // Refused by ICMP: the target is gone before its probe noticed; the next packet tries anew.
            tracing::debug!(%client, to = %flow.target, %error, "flow ended");
            flows.remove(&client);
        }
    }
}

async fn begin(
    client: SocketAddr,
    existing: usize,
    generation: u64,
    frontend: &Arc<UdpSocket>,
    wiring: &Wiring,
    clock: Instant,
) -> io::Result<Flow> {
    if existing >= FLOWS {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    let target = wiring.pool.candidates(client.ip()).next().ok_or(io::ErrorKind::HostUnreachable)?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = Arc::new(UdpSocket::bind(any).await?);
    socket.connect(target).await?;
    wiring.pool.connected(client.ip(), target);
    count(&wiring.shared.metrics.udp_flows);
    let used = Arc::new(AtomicU64::new(milliseconds(clock)));
    let stop = CancellationToken::new();
    let replies = replies(Arc::clone(&socket), Arc::clone(frontend), client, Arc::clone(&used), clock);
    wiring.connections.spawn(stop.clone().run_until_cancelled_owned(replies));
    Ok(Flow { target, socket, generation, used, _replies: stop.drop_guard() })
}

async fn replies(
    socket: Arc<UdpSocket>,
    frontend: Arc<UdpSocket>,
    client: SocketAddr,
    used: Arc<AtomicU64>,
    clock: Instant,
) {
    // An error (ICMP refused) ends the replies; the client's next packet finds it as well and begins anew.
    while socket.readable().await.is_ok() {
        // Made only when there is a packet: thousands of quiet flows must not hold 64 KiB each.
        let mut buffer = vec![0; DATAGRAM];
        let length = match socket.try_recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_refused) => return,
        };
        used.store(milliseconds(clock), Ordering::Relaxed);
        let packet = buffer.get(..length).unwrap_or_default();
        if let Err(error) = frontend.send_to(packet, client).await {
            tracing::debug!(%client, %error, "cannot reply");
        }
    }
}

fn milliseconds(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}
