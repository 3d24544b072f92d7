//! The status of each port: whether it has its listener, and a target that can get traffic.
//!
//! Owns: the states of ports, and their words. Leaves to others: the status of the whole load balancer.
//! Invariant: a port counts as serving only with a listener of the Service's own and a target that AWS sends to.

use std::collections::BTreeSet;

use portico_provider::{Fact, ListenerKey, LoadBalancer, PortStatus, Topic, Truth};

use super::fact;
use crate::cloud::resources::Health;
use crate::observed::{Balancer, Targets, View};

/// How a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Another owner has a listener there.
    Conflict,
    /// There is no listener.
    NoListener,
    /// Nothing is behind it.
    NoTargets,
    /// AWS sends to none of its targets: they are in zones that the load balancer is not in.
    Unused,
    /// None passes its health check, so that AWS sends to all.
    Unhealthy,
    /// AWS has asked none for its health yet.
    Registering,
    /// Some target passes its health check.
    Healthy,
}

impl State {
    /// `ports[].error`.
    fn error(self) -> Option<String> {
        let word = match self {
            Self::Conflict => "ListenerConflict",
            Self::NoListener => "NoListener",
            Self::NoTargets => "NoTargets",
            Self::Unused => "TargetsUnused",
            Self::Unhealthy => "TargetsUnhealthy",
            Self::Registering | Self::Healthy => return None,
        };
        Some(format!("portico.dev/{word}"))
    }

    fn of(targets: &Targets) -> Self {
        let all: Vec<&Health> =
            targets.values().filter(|health| !matches!(health, Health::Refused(_))).collect();
        let any = |wanted: &Health| all.contains(&wanted);
        match () {
            () if all.is_empty() => Self::NoTargets,
            () if any(&Health::Healthy) => Self::Healthy,
            () if any(&Health::Initial) => Self::Registering,
            () if any(&Health::Unhealthy) => Self::Unhealthy,
            () => Self::Unused,
        }
    }
}

/// The ports of a Service.
pub(super) struct Ports<'a> {
    states: Vec<(ListenerKey, State)>,
    /// Behind its own listeners, each group once.
    behind: Vec<&'a Targets>,
}

impl<'a> Ports<'a> {
    pub(super) fn of(desired: &LoadBalancer, view: &'a View, balancer: &Balancer) -> Self {
        let behind = |key: ListenerKey| {
            let listener = balancer.listeners.get(&key.port.get())?;
            listener.spec.protocol.carries(key.protocol).then_some(listener)
        };
        let group = |id| view.target_groups.values().find(|group| Some(&group.described.id) == id);
        let state = |key: ListenerKey| match behind(key) {
            _ if balancer.taken.contains_key(&key.port.get()) => State::Conflict,
            None => State::NoListener,
            Some(listener) => {
                group(listener.group.as_ref()).map_or(State::NoTargets, |group| State::of(&group.targets))
            }
        };
        let keys = || desired.listeners.iter().map(portico_provider::Listener::key);
        let used: BTreeSet<_> = keys().filter_map(behind).filter_map(|it| it.group.as_ref()).collect();
        Self {
            states: keys().map(|key| (key, state(key))).collect(),
            behind: used.into_iter().filter_map(|id| Some(&group(Some(id))?.targets)).collect(),
        }
    }

    /// Whether nothing of them is on its way.
    pub(super) fn all_have_listeners(&self) -> bool {
        self.states.iter().all(|(_, state)| *state != State::NoListener)
    }

    /// `ports` of the status: all of them, where one has an error.
    pub(super) fn statuses(&self) -> Vec<PortStatus> {
        if self.states.iter().all(|(_, state)| state.error().is_none()) {
            return Vec::new();
        }
        let status =
            |(key, state): &(ListenerKey, State)| PortStatus { listener: *key, error: state.error() };
        self.states.iter().map(status).collect()
    }

    /// The ports in one of these states.
    fn named(&self, state: State) -> Option<String> {
        let keys = self.states.iter().filter(|(_, its)| *its == state).map(|(key, _)| key.to_string());
        let keys: Vec<String> = keys.collect();
        (!keys.is_empty()).then(|| keys.join(", "))
    }

    pub(super) fn provisioned(&self, balancer: &Balancer) -> Fact {
        let (name, hostname) = (&balancer.described.name, &balancer.described.hostname);
        let topic = Topic::Provisioned;
        if let Some(ports) = self.named(State::NoListener) {
            let message = format!("load balancer {name} ({hostname}) has no listener for {ports} yet");
            return fact(topic, Truth::False, "ListenersMissing", message);
        }
        if let Some(ports) = self.named(State::Conflict) {
            let message =
                format!("{ports} of load balancer {name} ({hostname}) are listeners of another owner");
            return fact(topic, Truth::False, "ListenerConflict", message);
        }
        let serving = |state: &State| matches!(state, State::Healthy | State::Unhealthy);
        let idle: Vec<String> =
            self.states.iter().filter(|(_, state)| !serving(state)).map(|(key, _)| key.to_string()).collect();
        let message = match (idle.len(), &balancer.described.state) {
            (_, crate::cloud::resources::LifeState::Impaired(why)) => {
                let message = format!("load balancer {name} serves, but AWS cannot scale it: {why}");
                return fact(topic, Truth::True, "Impaired", message);
            }
            (0, _) => format!("serving at {hostname}"),
            (all, _) if all == self.states.len() => {
                format!("there at {hostname}; no target can get traffic yet")
            }
            _ => format!(
                "serving at {hostname}, but for {}: no target there can get traffic yet",
                idle.join(", ")
            ),
        };
        fact(topic, Truth::True, "Provisioned", message)
    }

    pub(super) fn healthy(&self) -> Fact {
        let all = self.behind.iter().flat_map(|targets| targets.values());
        let all: Vec<&Health> = all.filter(|health| !matches!(health, Health::Refused(_))).collect();
        let count = |wanted: &Health| all.iter().filter(|health| **health == wanted).count();
        let (good, unused) = (count(&Health::Healthy), count(&Health::Unused));
        let mut message = format!("{good} of {} targets pass their health check", all.len());
        let topic = Topic::TargetsHealthy;
        let failing: Vec<(&str, String)> = [
            (State::Unhealthy, "AllUnhealthy", "none passes its health check: AWS sends traffic to all of them, as a health check can be wrong too"),
            (State::Unused, "TargetsUnused", "all targets are in zones that the load balancer is not in, and get no traffic: add a subnet of their zones"),
            (State::NoTargets, "NoTargets", "there is no target to send to"),
        ]
        .into_iter()
        .filter_map(|(state, reason, what)| Some((reason, format!("{}: {what}", self.named(state)?))))
        .collect();
        if let Some((reason, _)) = failing.first() {
            let messages: Vec<&str> = failing.iter().map(|(_, message)| message.as_str()).collect();
            return fact(topic, Truth::False, reason, format!("{message}; {}", messages.join("; ")));
        }
        if let Some(ports) = self.named(State::Registering) {
            return fact(
                topic,
                Truth::Unknown,
                "Registering",
                format!("{message}; {ports}: none was asked yet"),
            );
        }
        if self.behind.is_empty() {
            return fact(
                topic,
                Truth::False,
                "NoTargets",
                "there is no listener to send to targets".to_owned(),
            );
        }
        if unused > 0 {
            message = format!(
                "{message}; {unused} are in zones that the load balancer is not in, and get no traffic"
            );
        }
        fact(topic, Truth::True, "TargetsHealthy", message)
    }
}
