//! A pod's next actions: [`plan`] compares the desired pod with the observed one. Pure, total, deterministic.
//!
//! Order of life (pod-lifecycle and sidecar-containers pages of the Kubernetes documentation): network, init containers one
//! after the other, sidecars among them, then all applications together. When the last application has ended, the sidecars
//! are stopped. A deleted pod stops everything and then leaves.
//! Invariant: nothing is started in a pod that is deleted or over.

use std::fmt;

use jiff::Timestamp;

use super::desired::{Desired, Role, Wanted};
use super::observed::{Observed, Record, State};

/// One action of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Give it an address.
    Connect,
    /// Start this container.
    Start(String),
    /// Stop this container, gracefully.
    Stop(String),
    /// All is stopped: take the network away, and delete the pod from the API server.
    Release,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => write!(f, "connect to the network"),
            Self::Start(name) => write!(f, "start {name}"),
            Self::Stop(name) => write!(f, "stop {name}"),
            Self::Release => write!(f, "release the pod"),
        }
    }
}

/// Actions for now, and the time to plan again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Timestamp>,
}

/// The next actions.
pub(crate) fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let Desired { containers, deleting, over } = desired;
    let mut plan = Plan::default();
    if *deleting || *over {
        plan.stop(containers.iter(), observed);
        let quiet = !containers.iter().any(|wanted| observed.record(&wanted.name).is_running());
        if quiet && *deleting {
            plan.actions.push(Action::Release);
        }
        return plan;
    }
    if observed.ips.is_empty() {
        plan.actions.push(Action::Connect);
        return plan;
    }
    let (before, apps): (Vec<&Wanted>, Vec<&Wanted>) =
        containers.iter().partition(|wanted| wanted.role != Role::App);
    if final_phase(desired, observed).is_some() {
        plan.stop(before.into_iter().chain(apps), observed);
        return plan;
    }
    for wanted in before {
        let record = observed.record(&wanted.name);
        if !plan.init_done(wanted, &record, observed.initialized, now) {
            return plan;
        }
    }
    for wanted in apps {
        plan.keep_running(wanted, &observed.record(&wanted.name), now);
    }
    plan
}

impl Plan {
    /// Sidecars serve the others, so they are stopped last.
    fn stop<'a>(&mut self, containers: impl Iterator<Item = &'a Wanted>, observed: &Observed) {
        let running = containers.filter(|wanted| observed.record(&wanted.name).is_running());
        let (sidecars, others): (Vec<&Wanted>, Vec<&Wanted>) =
            running.partition(|wanted| wanted.role == Role::Sidecar);
        for Wanted { name, role: _, restart: _ } in if others.is_empty() { sidecars } else { others } {
            if !observed.record(name).stopping {
                self.actions.push(Action::Stop(name.clone()));
            }
        }
    }

    /// Whether the next container may start; if not, does what brings this one on.
    fn init_done(&mut self, wanted: &Wanted, record: &Record, initialized: bool, now: Timestamp) -> bool {
        match (wanted.role, &record.state) {
            (Role::Sidecar, State::Running { .. }) => record.started || initialized,
            (Role::Sidecar, _) => {
                self.keep_running(wanted, record, now);
                initialized
            }
            (_, _) if initialized => true,
            (_, State::Running { .. }) => false,
            (_, State::Ended(ended)) if ended.code == 0 => true,
            (_, _) => {
                self.keep_running(wanted, record, now);
                false
            }
        }
    }

    fn keep_running(&mut self, wanted: &Wanted, record: &Record, now: Timestamp) {
        let due = match &record.state {
            State::Running { .. } => return,
            State::Ended(ended) if !wanted.restart.wanted(ended.code) => return,
            State::Ended(_) | State::Waiting { .. } => record.not_before.unwrap_or(now),
        };
        if due <= now {
            self.actions.push(Action::Start(wanted.name.clone()));
        } else {
            self.wake = Some(self.wake.map_or(due, |wake| wake.min(due)));
        }
    }
}

/// How a pod ended: an init container failed for good, or every application ended for good. None while it lives.
pub(crate) fn final_phase(desired: &Desired, observed: &Observed) -> Option<FinalPhase> {
    let ends = |role: Role| {
        desired.containers.iter().filter(move |wanted| wanted.role == role).map(|wanted| {
            match observed.record(&wanted.name).state {
                State::Ended(ended) if !wanted.restart.wanted(ended.code) => Some(ended.code),
                _ => None,
            }
        })
    };
    if ends(Role::Init).flatten().any(|code| code != 0) {
        return Some(FinalPhase::Failed);
    }
    let codes: Option<Vec<i32>> = ends(Role::App).collect();
    let codes = codes.filter(|codes| !codes.is_empty())?;
    Some(if codes.iter().all(|code| *code == 0) { FinalPhase::Succeeded } else { FinalPhase::Failed })
}

