//! The audit: every load balancer is read in full and compared, one after the other, round after round.
//!
//! ```text
//! UIDs in order:  a ─ b ─ c ─ … ─ z ─▶ a      one round in --audit-interval, evenly paced, one at a time
//! ```
//! Owns: [`Auditor`], the order of a round and its pace. Leaves to others: reading and comparing (an attempt of the last
//! priority), the report of a difference (`attempt`).
//! Invariants: a round costs one read for each Service. An audit that takes long delays the next one and never joins it. The
//! clock decides where the round continues after a restart: a process that starts often audits all Services all the same.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use portico_provider::{LoadBalancerProvider, Owner, ServiceUid};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cache::service::ServiceKey;
use crate::provision::Provisioner;
use crate::provision::track::AuditProgress;
use crate::reconcile::Reconciler;
use crate::reconcile::api::Cluster;

/// The fastest pace: however many Services there are, ten a second.
const FASTEST: Duration = Duration::from_millis(100);
/// The pause where there is no load balancer to audit.
const IDLE: Duration = Duration::from_mins(1);
/// The pause after a start, which has more urgent work.
const SETTLE: Duration = Duration::from_mins(1);
/// How long the list of Services to audit is used, a round at most. Listing them for each audit would cost all Services ten
/// times a second.
const LISTED_FOR: Duration = Duration::from_mins(1);
/// The pause between two checks whether an audit has ended.
const POLL: Duration = Duration::from_millis(50);
/// How long an audit may wait for an attempt to begin.
const NO_ATTEMPT: Duration = Duration::from_secs(5);
/// How long an audit may take once its attempt has begun.
const LONGEST_AUDIT: Duration = Duration::from_mins(10);

/// The position in the round.
#[derive(Debug, Default)]
struct Rotation {
    last: Option<ServiceUid>,
}

impl Rotation {
    /// The next one to audit. `part`: the share of the round that is over by the clock, from 0 to 1; it counts only at first.
    fn next<'a, T>(
        &mut self,
        all: &'a BTreeMap<ServiceUid, T>,
        part: f64,
    ) -> Option<(&'a ServiceUid, &'a T)> {
        let next = match &self.last {
            Some(last) => all.range((Bound::Excluded(last), Bound::Unbounded)).next(),
            None => all.iter().nth(position(all.len(), part)),
        };
        let next = next.or_else(|| all.iter().next())?;
        self.last = Some(next.0.clone());
        Some(next)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a count: what is lost is less than one Service"
)]
fn position(count: usize, part: f64) -> usize {
    (count as f64 * part.clamp(0.0, 1.0)) as usize
}

/// The share of a round that is over, by the clock.
fn part(now: Timestamp, interval: Duration) -> f64 {
    let into = u128::try_from(now.as_millisecond()).unwrap_or_default() % interval.as_millis().max(1);
    Duration::from_millis(u64::try_from(into).unwrap_or_default()).as_secs_f64()
        / interval.as_secs_f64().max(0.001)
}

fn pace(interval: Duration, count: usize) -> Duration {
    interval.checked_div(u32::try_from(count).unwrap_or(u32::MAX)).map_or(IDLE, |pace| pace.max(FASTEST))
}

/// The audit of every load balancer.
pub(crate) struct Auditor<P: LoadBalancerProvider, C> {
    reconciler: Arc<Reconciler<P, C>>,
    provisioner: Arc<Provisioner<P>>,
    /// The time of a round; zero: no audit.
    interval: Duration,
}

impl<P: LoadBalancerProvider, C: Cluster> Auditor<P, C> {
    pub(crate) fn new(reconciler: &Arc<Reconciler<P, C>>, interval: Duration) -> Self {
        let (reconciler, provisioner) = (Arc::clone(reconciler), Arc::clone(reconciler.provisioner()));
        Self { reconciler, provisioner, interval }
    }

    /// Audits round after round.
    pub(crate) async fn run(self) {
        let interval = self.interval;
        if interval.is_zero() {
            return std::future::pending().await;
        }
        sleep(SETTLE.min(interval)).await;
        let mut rotation = Rotation::default();
        let (mut all, mut listed) = (self.reconciler.provided(), Instant::now());
        loop {
            if listed.elapsed() >= LISTED_FOR.min(interval) {
                (all, listed) = (self.reconciler.provided(), Instant::now());
            }
            let due = Instant::now() + pace(interval, all.len());
            if self.provisioner.may_work()
                && let Some((_, (key, owner))) = rotation.next(&all, part(Timestamp::now(), interval))
                && self.reconciler.is_current(key, owner)
            {
                self.audit(key, owner).await;
            }
            sleep_until(due).await;
        }
    }

    /// Requests the audit of one Service, and waits until it has been read, by whatever attempt, or is gone.
    async fn audit(&self, key: &ServiceKey, owner: &Owner) {
        self.provisioner.request_audit(owner);
        self.reconciler.enqueue(key.clone());
        let began = Instant::now();
        // A Service that is refused, or held back after a failure, has no attempt.
        let mut patience = NO_ATTEMPT;
        while began.elapsed() < patience {
            match self.provisioner.audit_progress(owner) {
                AuditProgress::Done => break,
                AuditProgress::Pending => {}
                AuditProgress::Running => patience = LONGEST_AUDIT,
            }
            sleep(POLL).await;
        }
        self.provisioner.end_audit(owner);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn services(names: &[&str]) -> BTreeMap<ServiceUid, u8> {
        names.iter().map(|name| (name.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn a_round_goes_on_after_the_last_one_whoever_comes_and_goes() {
        let mut rotation = Rotation::default();
        let mut next = |names: &[&str]| rotation.next(&services(names), 0.5).unwrap().0.to_string();
        assert_eq!(next(&["a", "b", "c", "d"]), "c", "by the clock, half of the round is over");
        assert_eq!(next(&["a", "b", "d", "e"]), "d");
        assert_eq!(next(&["a", "b"]), "a", "a new round");
        assert_eq!(next(&["a", "aa", "b"]), "aa");
        assert!(Rotation::default().next(&services(&[]), 0.3).is_none());
    }

    #[test]
    fn the_pace_spreads_a_round_over_its_interval_and_has_a_limit() {
        assert_eq!(pace(Duration::from_hours(1), 3_600), Duration::from_secs(1));
        assert_eq!(pace(Duration::from_hours(1), 1_000_000), FASTEST);
        assert_eq!(pace(Duration::from_hours(1), 0), IDLE);
        let quarter = Timestamp::from_second(3_600 * 7 + 900).unwrap();
        assert!((part(quarter, Duration::from_hours(1)) - 0.25).abs() < 0.001);
    }

    proptest! {
        #[test]
        fn processes_that_die_again_and_again_still_audit_everybody(
            count in 1usize..40,
            offset in 0.0f64..1.0,
            lives in 1usize..6,
        ) {
            let all: BTreeMap<ServiceUid, usize> =
                (0..count).map(|index| (format!("uid-{index:03}").parse().unwrap(), index)).collect();
            let mut seen = std::collections::BTreeSet::new();
            // Each tick is one pace of the clock; every `lives` ticks the process is another one.
            let mut rotation = Rotation::default();
            for tick in 0..2 * count {
                if tick % lives == 0 {
                    rotation = Rotation::default();
                }
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let part = (offset + (tick as f64 + 0.5) / count as f64).fract();
                seen.insert(rotation.next(&all, part).unwrap().0.clone());
            }
            // Rounding may let a neighbour go before, never the whole stretch.
            prop_assert!(seen.len() + 1 >= count, "{} of {count}", seen.len());
        }
    }
}
