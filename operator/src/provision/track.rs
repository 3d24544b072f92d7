//! Whether to have a go at a Service's load balancer now, later, or not at all.
//!
//! Owns: [`Track`], what is remembered of one Service between two looks, and the decision. Leaves to others: going.
//! Invariants: pure; all that is remembered only saves work: forgetting it (a restart) leads to the same end. A
//! failure keeps back only what failed: whoever changes the Service gets a new try at once.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use portico_provider::{Plan, Retry, SpecHash, Truth};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::cache::service::ServiceKey;
use crate::metrics::ServiceState;
use crate::provision::operation::End;
use crate::provision::trigger::Trigger;
use crate::provision::want::{Want, WantDigest};

/// How long until targets are looked at again, the first, the second … time that they are not healthy. New ones need half a
/// minute to pass their checks, or else somebody has to do something first; each look is a call that nobody shares.
const HEALTH_POLLS: [Duration; 4] =
    [Duration::from_secs(30), Duration::from_mins(1), Duration::from_mins(2), Duration::from_mins(5)];
/// Waits from here on end together with those of other Services, so that one call can read for all of them.
const ALIGNED_FROM: Duration = Duration::from_secs(5);

/// What is remembered of a Service.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// Whether a go is under way.
    pub(crate) phase: Phase,
    /// How the last one ended.
    pub(crate) last: Option<Ended>,
    /// What was wanted when the load balancer was last seen to be so.
    settled: Option<SpecHash>,
    /// It is its turn in the audit.
    pub(crate) audit: bool,
    /// An audit is under way of what was wanted when it began, and gives way when told.
    audited: Option<(WantDigest, CancellationToken)>,
    /// It waits for others of its group to give way: who it is, and what they share.
    pub(crate) blocked_by_group: Option<(ServiceKey, BTreeSet<String>)>,
    /// Others of its group changed something.
    pub(crate) group_changed: bool,
    /// Failures in a row.
    failures: u32,
    /// Looks in a row that found targets not healthy.
    unhealthy_reads: usize,
    /// What the metrics count it as.
    pub(crate) state: Option<ServiceState>,
}

/// Where a go stands.
#[derive(Debug, Default, PartialEq)]
pub(crate) enum Phase {
    /// There is none.
    #[default]
    Idle,
    /// It waits for its turn. What it will be about is made anew then: what is wanted holds every node, and a thousand may
    /// wait.
    Waiting(WantDigest, Trigger),
    /// It talks to the provider.
    Running,
}

/// How a go ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    /// What was wanted.
    pub(crate) digest: WantDigest,
    /// How.
    pub(crate) end: End,
    /// When to have another, if nothing changes; `None`: no need.
    pub(crate) again: Option<Instant>,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// As desired.
    Settled,
    /// Steps are being executed.
    Working(String),
    /// The provider is at work.
    Waiting(String),
    /// It differs, and nothing is done about it.
    Drifted(String),
    /// A call failed.
    Failed { reason: &'static str, message: String },
    /// It is being taken down.
    Releasing(String),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Have a go.
    Start,
    /// One is under way; it brings the Service back when it ends.
    Running,
    /// Not before.
    Hold(Instant),
    /// All is well, as far as was read; look again then.
    Rest(Option<Instant>),
}

impl Track {
    /// Decides, by a plan that was made from the snapshot.
    pub(crate) fn decide<S>(&self, want: &Want, plan: &Plan<S>, now: Instant) -> Decision {
        if self.phase != Phase::Idle {
            return Decision::Running;
        }
        let last = self.last.as_ref().filter(|last| last.digest == *want.digest());
        let idle = plan_is_idle(plan);
        match last {
            Some(Ended { end: End::Settled, again, .. }) if idle => match again {
                Some(again) if *again <= now => Decision::Start,
                _ if self.audit || self.group_changed => Decision::Start,
                again => Decision::Rest(*again),
            },
            Some(Ended { again: Some(again), .. }) if *again > now => Decision::Hold(*again),
            Some(Ended { end: End::InProgress { .. } | End::Failed { .. } | End::Withheld(_), .. }) => {
                Decision::Start
            }
            _ if self.audit || self.group_changed => Decision::Start,
            // What was wanted before may be half done, whatever the snapshot says.
            _ if idle && !want.is_absent() && self.finished_last() => Decision::Rest(None),
            _ => Decision::Start,
        }
    }

