//! Outcomes of a try, and the sum of many. Pure. Invariant: `tried = ok + all failures`.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use serde::Serialize;
use serde_json::Value;

/// Why a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// Actively refused: RST to SYN, or ICMP port unreachable.
    Refused,
    /// No answer in time.
    Timeout,
    /// The connection was cut.
    Reset,
    /// All else: no route, an answer that is none, …
    Other,
}

impl From<&std::io::Error> for Failure {
    fn from(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionAborted => Self::Reset,
            _ => Self::Other,
        }
    }
}

/// Record of one try, a line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Whether an answer came.
    pub ok: bool,
    /// The answer: the backend's JSON, or any other text as a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// Reason of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The same, in the system's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// From the first packet to the whole answer, in µs.
    pub latency_us: u64,
}

/// The sum of tries.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    ok: u64,
    failed: BTreeMap<Failure, u64>,
    pods: BTreeMap<String, u64>,
    clients: BTreeMap<String, u64>,
    latencies: Vec<u64>,
    last_error: Option<String>,
}

/// The summary as it is printed.
#[derive(Clone, Debug, Serialize)]
pub struct Report<'a> {
    tried: u64,
    ok: u64,
    failed: &'a BTreeMap<Failure, u64>,
    pods: &'a BTreeMap<String, u64>,
    clients: &'a BTreeMap<String, u64>,
    latency_us: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    max: u64,
}

impl Summary {
    /// Counts one more.
    pub fn add(&mut self, outcome: &Outcome) {
        let Outcome { ok, answer, error, message, latency_us } = outcome;
        if *ok {
            self.ok += 1;
            self.latencies.push(*latency_us);
        }
        if let Some(failure) = error {
            *self.failed.entry(*failure).or_default() += 1;
            self.last_error.clone_from(message);
        }
        let text = |key: &str| answer.as_ref().and_then(|answer| answer.get(key)).and_then(Value::as_str);
        if let Some(pod) = text("pod") {
            *self.pods.entry(pod.to_owned()).or_default() += 1;
        }
        if let Some((ip, _port)) = text("client").and_then(|client| client.rsplit_once(':')) {
            *self.clients.entry(ip.to_owned()).or_default() += 1;
        }
    }

    /// Whether there was a try, and each was answered.
    pub fn all_ok(&self) -> bool {
        self.ok > 0 && self.failed.is_empty()
    }

    /// The summary in its printed form.
    pub fn report(&self) -> Report<'_> {
        let Self { ok, failed, pods, clients, latencies, last_error } = self;
        let mut sorted = latencies.clone();
        sorted.sort_unstable();
        let latency =
            Latency { p50: quantile(&sorted, 50), p99: quantile(&sorted, 99), max: quantile(&sorted, 100) };
        let tried = ok + failed.values().sum::<u64>();
        Report {
            tried,
            ok: *ok,
            failed,
            pods,
            clients,
            latency_us: latency,
            last_error: last_error.as_deref(),
        }
    }
}

/// Nearest rank; 0 of nothing.
fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk_ok(pod: &str, latency_us: u64) -> Outcome {
        let answer = json!({"pod": pod, "client": "[fd00::1]:4000"});
        Outcome { ok: true, answer: Some(answer), error: None, message: None, latency_us }
    }

    #[test]
    fn a_summary_counts_pods_clients_and_failures_and_is_ok_only_without_any() {
        let mut summary = Summary::default();
        assert!(!summary.all_ok(), "nothing tried is not a success");
        summary.add(&mk_ok("a", 10));
        summary.add(&mk_ok("a", 30));
        assert!(summary.all_ok());
        summary.add(&Outcome {
            ok: false,
            answer: None,
            error: Some(Failure::Refused),
            message: Some("no".to_owned()),
            latency_us: 1,
        });
        assert!(!summary.all_ok());
        let report = serde_json::to_value(summary.report()).expect("JSON");
        assert_eq!(report["tried"], 3);
        assert_eq!(report["failed"]["refused"], 1);
        assert_eq!(report["pods"]["a"], 2);
        assert_eq!(report["clients"]["[fd00::1]"], 2);
        assert_eq!(report["latency_us"], json!({"p50": 10, "p99": 30, "max": 30}));
    }
}
