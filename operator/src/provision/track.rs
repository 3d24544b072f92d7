//! The provisioning state of one Service, and the decision whether to start an attempt now, later, or not at all.
//!
//! Owns: [`Track`]. Leaves to others: running attempts (`attempt`).
//! Invariants: pure. A track only saves work: a process without it (after a restart) comes to the same end. A failure holds back
//! only the want that failed: a changed Service gets an attempt at once.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use portico_provider::{Plan, ReadMode, Retry, SpecHash, Truth};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::end::End;
use super::plan_view::PlanView;
use super::trigger::Trigger;
use super::want::{Want, WantDigest};
use crate::backoff;
use crate::cache::service::ServiceKey;

/// Pauses between reads of targets that are not healthy: the first, the second … New targets need half a minute to pass
/// their health checks; others need somebody's help. Each read is a call that Services do not share.
const HEALTH_POLLS: [Duration; 4] =
    [Duration::from_secs(30), Duration::from_mins(1), Duration::from_mins(2), Duration::from_mins(5)];
/// Waits of this length and more end together with those of other Services, so that one call can read for all of them.
const ALIGNED_FROM: Duration = Duration::from_secs(5);

/// The provisioning state of one Service.
#[derive(Debug, Default)]
pub(crate) struct Track {
    phase: Phase,
    /// The last attempt.
    last: Option<Ended>,
    /// The want that the load balancer was last read to match.
    settled: Option<SpecHash>,
    /// The next attempt is an audit.
    audit: bool,
    /// Other members of its group block it: its key, and the names of what they share.
    blocked_by_group: Option<(ServiceKey, BTreeSet<String>)>,
    /// Other members of its group changed something.
    group_changed: bool,
    /// Failures in a row.
    failures: u32,
    /// Reads in a row that found targets not healthy.
    unhealthy_reads: usize,
}

/// The phase of a Service's attempt.
#[derive(Debug, Default)]
enum Phase {
    /// There is no attempt.
    #[default]
    Idle,
    /// It waits for its turn. Its want is composed again then: a want holds every node, and a thousand may wait.
    Waiting { digest: WantDigest, trigger: Trigger, planned: Option<Planned> },
    /// It calls the provider. `audit`: the want that it audits, and the token by which it gives way to a change.
    Running { audit: Option<(WantDigest, CancellationToken)> },
}

/// How closely the submitted plan asks to read first, and when the read began that it was made from.
pub(crate) type Planned = (ReadMode, Option<Instant>);

/// An attempt whose turn has come.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) trigger: Trigger,
    /// Cancelled when the want changes while an audit reads.
    pub(crate) give_way: CancellationToken,
    /// From the submitted plan; `None`: the want changed since.
    pub(crate) planned: Option<Planned>,
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq)]
struct Ended {
    digest: WantDigest,
    end: End,
    /// When to start another if nothing changes; `None`: never.
    again: Option<Instant>,
}

/// The progress of provisioning, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The load balancer is as desired.
    Settled,
    /// An attempt executes steps.
    Working(String),
    /// The provider is at work.
    Waiting(String),
    /// It differs, and the difference is only reported.
    Drifted(String),
    /// A call failed.
    Failed { reason: &'static str, message: String },
    /// The load balancer is being deleted.
    Releasing(String),
}

/// The progress of a requested audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuditProgress {
    /// It has ended, or none was requested.
    Done,
    /// No attempt has begun.
    Pending,
    /// An attempt waits or runs.
    Running,
}

/// The decision about a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start an attempt.
    Start,
    /// An attempt waits or runs; it requeues the Service when it ends.
    Running,
    /// Start none before this moment.
    Hold(Instant),
    /// All is as desired, as far as was read; reconcile again then.
    Rest(Option<Instant>),
}