    fn finished_last(&self) -> bool {
        !matches!(&self.last, Some(Ended { end: End::InProgress { .. } | End::Failed { .. }, .. }))
    }

    /// Why a go that is decided on now would be had. `was_synced`: the status says that all is as this want has it.
    pub(crate) fn trigger(&self, want: &Want, was_synced: bool) -> Trigger {
        let WantDigest::Present(wanted) = want.digest() else { return Trigger::Change };
        match (&self.settled, &self.last) {
            _ if self.group_changed => Trigger::Change,
            (Some(settled), _) if settled == wanted => {
                if self.audit {
                    Trigger::Audit
                } else {
                    Trigger::Resync
                }
            }
            (None, None) if was_synced => Trigger::Restart,
            _ => Trigger::Change,
        }
    }

    /// A go waits for its turn.
    pub(crate) fn wait(&mut self, want: &Want, trigger: Trigger) {
        if trigger == Trigger::Change {
            self.settled = None;
        }
        self.phase = Phase::Waiting(want.digest().clone(), trigger);
    }

    /// While a go waits, what is wanted may change; it will then be about that. Whether it waits in a line for what is less
    /// urgent than a change. An audit that is under way already gives way.
    pub(crate) fn rethink(&mut self, want: &Want) -> bool {
        if let Some((_, give_way)) = self.audited.as_ref().filter(|(digest, _)| digest != want.digest()) {
            give_way.cancel();
        }
        let Phase::Waiting(waiting, trigger) = &mut self.phase else { return false };
        let changed = waiting != want.digest();
        let hastens = changed && *trigger != Trigger::Change;
        if changed {
            *trigger = Trigger::Change;
            self.settled = None;
        }
        waiting.clone_from(want.digest());
        hastens
    }

    /// Its turn has come, and it is about this by now. Why, and what tells it to give way; `None`: nobody waits.
    pub(crate) fn start(&mut self, want: &Want) -> Option<(Trigger, CancellationToken)> {
        self.rethink(want);
        let Phase::Waiting(digest, trigger) = &self.phase else { return None };
        let (give_way, trigger) = (CancellationToken::new(), *trigger);
        self.audited = (trigger == Trigger::Audit).then(|| (digest.clone(), give_way.clone()));
        self.group_changed = false;
        self.phase = Phase::Running;
        Some((trigger, give_way))
    }

    /// The go that waits ended without a turn; whether one waited.
    pub(crate) fn give_up(&mut self) -> bool {
        let waits = matches!(self.phase, Phase::Waiting(..));
        if waits {
            self.phase = Phase::Idle;
        }
        waits
    }

    /// A look at a snapshot showed all as wanted.
    pub(crate) fn rest(&mut self, want: &Want, again: Option<Instant>) {
        self.settle(want);
        self.last = Some(Ended { digest: want.digest().clone(), end: End::Settled, again });
    }

    fn settle(&mut self, want: &Want) {
        self.settled = match want.digest() {
            WantDigest::Present(wanted) => Some(*wanted),
            WantDigest::Targets(_) | WantDigest::Absent(..) => None,
        };
    }

    /// When to look again at targets that are not all healthy, as the report says they are; nothing else would bring
    /// the news. `None`: no need.
    pub(crate) fn watch_health(
        &mut self,
        want: &Want,
        healthy: Option<Truth>,
        now: Instant,
    ) -> Option<Instant> {
        let due = self.last.as_ref().and_then(|last| last.again);
        let again = match healthy {
            None | Some(Truth::True) => {
                self.unhealthy_reads = 0;
                None
            }
            Some(Truth::False | Truth::Unknown) => Some(due.unwrap_or_else(|| {
                let pause = HEALTH_POLLS[self.unhealthy_reads.min(HEALTH_POLLS.len() - 1)];
                self.unhealthy_reads += 1;
                aligned(now, pause)
            })),
        };
        self.rest(want, again);
        again
    }

