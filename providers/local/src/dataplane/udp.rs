//! UDP: a flow for each client, with a socket of its own to its target.
//!
//! Owns: frontend sockets and flows. Leaves to others: the choice (`pool`).
//! Invariants: replies leave from the address the client sent to. A flow whose target left or fell ill is dropped
//! at the next packet, and the next target gets a new one, because UDP has no end that would show it. Flows are
//! bounded. A flow is checked again only when the rules or a verdict changed, so a datagram costs the same whatever
//! their number. No datagram waits for room in a socket's buffer: it is dropped and counted, so that a flow that is
//! blocked holds up no other.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Wiring;
use super::metrics::{Metrics, count};

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

/// Result of sending a datagram.
#[derive(Debug)]
enum Sent {
    /// The kernel took it.
    Whole,
    /// The socket's buffer had no room.
    Dropped,
    /// The socket had an error, for example by ICMP.
    Failed(io::Error),
}

impl Sent {
    /// `result` is that of a call that does not wait. Such calls ask the kernel itself: tokio's say "no room" of a socket
    /// that its reactor has not heard of yet.
    fn of(result: io::Result<usize>, metrics: &Metrics) -> Self {
        match result {
            Ok(_length) => Self::Whole,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                count(&metrics.udp_dropped);
                Self::Dropped
            }
            Err(error) => Self::Failed(error),
        }
    }
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
                    deliver(packet, client, &mut flows, &frontend, &wiring, clock);
                }
                // ICMP errors of earlier replies arrive here; they are about a client, not about this socket.
                Err(error) => tracing::debug!(%error, "cannot receive"),
            }
        }
    }
}

/// Never waits: while it runs, the frontend receives nothing.
fn deliver(
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
        match begin(client, flows.len(), choice.generation(), frontend, wiring, clock) {
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
        let sent = Sent::of(SockRef::from(&*flow.socket).send(packet), &wiring.shared.metrics);
        if let Sent::Failed(error) = sent {
            // Refused by ICMP: the target ended before its probe noticed. The next packet gets a new flow.
            tracing::debug!(%client, to = %flow.target, %error, "flow ended");
            flows.remove(&client);
        }
    }
}

fn begin(
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
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = Arc::new(listen(SocketAddr::new(any, 0))?);
    SockRef::from(&*socket).connect(&target.into())?;
    wiring.pool.connected(client.ip(), target);
    count(&wiring.shared.metrics.udp_flows);
    let used = Arc::new(AtomicU64::new(milliseconds(clock)));
    let stop = CancellationToken::new();
    let to_client = ToClient {
        frontend: Arc::clone(frontend),
        client,
        used: Arc::clone(&used),
        clock,
        metrics: Arc::clone(&wiring.shared.metrics),
    };
    let replies = replies(Arc::clone(&socket), to_client);
    wiring.connections.spawn(stop.clone().run_until_cancelled_owned(replies));
    Ok(Flow { target, socket, generation, used, _replies: stop.drop_guard() })
}

/// The way back of a flow.
struct ToClient {
    frontend: Arc<UdpSocket>,
    client: SocketAddr,
    used: Arc<AtomicU64>,
    clock: Instant,
    metrics: Arc<Metrics>,
}

async fn replies(socket: Arc<UdpSocket>, to_client: ToClient) {
    let ToClient { frontend, client, used, clock, metrics } = to_client;
    // An error (ICMP refused) ends the replies; the client's next packet finds it as well, and gets a new flow.
    while socket.readable().await.is_ok() {
        // Allocated only when there is a packet: thousands of quiet flows must not hold 64 KiB each.
        let mut buffer = vec![0; DATAGRAM];
        let length = match socket.try_recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_refused) => return,
        };
        used.store(milliseconds(clock), Ordering::Relaxed);
        let packet = buffer.get(..length).unwrap_or_default();
        let sent = Sent::of(SockRef::from(&*frontend).send_to(packet, &client.into()), &metrics);
        if let Sent::Failed(error) = sent {
            tracing::debug!(%client, %error, "cannot reply");
        }
    }
}

fn milliseconds(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_without_room_is_dropped_and_counted_and_its_flow_stays() {
        let metrics = Metrics::default();
        let sent = |result: io::Result<usize>| Sent::of(result, &metrics);
        assert!(matches!(sent(Ok(6)), Sent::Whole));
        assert!(matches!(sent(Err(io::ErrorKind::WouldBlock.into())), Sent::Dropped));
        assert!(matches!(sent(Err(io::ErrorKind::ConnectionRefused.into())), Sent::Failed(_)));
        assert_eq!(metrics.udp_dropped.load(Ordering::Relaxed), 1);
    }

    /// The datagrams of a flow whose socket tokio has not yet found writable are sent all the same, and without waiting.
    #[tokio::test]
    async fn the_first_datagram_of_a_flow_is_sent_without_waiting() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        SockRef::from(&socket).connect(&server.local_addr().unwrap().into()).unwrap();
        let sent = Sent::of(SockRef::from(&socket).send(b"first"), &Metrics::default());
        assert!(matches!(sent, Sent::Whole), "{sent:?}");
        let mut buffer = [0; 8];
        assert_eq!(server.recv(&mut buffer).unwrap(), 5);
    }
}
