//! A pod's status, as the kubelet would report it. Pure: from the pod as the API server has it and what is observed here.
//!
//! Owns phase, conditions, addresses and container statuses. Leaves conditions of others (readiness gates, `PodScheduled`) as
//! they are: the result names only our own, for a strategic merge patch by type.
//! Invariant: equal input gives an equal result, and a condition's transition time moves only when its status does.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::IpAddr;

use super::desired::{Desired, Role, Wanted, container};
use super::observed::{Ended, Observed, Record, State};
use super::plan::{FinalPhase, final_phase};

/// The status to report.
pub(crate) fn status(pod: &Pod, observed: &Observed, host_ips: &[IpAddr], now: Timestamp) -> PodStatus {
    let desired = Desired::of(pod);
    let statuses = |apps: bool| -> Vec<ContainerStatus> {
        let chosen = desired.containers.iter().filter(|wanted| (wanted.role == Role::App) == apps);
        chosen.map(|wanted| container_status(pod, wanted, observed, now)).collect()
    };
    let init = statuses(false);
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string);
    let old = pod.status.clone().unwrap_or_default();
    PodStatus {
        phase: Some(phase(&desired, observed).to_owned()),
        conditions: Some(conditions(pod, &desired, observed, now)),
        container_statuses: Some(statuses(true)),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: first(host_ips),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: first(&observed.ips),
        pod_ips: (!observed.ips.is_empty())
            .then(|| observed.ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: old.start_time.or_else(|| observed.accepted.map(Time)),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn phase(desired: &Desired, observed: &Observed) -> &'static str {
    match final_phase(desired, observed) {
        Some(FinalPhase::Succeeded) => return "Succeeded",
        Some(FinalPhase::Failed) => return "Failed",
        None => {}
    }
    let begun = |wanted: &Wanted| !matches!(observed.record(&wanted.name).state, State::Waiting { .. });
    let mut apps = desired.containers.iter().filter(|wanted| wanted.role == Role::App);
    let again = |wanted: &Wanted| observed.record(&wanted.name).last.is_some();
    if apps.all(|wanted| begun(wanted) || again(wanted)) { "Running" } else { "Pending" }
}

fn conditions(pod: &Pod, desired: &Desired, observed: &Observed, now: Timestamp) -> Vec<PodCondition> {
    let over = final_phase(desired, observed);
    let unready: Vec<&str> = desired
        .containers
        .iter()
        .filter(|wanted| wanted.role != Role::Init && !observed.record(&wanted.name).ready)
        .map(|wanted| wanted.name.as_str())
        .collect();
    let containers = match over {
        Some(FinalPhase::Succeeded) => Claim::no("PodCompleted", String::new()),
        Some(FinalPhase::Failed) => Claim::no("PodFailed", String::new()),
        None if unready.is_empty() => Claim::YES,
        None => Claim::no(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    };
    let gates = open_gates(pod);
    let ready = if containers.holds && !gates.is_empty() {
        Claim::no("ReadinessGatesNotReady", format!("no status True for condition(s) {}", gates.join(", ")))
    } else {
        containers.clone()
    };
    let initialized = if observed.initialized || over == Some(FinalPhase::Succeeded) {
        Claim::YES
    } else {
        Claim::no("ContainersNotInitialized", "containers with incomplete status".to_owned())
    };
    let network = if observed.ips.is_empty() { Claim::no("", String::new()) } else { Claim::YES };
    [
        ("PodReadyToStartContainers", network),
        ("Initialized", initialized),
        ("ContainersReady", containers),
        ("Ready", ready),
    ]
    .into_iter()
    .map(|(kind, claim)| claim.condition(pod, kind, now))
    .collect()
}

/// Readiness gates without a status `True`.
fn open_gates(pod: &Pod) -> Vec<String> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    gates
        .map(|gate| gate.condition_type.clone())
        .filter(|kind| {
            !conditions.iter().any(|condition| condition.type_ == *kind && condition.status == "True")
        })
        .collect()
}

/// Status, reason and message of a condition.
#[derive(Clone)]
struct Claim {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Claim {
    const YES: Self = Self { holds: true, reason: "", message: String::new() };

    fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }

    fn condition(self, pod: &Pod, kind: &str, now: Timestamp) -> PodCondition {
        let Self { holds, reason, message } = self;
        let status = if holds { "True" } else { "False" };
        let old = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let since = old
            .filter(|old| old.type_ == kind && old.status == status)
            .find_map(|old| old.last_transition_time.clone());
        let text = |text: String| (!text.is_empty()).then_some(text);
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: text(reason.to_owned()),
            message: text(message),
            last_transition_time: Some(since.unwrap_or(Time(whole_seconds(now)))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    }
}

/// The API keeps whole seconds.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn container_status(pod: &Pod, wanted: &Wanted, observed: &Observed, now: Timestamp) -> ContainerStatus {
    let Wanted { name, role, restart } = wanted;
    let record = observed.record(name);
    let image =
        pod.spec.as_ref().and_then(|spec| container(spec, name)).and_then(|found| found.image.clone());
    let image = image.unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let Record { state, last, restarts, attempt, started, ready, stopping: _, not_before, .. } = &record;
    let waits = not_before.is_some_and(|due| due > now);
    let (state, last) = match state {
        State::Ended(ended) if waits && restart.wanted(ended.code) && !Desired::of(pod).deleting => {
            let message = format!("back-off restarting failed container={name}");
            (waiting("CrashLoopBackOff", Some(&message)), Some(ended))
        }
        State::Ended(ended) => (terminated(ended), last.as_ref()),
        State::Waiting { reason, message } => (waiting(reason, message.as_deref()), last.as_ref()),
        State::Running { since } => {
            let running = ContainerStateRunning { started_at: Some(Time(whole_seconds(*since))) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, last.as_ref())
        }
    };
    let done = *role == Role::Init && state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0);
    ContainerStatus {
        name: name.clone(),
        image_id: format!("portico-e2e://{image}"),
        image,
        container_id: (*attempt > 0).then(|| format!("portico-e2e://{uid}/{name}/{attempt}")),
        restart_count: *restarts,
        ready: *ready || done,
        started: Some(*started),
        state: Some(state),
        last_state: Some(last.map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let waiting =
        ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.map(str::to_owned) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(ended: &Ended) -> ContainerState {
    let Ended { code, reason, message, started, finished } = ended;
    let terminated = ContainerStateTerminated {
        exit_code: *code,
        reason: Some(reason.clone()),
        message: message.clone(),
        started_at: started.map(|time| Time(whole_seconds(time))),
        finished_at: Some(Time(whole_seconds(*finished))),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk_pod(extra: &serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "uid": "u", "generation": 3},
            "spec": {"containers": [{"name": "a", "image": "x"}], "readinessGates": [{"conditionType": "open"}]},
        });
        pod["status"] = extra.clone();
        serde_json::from_value(pod).expect("a pod")
    }

    fn mk_running() -> Observed {
        let mut observed =
            Observed { ips: vec![[10, 0, 0, 2].into()], initialized: true, ..Observed::default() };
        observed.record_mut("a").begin(Timestamp::UNIX_EPOCH, false, false);
        observed
    }

    fn condition(status: &PodStatus, kind: &str) -> PodCondition {
        let found = status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        found.cloned().expect("the condition is there")
    }

    #[test]
    fn a_ready_container_is_not_a_ready_pod_while_a_gate_is_closed() {
        let report = status(&mk_pod(&json!({})), &mk_running(), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(report.phase.as_deref(), Some("Running"));
        assert_eq!(condition(&report, "ContainersReady").status, "True");
        assert_eq!(condition(&report, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
        let open = mk_pod(&json!({"conditions": [{"type": "open", "status": "True"}]}));
        let report = status(&open, &mk_running(), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&report, "Ready").status, "True");
        assert_eq!(report.observed_generation, Some(3));
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let old = json!({"conditions": [
            {"type": "Initialized", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "ContainersReady", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        ]});
        let report = status(&mk_pod(&old), &mk_running(), &[], Timestamp::UNIX_EPOCH);
        let since = |kind: &str| condition(&report, kind).last_transition_time.expect("set").0.as_second();
        assert!(since("Initialized") > 0);
        assert_eq!(since("ContainersReady"), 0);
    }

    #[test]
    fn a_container_in_its_pause_is_in_crash_loop_back_off_and_shows_how_it_ended() {
        let mut observed = mk_running();
        let finished = Timestamp::UNIX_EPOCH;
        for _ in 0..2 {
            let ended = Ended { code: 7, reason: "Error".to_owned(), message: None, started: None, finished };
            observed.record_mut("a").end(ended, jiff::SignedDuration::from_secs(10));
        }
        let report = status(&mk_pod(&json!({})), &observed, &[], finished);
        let container = report.container_statuses.expect("listed").remove(0);
        let waiting = container.state.and_then(|state| state.waiting).expect("waits");
        assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(container.last_state.and_then(|last| last.terminated).expect("ended").exit_code, 7);
    }
}