/// The phase of a pod that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinalPhase {
    /// All with exit code 0.
    Succeeded,
    /// At least one not.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::super::desired::Restart;
    use super::super::observed::Ended;
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn mk_desired(roles: &[(&str, Role)], restart: Restart) -> Desired {
        let wanted = |(name, role): &(&str, Role)| Wanted {
            name: (*name).to_owned(),
            role: *role,
            restart: if *role == Role::Sidecar { Restart::Always } else { restart },
        };
        Desired { containers: roles.iter().map(wanted).collect(), deleting: false, over: false }
    }

    fn mk_connected() -> Observed {
        Observed { ips: vec![[10, 244, 0, 2].into()], ..Observed::default() }
    }

    fn run(observed: &mut Observed, name: &str) {
        observed.record_mut(name).begin(NOW, false, false);
    }

    fn end(observed: &mut Observed, name: &str, code: i32) {
        let ended = Ended { code, reason: String::new(), message: None, started: None, finished: NOW };
        observed.record_mut(name).end(ended, jiff::SignedDuration::from_secs(10));
    }

    fn start(name: &str) -> Action {
        Action::Start(name.to_owned())
    }

    #[test]
    fn network_first_then_init_containers_one_by_one_then_all_applications() {
        let desired = mk_desired(
            &[("i1", Role::Init), ("i2", Role::Init), ("a", Role::App), ("b", Role::App)],
            Restart::Always,
        );
        assert_eq!(plan(&desired, &Observed::default(), NOW).actions, [Action::Connect]);
        let mut observed = mk_connected();
        assert_eq!(plan(&desired, &observed, NOW).actions, [start("i1")]);
        run(&mut observed, "i1");
        assert_eq!(plan(&desired, &observed, NOW).actions, []);
        end(&mut observed, "i1", 0);
        assert_eq!(plan(&desired, &observed, NOW).actions, [start("i2")]);
        end(&mut observed, "i2", 0);
        assert_eq!(plan(&desired, &observed, NOW).actions, [start("a"), start("b")]);
    }

    #[test]
    fn a_sidecar_lets_the_next_start_once_it_is_up_and_is_stopped_after_the_last_application() {
        let desired = mk_desired(&[("s", Role::Sidecar), ("a", Role::App)], Restart::Never);
        let mut observed = mk_connected();
        assert_eq!(plan(&desired, &observed, NOW).actions, [start("s")]);
        run(&mut observed, "s");
        assert_eq!(plan(&desired, &observed, NOW).actions, [start("a")]);
        run(&mut observed, "a");
        end(&mut observed, "a", 0);
        assert_eq!(plan(&desired, &observed, NOW).actions, [Action::Stop("s".to_owned())]);
        assert_eq!(final_phase(&desired, &observed), Some(FinalPhase::Succeeded));
    }

    #[test]
    fn a_deleted_pod_stops_its_sidecars_after_its_applications() {
        let mut desired = mk_desired(&[("s", Role::Sidecar), ("a", Role::App)], Restart::Always);
        desired.deleting = true;
        let mut observed = mk_connected();
        run(&mut observed, "s");
        run(&mut observed, "a");
        assert_eq!(plan(&desired, &observed, NOW).actions, [Action::Stop("a".to_owned())]);
        end(&mut observed, "a", 0);
        assert_eq!(plan(&desired, &observed, NOW).actions, [Action::Stop("s".to_owned())]);
    }

    #[test]
    fn a_crash_is_restarted_after_its_pause_and_never_under_never() {
        let desired = mk_desired(&[("a", Role::App)], Restart::Always);
        let mut observed = mk_connected();
        end(&mut observed, "a", 1);
        assert_eq!(plan(&desired, &observed, NOW).actions, [start("a")]);
        end(&mut observed, "a", 1);
        let later = plan(&desired, &observed, NOW);
        assert_eq!((later.actions.len(), later.wake.map(Timestamp::as_second)), (0, Some(10)));
        let never = mk_desired(&[("a", Role::App)], Restart::Never);
        assert_eq!(plan(&never, &observed, NOW), Plan::default());
        assert_eq!(final_phase(&never, &observed), Some(FinalPhase::Failed));
    }

    #[test]
    fn a_deleted_pod_stops_once_and_is_released_only_when_nothing_runs() {
        let mut desired = mk_desired(&[("a", Role::App)], Restart::Always);
        desired.deleting = true;
        let mut observed = mk_connected();
        run(&mut observed, "a");
        assert_eq!(plan(&desired, &observed, NOW).actions, [Action::Stop("a".to_owned())]);
        observed.record_mut("a").stopping = true;
        assert_eq!(plan(&desired, &observed, NOW).actions, []);
        end(&mut observed, "a", 143);
        assert_eq!(plan(&desired, &observed, NOW).actions, [Action::Release]);
    }
}
