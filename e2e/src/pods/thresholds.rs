//! When a row of probe results changes the state of a container. Pure; the checks themselves are in `checks.rs`.
//! Invariant: the state changes only after `successThreshold` or `failureThreshold` equal results in a row.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// Kinds of probes, by what they decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Whether the others may begin.
    Startup,
    /// Whether traffic may come.
    Readiness,
    /// Whether the container is killed.
    Liveness,
}

/// Times and thresholds, with the API's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rhythm {
    pub(crate) delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    successes: u32,
    failures: u32,
}

impl Rhythm {
    pub(crate) fn of(probe: &Probe) -> Self {
        let number = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        let seconds = |value: u32| Duration::from_secs(value.into());
        Self {
            delay: seconds(number(probe.initial_delay_seconds, 0)),
            period: seconds(number(probe.period_seconds, 10)),
            timeout: seconds(number(probe.timeout_seconds, 1)),
            successes: number(probe.success_threshold, 1),
            failures: number(probe.failure_threshold, 3),
        }
    }
}

/// The running count of one probe.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    rhythm: Rhythm,
    last: Option<bool>,
    row: u32,
}

impl Tally {
    pub(crate) fn new(rhythm: Rhythm) -> Self {
        Self { rhythm, last: None, row: 0 }
    }

    /// Counts a result; the state, once enough of the same came in a row.
    pub(crate) fn add(&mut self, good: bool) -> Option<bool> {
        self.row = if self.last == Some(good) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(good);
        let needed = if good { self.rhythm.successes } else { self.rhythm.failures };
        (self.row >= needed).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(1), ..Probe::default() };
        let mut tally = Tally::new(Rhythm::of(&probe));
        let states: Vec<Option<bool>> =
            [false, true, false, false, false, true].map(|good| tally.add(good)).into();
        assert_eq!(states, [None, Some(true), None, Some(false), Some(false), Some(true)]);
    }

    #[test]
    fn what_a_probe_leaves_out_is_the_api_s_default() {
        let rhythm = Rhythm::of(&Probe::default());
        assert_eq!((rhythm.delay.as_secs(), rhythm.period.as_secs(), rhythm.timeout.as_secs()), (0, 10, 1));
        assert_eq!((rhythm.successes, rhythm.failures), (1, 3));
    }
}