    /// Takes in how a go ended. `slow`: when to try again what should not be tried again by itself.
    pub(crate) fn ended(&mut self, want: &Want, end: End, now: Instant, slow: Duration) {
        let again = match &end {
            End::Settled => {
                self.settle(want);
                None
            }
            End::Withheld(_) => Some(now + slow),
            End::InProgress { retry, .. } => Some(aligned(now, *retry)),
            End::Failed { retry, .. } => {
                self.failures = self.failures.saturating_add(1);
                let owner = &want.owner().service;
                Some(
                    now + match retry {
                        Retry::Never => slow,
                        Retry::After(after) => *after,
                        Retry::Backoff => backoff::delay(owner, self.failures),
                    },
                )
            }
        };
        if !matches!(end, End::Failed { .. }) {
            self.failures = 0;
        }
        self.phase = Phase::Idle;
        self.audit = false;
        self.audited = None;
        self.last = Some(Ended { digest: want.digest().clone(), end, again });
    }

    /// How it goes, for the status.
    pub(crate) fn progress<S: std::fmt::Display>(&self, want: &Want, current: &Plan<S>) -> Progress {
        // A go that is another try at the same says nothing new until it ends: each poll would be two status writes.
        let last = self.last.as_ref().filter(|last| last.digest == *want.digest());
        match last.map(|last| &last.end) {
            Some(End::InProgress { what, .. }) => Progress::Waiting(what.clone()),
            Some(End::Failed { reason, message, .. }) => {
                Progress::Failed { reason, message: message.clone() }
            }
            Some(End::Withheld(plan)) => Progress::Drifted(plan.summary()),
            Some(End::Settled) | None if self.phase == Phase::Idle && plan_is_idle(current) => {
                Progress::Settled
            }
            _ => Progress::Working(doing(current)),
        }
    }
}

fn plan_is_idle<S>(plan: &Plan<S>) -> bool {
    plan.steps().is_empty() && plan.waiting().is_none()
}

/// The end of a wait, put off by at most half of it to the next moment that all such waits end at.
fn aligned(now: Instant, pause: Duration) -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    let due = now + pause;
    if pause < ALIGNED_FROM {
        return due;
    }
    let start = *START.get_or_init(|| now);
    let grid = pause / 2;
    let beyond = |length: Duration| {
        let nanos = length.as_nanos() % grid.as_nanos();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    };
    match beyond(due.saturating_duration_since(start)) {
        Duration::ZERO => due + beyond(start.saturating_duration_since(due)),
        late => due + grid.saturating_sub(late),
    }
}