impl Track {
    /// Decides, by a plan that was made from the inventory.
    pub(crate) fn decide<S>(&self, want: &Want, plan: &Plan<S>, now: Instant) -> Decision {
        if !self.is_idle() {
            return Decision::Running;
        }
        let last = self.last_of(want);
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
            // A former want may be half provisioned, whatever the inventory shows.
            _ if idle && !want.is_absent() && self.finished_last() => Decision::Rest(None),
            _ => Decision::Start,
        }
    }

    /// The last attempt, if it was for this want.
    fn last_of(&self, want: &Want) -> Option<&Ended> {
        self.last.as_ref().filter(|last| last.digest == *want.digest())
    }

    fn finished_last(&self) -> bool {
        !matches!(&self.last, Some(Ended { end: End::InProgress { .. } | End::Failed { .. }, .. }))
    }

    /// The trigger of an attempt that is decided on now. `was_synced`: the status says that all is as this want has it.
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

    /// An attempt begins to wait for its turn.
    pub(crate) fn wait(&mut self, want: &Want, trigger: Trigger, planned: Planned) {
        if trigger == Trigger::Change {
            self.settled = None;
        }
        self.phase = Phase::Waiting { digest: want.digest().clone(), trigger, planned: Some(planned) };
    }

    /// Adapts an attempt to a want that changed while it waits; an audit that runs gives way. Whether the attempt waits in
    /// the queue of something less urgent than a change.
    pub(crate) fn rethink(&mut self, want: &Want) -> bool {
        let digest = want.digest();
        match &mut self.phase {
            Phase::Idle | Phase::Running { audit: None } => false,
            Phase::Running { audit: Some((audited, give_way)) } => {
                if audited != digest {
                    give_way.cancel();
                }
                false
            }
            Phase::Waiting { digest: waiting, trigger, planned } => {
                if waiting == digest {
                    return false;
                }
                let hastens = *trigger != Trigger::Change;
                (*trigger, *planned) = (Trigger::Change, None);
                waiting.clone_from(digest);
                self.settled = None;
                hastens
            }
        }
    }

    /// The turn of the attempt has come, for this want. `None`: none waits.
    pub(crate) fn start(&mut self, want: &Want) -> Option<Started> {
        self.rethink(want);
        let Phase::Waiting { digest, trigger, planned } = &mut self.phase else { return None };
        let (trigger, planned, give_way) = (*trigger, planned.take(), CancellationToken::new());
        let audit = (trigger == Trigger::Audit).then(|| (digest.clone(), give_way.clone()));
        self.group_changed = false;
        self.phase = Phase::Running { audit };
        Some(Started { trigger, give_way, planned })
    }

    /// The attempt that waits ended without a turn; whether one waited.
    pub(crate) fn give_up(&mut self) -> bool {
        let waits = matches!(self.phase, Phase::Waiting { .. });
        if waits {
            self.phase = Phase::Idle;
        }
        waits
    }

    /// The inventory showed all as wanted.
    fn rest(&mut self, want: &Want, again: Option<Instant>) {
        self.settle(want);
        self.last = Some(Ended { digest: want.digest().clone(), end: End::Settled, again });
    }

    fn settle(&mut self, want: &Want) {
        self.settled = match want.digest() {
            WantDigest::Present(wanted) => Some(*wanted),
            WantDigest::Targets(_) | WantDigest::Absent(..) => None,
        };
    }

    /// When to read targets again that are not all healthy: no event announces their health. `healthy`: as reported;
    /// answer `None`: no need.
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

    /// An attempt ended. `slow`: the pause before another attempt that no event asks for.
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
        self.last = Some(Ended { digest: want.digest().clone(), end, again });
    }

    /// The progress, for the status.
    pub(crate) fn progress<S: std::fmt::Display>(&self, want: &Want, current: &Plan<S>) -> Progress {
        // An attempt that repeats the last one says nothing new until it ends: each poll would be two status writes.
        match self.last_of(want).map(|last| &last.end) {
            Some(End::InProgress { what, .. }) => Progress::Waiting(what.clone()),
            Some(End::Failed { reason, message, .. }) => {
                Progress::Failed { reason, message: message.clone() }
            }
            Some(End::Withheld(plan)) => Progress::Drifted(plan.summary()),
            Some(End::Settled) | None if self.is_idle() && plan_is_idle(current) => Progress::Settled,
            _ => Progress::Working(doing(current)),
        }
    }

    /// The plan that the last attempt for this want was not to execute.
    pub(crate) fn withheld(&self, want: &Want) -> Option<PlanView> {
        match &self.last_of(want)?.end {
            End::Withheld(plan) => Some((**plan).clone()),
            End::Settled | End::InProgress { .. } | End::Failed { .. } => None,
        }
    }

    /// Whether the last attempt for this want found nothing left to do, and none has begun since.
    pub(crate) fn is_settled(&self, want: &Want) -> bool {
        self.is_idle() && self.last_of(want).is_some_and(|last| last.end == End::Settled)
    }

    /// Whether no attempt waits or runs.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether an attempt calls the provider.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// Whether an attempt waits that is to delete everything.
    pub(crate) fn waits_to_delete(&self) -> bool {
        matches!(self.phase, Phase::Waiting { digest: WantDigest::Absent(..), .. })
    }

    /// Makes the next attempt an audit.
    pub(crate) fn request_audit(&mut self) {
        self.audit = true;
    }

    pub(crate) fn end_audit(&mut self) {
        self.audit = false;
    }

    pub(crate) fn audit_progress(&self) -> AuditProgress {
        match (self.audit, self.is_idle()) {
            (false, _) => AuditProgress::Done,
            (true, true) => AuditProgress::Pending,
            (true, false) => AuditProgress::Running,
        }
    }

    /// Sets whether other members of the group block it: its key, and the names of what they share.
    pub(crate) fn block_by_group(&mut self, blocked: Option<(ServiceKey, BTreeSet<String>)>) {
        self.blocked_by_group = blocked;
    }

    /// Others have changed `names`. Its key, if other members block it by one of these.
    pub(crate) fn group_changed(&mut self, names: &BTreeSet<String>) -> Option<ServiceKey> {
        let (key, theirs) = self.blocked_by_group.as_ref()?;
        if theirs.is_disjoint(names) {
            return None;
        }
        self.group_changed = true;
        Some(key.clone())
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
mod tests;
