//! The record of all calls: counts by kind and by Service, and a log.
//!
//! Owns: counting and the log. Leaves to others: naming calls (`call`). Invariant: a call is counted once, when its fate is
//! known; the log is in the order in which the proxy saw the calls.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{
    call::{Effect, Kind},
    faults::Fate,
};

/// Calls that the log keeps; the first ones go.
const LOG_LIMIT: usize = 200_000;

/// Calls of one kind, or of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All of them.
    pub calls: u64,
    /// Those that reached the cloud.
    pub reached: u64,
    /// By what became of them.
    pub fates: BTreeMap<Fate, u64>,
}

impl Tally {
    fn add(&mut self, fate: Fate) {
        self.calls += 1;
        self.reached += u64::from(matches!(fate, Fate::Passed | Fate::DroppedAfter));
        *self.fates.entry(fate).or_default() += 1;
    }

    /// How many met a fate.
    pub fn met(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or_default()
    }
}

/// Counts since the start, or since they were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By kind of call.
    pub kinds: BTreeMap<Kind, Tally>,
    /// By Service `namespace/name`; `None`: about no single one.
    pub services: BTreeMap<Option<String>, Tally>,
}

impl Counts {
    /// Number of all calls.
    pub fn calls(&self) -> u64 {
        self.kinds.values().map(|tally| tally.calls).sum()
    }

    /// Calls of an effect.
    pub fn of(&self, effect: Effect) -> u64 {
        self.kinds.iter().filter(|(kind, _)| kind.effect == effect).map(|(_, tally)| tally.calls).sum()
    }

    /// Calls of one name, such as `CreateListener` or `forwardingRules.insert`.
    pub fn named(&self, name: &str) -> u64 {
        self.kinds.iter().filter(|(kind, _)| kind.name == name).map(|(_, tally)| tally.calls).sum()
    }

    /// Calls that met a fate.
    pub fn met(&self, fate: Fate) -> u64 {
        self.kinds.values().map(|tally| tally.met(fate)).sum()
    }

    pub(super) fn add(&mut self, kind: &Kind, service: Option<String>, fate: Fate) {
        self.kinds.entry(kind.clone()).or_default().add(fate);
        self.services.entry(service).or_default().add(fate);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, Tally { calls, reached: _, fates }) in &self.kinds {
            let bad = fates.iter().filter(|(fate, _)| **fate != Fate::Passed);
            let bad: Vec<String> = bad.map(|(fate, count)| format!("{count} {fate:?}")).collect();
            writeln!(f, "{calls:7}  {kind}  {}", bad.join(", "))?;
        }
        Ok(())
    }
}

/// A call in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Sequence number, from 1.
    pub number: u64,
    /// Since the proxy started.
    pub at: Duration,
    /// Kind of call.
    pub kind: Kind,
    /// The Service it is about, as far as known when it was made.
    pub service: Option<String>,
    /// Names and values in it, in order: `TargetGroupArn`, `Targets.member.1.Id`; `path` for parts of a path.
    pub words: Vec<(String, String)>,
    /// Fate that the call met.
    pub fate: Fate,
    /// The HTTP status that was answered; `None`: no answer.
    pub status: Option<u16>,
}

/// Counts and log.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) counts: Counts,
    log: BTreeMap<u64, Logged>,
}

impl Record {
    pub(super) fn add(&mut self, logged: Logged) {
        self.counts.add(&logged.kind, logged.service.clone(), logged.fate);
        if self.log.len() >= LOG_LIMIT {
            self.log.pop_first();
        }
        self.log.insert(logged.number, logged);
    }

    pub(super) fn log(&self) -> Vec<Logged> {
        self.log.values().cloned().collect()
    }

    /// The part of the log that came after call `number`.
    pub(super) fn log_after(&self, number: u64) -> Vec<Logged> {
        self.log.range(number + 1..).map(|(_, call)| call.clone()).collect()
    }
}