fn doing<S: std::fmt::Display>(plan: &Plan<S>) -> String {
    match (plan.steps().first(), plan.waiting()) {
        (Some(planned), _) => planned.step.to_string(),
        (None, Some(waiting)) => format!("waiting for {}", waiting.what),
        (None, None) => "reading what is there".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use portico_provider::Effect;

    use super::*;
    use crate::testing::{mk_load_balancer, mk_owner};

    fn present() -> Want {
        Want::present(Box::new(mk_load_balancer("web")))
    }

    fn steps() -> Plan<&'static str> {
        Plan::nothing("").step("create", Effect::Additive, "none exists")
    }

    fn after(end: End, now: Instant) -> Track {
        let mut track = Track { phase: Phase::Running, ..Track::default() };
        track.ended(&present(), end, now, Duration::from_mins(10));
        track
    }

    fn failure(retry: Retry) -> End {
        End::Failed { reason: "Throttled", message: String::new(), retry }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_as_desired_costs_no_go_and_what_is_not_gets_one() {
        let now = Instant::now();
        let nothing = Plan::<&str>::nothing("as desired");
        let track = Track::default();
        assert_eq!(track.decide(&present(), &nothing, now), Decision::Rest(None));
        assert_eq!(track.decide(&present(), &steps(), now), Decision::Start);
        assert_eq!(
            track.decide(&Want::absent(mk_owner("web")), &nothing, now),
            Decision::Start,
            "a snapshot may be old"
        );
        assert_eq!(
            Track { phase: Phase::Running, ..track }.decide(&present(), &steps(), now),
            Decision::Running
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_back_what_failed_and_nothing_else() {
        let now = Instant::now();
        for (retry, least, most) in
            [(Retry::Never, 600, 600), (Retry::After(Duration::from_secs(7)), 7, 7), (Retry::Backoff, 0, 2)]
        {
            let track = after(failure(retry), now);
            let Decision::Hold(until) = track.decide(&present(), &steps(), now) else { panic!("{retry:?}") };
            let held = (until - now).as_secs();
            assert!(held >= least && held <= most, "{retry:?}: {held}");
            assert_eq!(track.decide(&present(), &steps(), until), Decision::Start);
            let mut changed = mk_load_balancer("web");
            changed.source_ranges.insert("10.0.0.0/8".parse().unwrap());
            assert_eq!(track.decide(&Want::present(Box::new(changed)), &steps(), now), Decision::Start);
            assert_eq!(track.decide(&Want::absent(mk_owner("web")), &steps(), now), Decision::Start);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_waited_for_and_ends_the_row_of_failures() {
        let now = Instant::now();
        let mut track = after(failure(Retry::Backoff), now);
        let waiting = End::InProgress { what: "an address".to_owned(), retry: Duration::from_secs(2) };
        track.ended(&present(), waiting, now, Duration::ZERO);
        assert_eq!(track.failures, 0);
        assert_eq!(track.decide(&present(), &steps(), now), Decision::Hold(now + Duration::from_secs(2)));
        assert_eq!(track.progress(&present(), &steps()), Progress::Waiting("an address".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_half_done_is_looked_at_although_the_snapshot_looks_as_wanted_now() {
        let now = Instant::now();
        let mut other = mk_load_balancer("web");
        other.source_ranges.insert("10.0.0.0/8".parse().unwrap());
        let mut track = Track { phase: Phase::Running, ..Track::default() };
        track.ended(&Want::present(Box::new(other)), failure(Retry::Backoff), now, Duration::ZERO);
        let nothing = Plan::<&str>::nothing("as desired");
        assert_eq!(track.decide(&present(), &nothing, now), Decision::Start);
        track.ended(&present(), End::Settled, now, Duration::ZERO);
        assert_eq!(track.decide(&present(), &nothing, now), Decision::Rest(None));
    }

    #[tokio::test(start_paused = true)]
    async fn targets_that_stay_unhealthy_are_looked_at_ever_more_rarely_and_well_ones_not_at_all() {
        let mut now = Instant::now();
        let mut track = Track::default();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            track.ended(&present(), End::Settled, now, Duration::ZERO);
            let again = track.watch_health(&present(), Some(Truth::Unknown), now).unwrap();
            assert_eq!(track.watch_health(&present(), Some(Truth::Unknown), now), Some(again), "one look");
            pauses.push((again - now).as_secs());
            now = again;
        }
        for (pause, least) in pauses.iter().zip([30, 60, 120, 300, 300, 300, 300]) {
            assert!(*pause >= least && *pause <= least * 3 / 2, "{pauses:?}");
        }
        assert_eq!(track.watch_health(&present(), Some(Truth::True), now), None);
        track.ended(&present(), End::Settled, now, Duration::ZERO);
        let again = track.watch_health(&present(), Some(Truth::False), now).unwrap();
        assert!((again - now).as_secs() <= 45, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_that_begin_apart_end_together_and_late_by_half_at_most() {
        let start = Instant::now();
        let pause = Duration::from_secs(10);
        let ends: std::collections::BTreeSet<Instant> = (0..40)
            .map(|n| {
                let begins = start + Duration::from_millis(n * 100);
                let ends = aligned(begins, pause);
                assert!(ends >= begins + pause && ends <= begins + pause * 3 / 2);
                ends
            })
            .collect();
        assert!(ends.len() <= 2, "{ends:?}");
        assert_eq!(
            aligned(start, Duration::from_secs(2)),
            start + Duration::from_secs(2),
            "short ones do not"
        );
    }
}
