//! Vantage points of clients: `portico-e2e probe` in the network namespace of a pod, a node
//! or the outside host. So each answer comes over the same wire and through the same rules as a user's would.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::process::Command;

use super::Cluster;

/// A place on the network from which a client asks.
#[derive(Clone, Debug)]
pub struct Vantage {
    label: String,
    netns: String,
    program: PathBuf,
}

/// Protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A GET request.
    Http,
    /// A line over TCP, answered by anything.
    Tcp,
    /// A datagram, answered by one.
    Udp,
}

/// Summary of several requests, as `portico-e2e probe --summary` prints it.
#[derive(Clone, Debug, Deserialize)]
pub struct Answers {
    /// Number of tries.
    pub tried: u64,
    /// How many were answered.
    pub ok: u64,
    /// Failures by kind: refused, timeout, reset, other.
    pub failed: BTreeMap<String, u64>,
    /// Answers by pod, where the answer named one.
    pub pods: BTreeMap<String, u64>,
    /// Answers by the client address that the pod saw.
    pub clients: BTreeMap<String, u64>,
    /// How long answers took.
    pub latency_us: Latency,
    /// The last failure in the system's words.
    pub last_error: Option<String>,
}

/// Latencies in µs.
#[derive(Clone, Debug, Deserialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: u64,
    /// 99 of 100 took no longer.
    pub p99: u64,
    /// Longest time, in milliseconds.
    pub max: u64,
}

impl Answers {
    /// Whether every try was answered.
    pub fn all_ok(&self) -> bool {
        self.tried > 0 && self.ok == self.tried
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, ok, failed, pods, clients: _, latency_us, last_error } = self;
        write!(f, "{ok}/{tried} answered")?;
        if !pods.is_empty() {
            let plural = if pods.len() == 1 { "" } else { "s" };
            write!(f, " by {} pod{plural}", pods.len())?;
        }
        if *ok > 0 {
            let tenths = latency_us.p50.div_ceil(100);
            write!(f, ", {}.{} ms", tenths / 10, tenths % 10)?;
        }
        for (kind, count) in failed {
            write!(f, ", {count} {kind}")?;
        }
        match last_error {
            Some(error) => write!(f, " ({error})"),
            None => Ok(()),
        }
    }
}

impl Cluster {
    /// A client in a pod.
    pub fn from_pod(&self, namespace: &str, name: &str) -> Vantage {
        self.vantage(format!("pod {name}"), format!("{namespace}_{name}"))
    }

    /// A client on a node.
    pub fn from_node(&self, name: &str) -> Vantage {
        self.vantage(name.to_owned(), name.to_owned())
    }

    /// A client on the host outside the cluster.
    pub fn from_outside(&self) -> Vantage {
        self.vantage("outside".to_owned(), "outside".to_owned())
    }

    fn vantage(&self, label: String, netns: String) -> Vantage {
        Vantage { label, netns, program: self.tools().portico_e2e() }
    }
}

impl Vantage {
    /// Asks `address` `count` times, one after the other.
    pub async fn ask(&self, protocol: Protocol, address: SocketAddr, count: u32) -> anyhow::Result<Answers> {
        let protocol = match protocol {
            Protocol::Http => "http",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let address = address.to_string();
        let count = count.to_string();
        self.probe(&[protocol, &address, "--count", &count, "--summary"]).await
    }

    /// Runs `portico-e2e probe` here and reads its summary. Unanswered tries are no error: they are in the summary.
    pub async fn probe(&self, args: &[&str]) -> anyhow::Result<Answers> {
        let done = self
            .command(&self.program)
            .arg("probe")
            .args(args)
            .kill_on_drop(true)
            .output()
            .await
            .context("starting a probe")?;
        let text = String::from_utf8_lossy(&done.stdout);
        let summary = text.lines().last().unwrap_or_default();
        serde_json::from_str(summary).with_context(|| {
            let stderr = String::from_utf8_lossy(&done.stderr);
            format!("the probe from {self} ended with {} and said {text:?} {:?}", done.status, stderr.trim())
        })
    }

    /// A command that runs `program` here.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["enter", "--netns", &self.netns, "--"]).arg(program);
        command
    }
}

impl fmt::Display for Vantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}
