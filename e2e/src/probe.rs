//! The test client: tries an address again and again and says what came back.
//!
//! Owns one try over HTTP, TCP or UDP and the repetition; `probe/outcome.rs` names what can happen and sums it up. One JSON
//! line per try, or one summary. Invariants: every try ends within `--timeout`; a failure is counted, never retried; the
//! exit code is 0 only if at least one try was made and all were answered.

mod outcome;
mod tries;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use outcome::{Failure, Outcome, Summary};
use tries::Client;

/// `portico-e2e probe`: tries an address and says who answered.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Protocol
    #[arg(value_enum)]
    protocol: Protocol,
    /// IP:PORT, for http also http://IP:PORT/PATH
    address: String,
    /// Number of tries
    #[arg(long, default_value_t = 1, conflicts_with = "duration")]
    count: u64,
    /// Try for so long instead, in milliseconds
    #[arg(long, value_name = "MS")]
    duration: Option<u64>,
    /// Pause between tries of one worker, in milliseconds
    #[arg(long, default_value_t = 0, value_name = "MS")]
    interval: u64,
    /// A try that takes longer has failed, in milliseconds
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    timeout: u64,
    /// Workers that try at the same time
    #[arg(long, default_value_t = 1)]
    concurrency: u32,
    /// Keep a connection for all tries of a worker, instead of a new one for each
    #[arg(long)]
    keep_alive: bool,
    /// Local port of the tries
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    /// Payload over UDP and TCP
    #[arg(long, default_value = "hello")]
    payload: String,
    /// One summary instead of a line per try
    #[arg(long)]
    summary: bool,
}

/// Protocols of the test backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// A GET request.
    Http,
    /// A line, answered by a line.
    Tcp,
    /// A datagram, answered by a datagram.
    Udp,
}

/// Target of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: SocketAddr,
    path: String,
}

impl Target {
    fn parse(protocol: Protocol, text: &str) -> Result<Self> {
        let rest = match protocol {
            Protocol::Http => text.strip_prefix("http://").unwrap_or(text),
            Protocol::Tcp | Protocol::Udp => text,
        };
        let (address, path) = match rest.find('/') {
            Some(at) if protocol == Protocol::Http => rest.split_at(at),
            _ => (rest, "/"),
        };
        let address =
            address.parse().with_context(|| format!("ADDRESS {text:?}: want IP:PORT, as 10.96.0.1:80"))?;
        Ok(Self { address, path: path.to_owned() })
    }
}

/// Tries, reports, and answers by the exit code.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.concurrency == 0 {
        bail!("--concurrency: want at least 1");
    }
    if args.source_port.is_some() && args.concurrency > 1 {
        bail!("--source-port: one port serves one worker; drop --concurrency");
    }
    let target = Target::parse(args.protocol, &args.address)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("async runtime")?;
    let summary = runtime.block_on(probe(args, target))?;
    Ok(if summary.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn probe(args: &Args, target: Target) -> Result<Summary> {
    let (sender, mut outcomes) = mpsc::channel(1024);
    let args = Arc::new(args.clone());
    let taken = Arc::new(AtomicU64::new(0));
    let end = args.duration.map(|ms| Instant::now() + Duration::from_millis(ms));
    for _ in 0..args.concurrency {
        tokio::spawn(work(Arc::clone(&args), target.clone(), Arc::clone(&taken), end, sender.clone()));
    }
    drop(sender);
    let mut summary = Summary::default();
    let mut out = std::io::stdout().lock();
    while let Some(outcome) = outcomes.recv().await {
        if !args.summary {
            writeln!(out, "{}", serde_json::to_string(&outcome).context("outcome")?).context("stdout")?;
        }
        summary.add(&outcome);
    }
    if args.summary {
        writeln!(out, "{}", serde_json::to_string(&summary.report()).context("summary")?)
            .context("stdout")?;
    }
    Ok(summary)
}

/// One worker: a try, a pause, until the number or the time is used up.
async fn work(
    args: Arc<Args>,
    target: Target,
    taken: Arc<AtomicU64>,
    end: Option<Instant>,
    outcomes: mpsc::Sender<Outcome>,
) {
    let mut client =
        Client::new(args.protocol, target, args.source_port, args.keep_alive, args.payload.clone());
    loop {
        let number = taken.fetch_add(1, Ordering::Relaxed);
        let more = end.map_or(number < args.count, |end| Instant::now() < end);
        if !more {
            return;
        }
        let outcome = client.attempt(Duration::from_millis(args.timeout)).await;
        if outcomes.send(outcome).await.is_err() {
            return; // nobody reads any more
        }
        tokio::time::sleep(Duration::from_millis(args.interval)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_target_may_be_a_url_and_others_may_not() {
        let target = Target::parse(Protocol::Http, "http://10.0.0.1:80/delay/5").expect("parses");
        assert_eq!((target.address.to_string().as_str(), target.path.as_str()), ("10.0.0.1:80", "/delay/5"));
        assert_eq!(Target::parse(Protocol::Http, "[::1]:80").expect("parses").path, "/");
        assert!(
            Target::parse(Protocol::Tcp, "10.0.0.1").expect_err("no port").to_string().contains("IP:PORT")
        );
    }
}
