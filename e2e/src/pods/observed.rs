//! A pod as this agent observes it: its addresses and the state of each container.
//!
//! Owns the record of one container and its back-off. Pure: times are given. Leaves what to do about it to `plan.rs`.
//! Invariant: `attempt` grows with every start, so an event of an earlier process is recognised.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

/// Longest pause before a restart, as the kubelet's.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// A container that ran for so long starts with the shortest pause again, as with the kubelet.
const FORGIVEN: SignedDuration = SignedDuration::from_mins(10);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Exit code; 128 + signal.
    pub(crate) code: i32,
    /// `Completed`, `Error` or what went wrong before it ran.
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
}

/// State of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not started, for this reason.
    Waiting { reason: String, message: Option<String> },
    /// A process runs.
    Running { since: Timestamp },
    /// Its last process has ended.
    Ended(Ended),
}

/// Record of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) state: State,
    pub(crate) last: Option<Ended>,
    /// Starts after the first.
    pub(crate) restarts: i32,
    /// Number of the current start.
    pub(crate) attempt: u32,
    /// Startup probe passed, or there is none.
    pub(crate) started: bool,
    /// Readiness probe passed, or there is none.
    pub(crate) ready: bool,
    /// A stop is under way.
    pub(crate) stopping: bool,
    /// Not started again before.
    pub(crate) not_before: Option<Timestamp>,
    /// Ends in a row, each soon after its start.
    crashes: u32,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            state: State::Waiting { reason: "PodInitializing".to_owned(), message: None },
            last: None,
            restarts: 0,
            attempt: 0,
            started: false,
            ready: false,
            stopping: false,
            not_before: None,
            crashes: 0,
        }
    }
}

impl Record {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// A new process runs.
    pub(crate) fn begin(&mut self, now: Timestamp, has_startup: bool, has_readiness: bool) {
        if let State::Ended(ended) = &self.state {
            self.last = Some(ended.clone());
            self.restarts += 1;
        }
        self.state = State::Running { since: now };
        self.started = !has_startup;
        self.ready = !has_readiness && !has_startup;
        self.stopping = false;
    }

    /// It could not be started; try again after a pause.
    pub(crate) fn hold(&mut self, reason: &str, message: String, until: Timestamp) {
        if let State::Ended(ended) = &self.state {
            self.last = Some(ended.clone());
        }
        self.state = State::Waiting { reason: reason.to_owned(), message: Some(message) };
        self.not_before = Some(until);
    }

    /// The process ended. The first restart comes at once, then the pause doubles from `base`.
    pub(crate) fn end(&mut self, mut ended: Ended, base: SignedDuration) {
        if let State::Running { since } = self.state {
            ended.started = Some(since);
        }
        let lived = ended.started.map_or(SignedDuration::ZERO, |since| ended.finished.duration_since(since));
        self.crashes = if lived > FORGIVEN { 1 } else { self.crashes + 1 };
        let pause = match self.crashes {
            0 | 1 => SignedDuration::ZERO,
            more => base.saturating_mul(1 << (more - 2).min(16)).min(LONGEST_PAUSE),
        };
        self.not_before = ended.finished.checked_add(pause).ok();
        self.state = State::Ended(ended);
        self.ready = false;
        self.started = false;
        self.stopping = false;
    }
}

/// Record of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Its addresses, the first is the primary one; none before the network is there.
    pub(crate) ips: Vec<IpAddr>,
    /// When the agent first saw it.
    pub(crate) accepted: Option<Timestamp>,
    pub(crate) containers: BTreeMap<String, Record>,
    /// All init containers were done once.
    pub(crate) initialized: bool,
}

impl Observed {
    /// Containers of an earlier agent have died with it; their restart counts are kept.
    pub(crate) fn adopt(pod: &Pod, now: Timestamp) -> Self {
        let mut observed = Self::default();
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        for status in statuses.filter(|status| status.container_id.is_some()) {
            let record = observed.record_mut(&status.name);
            record.restarts = status.restart_count;
            let ended = status.state.as_ref().and_then(|state| state.terminated.clone());
            let (code, reason) = ended.map_or((255, "ContainerStatusUnknown".to_owned()), |ended| {
                (ended.exit_code, ended.reason.unwrap_or_default())
            });
            record.state = State::Ended(Ended { code, reason, message: None, started: None, finished: now });
        }
        observed
    }

    /// A container's record; one that was never touched waits.
    pub(crate) fn record(&self, name: &str) -> Record {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    /// Same, to change it.
    pub(crate) fn record_mut(&mut self, name: &str) -> &mut Record {
        self.containers.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_ended(at: i64) -> Ended {
        let finished = Timestamp::from_second(at).expect("in range");
        Ended { code: 1, reason: "Error".to_owned(), message: None, started: None, finished }
    }

    #[test]
    fn the_first_restart_is_immediate_then_the_pause_doubles_up_to_five_minutes() {
        let mut record = Record::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            record.begin(Timestamp::UNIX_EPOCH, false, false);
            record.end(mk_ended(1), SignedDuration::from_secs(10));
            pauses.push(record.not_before.expect("set").as_second() - 1);
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(record.restarts, 7);
    }

    #[test]
    fn ten_good_minutes_are_forgiven() {
        let mut record = Record::default();
        for _ in 0..4 {
            record.begin(Timestamp::UNIX_EPOCH, false, false);
            record.end(mk_ended(1), SignedDuration::from_secs(10));
        }
        record.begin(Timestamp::UNIX_EPOCH, false, false);
        record.end(mk_ended(601), SignedDuration::from_secs(10));
        assert_eq!(record.not_before.expect("set").as_second(), 601);
    }

    #[test]
    fn after_an_agent_s_restart_a_container_has_ended_and_its_restarts_go_on() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"status": {"containerStatuses": [
            {"name": "a", "containerID": "x", "restartCount": 2, "image": "", "imageID": "", "ready": true, "state": {"running": {}}},
            {"name": "new", "restartCount": 0, "image": "", "imageID": "", "ready": false, "state": {"waiting": {}}},
        ]}}))
        .expect("a pod");
        let mut observed = Observed::adopt(&pod, Timestamp::UNIX_EPOCH);
        assert!(matches!(&observed.record("a").state, State::Ended(ended) if ended.code == 255));
        assert_eq!(observed.record("new"), Record::default());
        observed.record_mut("a").begin(Timestamp::UNIX_EPOCH, false, false);
        assert_eq!(observed.record("a").restarts, 3);
    }
}
