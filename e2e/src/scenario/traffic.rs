//! Requests of a client, and the reply to each: the pod that answered, or the kind of silence. Owns: reading the line that
//! the probe writes for each request, and traffic without end. Leaves to others: where a client is (`cluster::vantage`).

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::cluster::vantage::Vantage;

/// Protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `GET /` over TCP.
    Http,
    /// One line over TCP.
    Tcp,
    /// One datagram over UDP.
    Udp,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The answer of the test backend: which pod it is, and the client it saw.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// The pod that answered.
    pub pod: String,
    /// Node of that pod.
    pub node: String,
    /// The client's address as the pod saw it.
    pub client: SocketAddr,
    /// The address the pod was reached at.
    pub server: SocketAddr,
    /// The client's address by a PROXY protocol header, where there was one.
    pub proxied_client: Option<SocketAddr>,
}

/// A reply without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Reset or ICMP: nothing serves this.
    Refused,
    /// Nothing at all.
    Timeout,
    /// Anything else, in the probe's words.
    Other(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Timeout => f.write_str("timeout"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Outcome of one request.
pub type Reply = Result<Answer, Silence>;

/// One line of `portico-e2e probe`.
#[derive(Deserialize)]
struct Line {
    ok: bool,
    answer: Option<Answer>,
    error: Option<String>,
}

fn read_line(line: &str) -> anyhow::Result<Reply> {
    let line: Line = serde_json::from_str(line).with_context(|| format!("the probe's line {line}"))?;
    Ok(match line {
        Line { ok: true, answer: Some(answer), .. } => Ok(answer),
        Line { ok: true, answer: None, .. } => {
            Err(Silence::Other("an answer that is not the backend's".to_owned()))
        }
        Line { error, .. } => Err(match error.as_deref() {
            Some("refused") => Silence::Refused,
            Some("timeout") => Silence::Timeout,
            other => Silence::Other(other.unwrap_or("no reason given").to_owned()),
        }),
    })
}

/// A client: the probe, and the network namespace it runs in.
#[derive(Clone, Debug)]
pub struct Client {
    program: PathBuf,
    vantage: Vantage,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vantage.fmt(f)
    }
}

impl Client {
    /// A client at `vantage` that runs `program`, the portico-e2e binary.
    pub(super) fn new(program: PathBuf, vantage: Vantage) -> Self {
        Self { program, vantage }
    }

    fn probe(&self, by: By, to: SocketAddr, more: &[String]) -> Command {
        let mut command = self.vantage.command(&self.program);
        command
            .args(["probe", &by.to_string(), &to.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Sends `count` requests, one after the other, and waits up to a second for each answer.
    pub async fn ask_times(&self, by: By, to: SocketAddr, count: u32) -> anyhow::Result<Vec<Reply>> {
        self.ask_with(by, to, &["--count".to_owned(), count.to_string()]).await
    }

    /// Sends requests with the probe's own flags.
    pub async fn ask_with(&self, by: By, to: SocketAddr, flags: &[String]) -> anyhow::Result<Vec<Reply>> {
        let mut all =
            vec!["--timeout".to_owned(), "1000".to_owned(), "--interval".to_owned(), "0".to_owned()];
        all.extend_from_slice(flags);
        let done = self.probe(by, to, &all).output().await.context("starting a probe")?;
        let text = String::from_utf8_lossy(&done.stdout);
        let replies: Vec<Reply> = text.lines().map(read_line).collect::<anyhow::Result<_>>()?;
        ensure!(
            !replies.is_empty(),
            "the probe from {} to {to} wrote nothing: {}",
            self.vantage,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(replies)
    }

    /// Sends one request.
    pub async fn ask(&self, by: By, to: SocketAddr) -> anyhow::Result<Reply> {
        self.ask_times(by, to, 1).await?.pop().context("no reply")
    }

    /// Sends one request; silence is an error.
    pub async fn answer(&self, by: By, to: SocketAddr) -> anyhow::Result<Answer> {
        match self.ask(by, to).await? {
            Ok(answer) => Ok(answer),
            Err(silence) => bail!("{by} {to} from {}: {silence}", self.vantage),
        }
    }

    /// Sends `count` requests; a single silence is an error.
    pub async fn answers(&self, by: By, to: SocketAddr, count: u32) -> anyhow::Result<Vec<Answer>> {
        let replies = self.ask_times(by, to, count).await?;
        let asked = replies.len();
        let answers: Result<Vec<_>, _> = replies.into_iter().collect();
        answers.map_err(|silence| {
            anyhow::anyhow!("{by} {to} from {}: one of {asked} got {silence}", self.vantage)
        })
    }

    /// Sends one request; anything but `silence` is an error.
    pub async fn hears(&self, by: By, to: SocketAddr, silence: Silence) -> anyhow::Result<()> {
        let from = &self.vantage;
        match self.ask(by, to).await? {
            Err(heard) if heard == silence => Ok(()),
            Err(heard) => bail!("{by} {to} from {from}: {heard}, expected {silence}"),
            Ok(answer) => bail!("{by} {to} from {from}: answered by {}, expected {silence}", answer.pod),
        }
    }

    /// Sends one request; an answer is an error, and any kind of silence is none.
    pub async fn hears_nothing(&self, by: By, to: SocketAddr) -> anyhow::Result<()> {
        match self.ask(by, to).await? {
            Err(_) => Ok(()),
            Ok(answer) => bail!("{by} {to} from {}: answered by {}", self.vantage, answer.pod),
        }
    }

    /// Starts requests without end.
    pub fn keep_asking(&self, by: By, to: SocketAddr) -> anyhow::Result<Traffic> {
        let flags = ["--timeout", "5000", "--interval", "5", "--duration", "600000"].map(str::to_owned);
        let mut child =
            self.probe(by, to, &flags).stdout(Stdio::piped()).spawn().context("starting a probe")?;
        let lines = BufReader::new(child.stdout.take().context("a probe without stdout")?).lines();
        let from = format!("{by} {to} from {}", self.vantage);
        let (count, tried) = watch::channel(0);
        Ok(Traffic { child, reader: tokio::spawn(collect(lines, count)), tried, from })
    }
}

async fn collect(
    mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    count: watch::Sender<usize>,
) -> anyhow::Result<Vec<Reply>> {
    let mut replies = Vec::new();
    while let Some(line) = lines.next_line().await.context("reading a probe")? {
        replies.push(read_line(&line)?);
        count.send_replace(replies.len());
    }
    Ok(replies)
}

/// How long it may take until there was enough traffic, on two busy cores.
const ENOUGH: Duration = Duration::from_secs(30);

/// Requests without end, one after the other, until stopped.
#[derive(Debug)]
pub struct Traffic {
    child: Child,
    reader: JoinHandle<anyhow::Result<Vec<Reply>>>,
    tried: watch::Receiver<usize>,
    from: String,
}

impl Traffic {
    /// Ends it after `at_least` requests, and gives all answers; a single failed request is an error.
    pub async fn stop(mut self, at_least: usize) -> anyhow::Result<Vec<Answer>> {
        let enough = self.tried.wait_for(|&tried| tried >= at_least);
        // An ended or stuck probe is reported below, with what it wrote.
        let _in_time = timeout(ENOUGH, enough).await.is_ok_and(|tried| tried.is_ok());
        self.child.start_kill().context("ending a probe")?;
        self.child.wait().await.context("waiting for a probe's end")?;
        let replies = self.reader.await.context("reading a probe")??;
        let (tried, from) = (replies.len(), self.from);
        let failed: Vec<String> = replies
            .iter()
            .enumerate()
            .filter_map(|(number, reply)| Some(format!("request {number}: {}", reply.as_ref().err()?)))
            .collect();
        ensure!(
            failed.is_empty(),
            "{from}: {} of {tried} requests failed: {}",
            failed.len(),
            failed.join(", ")
        );
        ensure!(
            tried >= at_least,
            "{from}: only {tried} requests, fewer than {at_least}: too few to mean anything"
        );
        Ok(replies.into_iter().flatten().collect())
    }
}

/// The pods among `answers`.
pub fn pods(answers: &[Answer]) -> BTreeSet<&str> {
    answers.iter().map(|answer| answer.pod.as_str()).collect()
}
