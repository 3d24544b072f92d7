//! The test backend: a pod's program that stands for an application. It answers with its identity and the client's address.
//!
//! ```text
//! TCP  first bytes: PROXY v2 header? ─▶ HTTP request? ─▶ HTTP/1.1 answers (keep-alive)
//!                                           └ no, or silence ─▶ one line per line received, the first one at once
//! UDP  each datagram ─▶ one datagram
//! ```
//! Every answer is one [`Identity::answer`] as JSON. Invariant: after SIGTERM it serves for `--linger`, so that proxies have
//! time to learn that the endpoint is terminating. Then it accepts no more, and finishes the answers in flight.

mod connection;
mod http;
mod ports;
mod proxy_header;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use ports::{PORTS_VARIABLE, Port, Transport};

/// `portico-e2e backend`: answers who it is and whom it sees, over TCP, UDP and HTTP.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// TCP ports (HTTP or lines, distinguished by the first bytes)
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    /// UDP ports
    #[arg(long, value_name = "PORT")]
    udp: Vec<u16>,
    /// Same as --tcp
    #[arg(long, value_name = "PORT")]
    http: Vec<u16>,
    /// Ports as the node agent gives them, from the pod's containerPorts; used when no flag names a port
    #[arg(long, env = PORTS_VARIABLE, value_name = "80/tcp,53/udp", value_delimiter = ',')]
    ports: Vec<Port>,
    /// How long SIGTERM leaves it serving, in milliseconds
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    linger: u64,
    /// How long connections may take to finish after that, in milliseconds
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    drain: u64,
}

impl Args {
    /// Flags first, then what the pod declares, then 80 over both.
    fn wanted(&self) -> Vec<Port> {
        let flags = self
            .tcp
            .iter()
            .chain(&self.http)
            .map(|number| Port { number: *number, transport: Transport::Tcp });
        let flags =
            flags.chain(self.udp.iter().map(|number| Port { number: *number, transport: Transport::Udp }));
        let mut ports: Vec<Port> = flags.collect();
        if ports.is_empty() {
            ports.clone_from(&self.ports);
        }
        if ports.is_empty() {
            ports = vec![
                Port { number: 80, transport: Transport::Tcp },
                Port { number: 80, transport: Transport::Udp },
                Port { number: 8080, transport: Transport::Tcp },
            ];
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

/// The identity in each answer, from the environment variables that the node agent sets.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    pod: String,
    namespace: String,
    node: String,
    ip: String,
}

/// One answer, as clients get it (JSON).
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    #[serde(flatten)]
    identity: &'a Identity,
    protocol: &'static str,
    client: SocketAddr,
    server: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxied_client: Option<SocketAddr>,
}

impl Identity {
    fn from_env() -> Self {
        let read = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            pod: std::env::var("PORTICO_POD").unwrap_or_else(|_| read("HOSTNAME")),
            namespace: read("PORTICO_NAMESPACE"),
            node: read("PORTICO_NODE"),
            ip: read("PORTICO_POD_IP"),
        }
    }

    fn answer(&self, protocol: &'static str, client: SocketAddr, server: SocketAddr) -> Answer<'_> {
        let [client, server] = [client, server].map(canonical);
        Answer { identity: self, protocol, client, server, path: None, payload: None, proxied_client: None }
    }
}

/// `::ffff:10.0.0.1` is 10.0.0.1, seen through a socket for both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: &Args) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("async runtime")?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let identity = Arc::new(Identity::from_env());
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    for port in args.wanted() {
        start(port, &identity, &stop, &tasks).with_context(|| format!("listen on {port}"))?;
        tracing::info!(%port, "listening");
    }
    tokio::select! {
        _ = terminate.recv() => tokio::time::sleep(Duration::from_millis(args.linger)).await,
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(Duration::from_millis(args.drain), tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "ended before all connections were done");
    }
    Ok(())
}

fn start(port: Port, identity: &Arc<Identity>, stop: &CancellationToken, tasks: &TaskTracker) -> Result<()> {
    let (identity, stop) = (Arc::clone(identity), stop.clone());
    match port.transport {
        Transport::Tcp => {
            let socket = any_address(port.number, Type::STREAM, Protocol::TCP)?;
            socket.listen(1024).context("listen")?;
            let listener = tokio::net::TcpListener::from_std(socket.into()).context("listener")?;
            tasks.spawn(tcp::accept(listener, identity, stop, tasks.clone()));
        }
        Transport::Udp => {
            let socket = any_address(port.number, Type::DGRAM, Protocol::UDP)?;
            let socket = tokio::net::UdpSocket::from_std(socket.into()).context("socket")?;
            tasks.spawn(udp::answer(socket, identity, stop));
        }
    }
    Ok(())
}

/// Bound to both families, or to IPv4 where the kernel has no IPv6.
fn any_address(port: u16, kind: Type, protocol: Protocol) -> Result<Socket> {
    let bound = |domain: Domain, address: SocketAddr| -> std::io::Result<Socket> {
        let socket = Socket::new(domain, kind, Some(protocol))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bound(Domain::IPV6, SocketAddr::from(([0u16; 8], port)))
        .or_else(|_| bound(Domain::IPV4, SocketAddr::from(([0u8; 4], port))))
        .with_context(|| format!("port {port}: taken, or no right to it"))
}
