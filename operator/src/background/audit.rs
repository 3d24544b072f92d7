//! The audit: every load balancer is read in full and compared, one after the other, round after round.
//!
//! ```text
//! UIDs in order:  a ─ b ─ c ─ … ─ z ─▶ a      one round in --audit-interval, evenly paced, one at a time
//! ```
//! Owns: whose turn it is, and the pace. Leaves to others: reading and comparing (a go, of the last priority), what
//! follows from a difference (`go`).
//! Invariants: a round costs one `observe` a Service, whatever happens; an audit that takes long delays the next one and
//! never joins it; where the round goes on after a restart follows from the clock, so that a process that starts often
//! does not audit the same Services for ever.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use portico_provider::{LoadBalancerProvider, Owner, ServiceUid};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cache::service::ServiceKey;
use crate::desired::spec;
use crate::provision::track::Phase;
use crate::reconcile::Operator;
use crate::reconcile::api::Cluster;

/// The fastest pace: however many Services there are, ten a second.
const FASTEST: Duration = Duration::from_millis(100);
/// Where nothing is to be audited, when to look for something.
const IDLE: Duration = Duration::from_mins(1);
/// After a start there is more urgent work.
const SETTLE: Duration = Duration::from_mins(1);
/// How long a list of whom to audit is used, a round at most: making it costs as much as there are Services, ten times a second with many.
const LISTED_FOR: Duration = Duration::from_mins(1);
/// From one look at whether an audit is over to the next.
const POLL: Duration = Duration::from_millis(50);

/// Where the round stands.
#[derive(Debug, Default)]
struct Rotation {
    last: Option<ServiceUid>,
}

impl Rotation {
    /// Whose turn it is. `part`: how much of the current round is over by the clock, from 0 to 1; it counts only at first.
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

/// How much of a round is over, by the clock.
fn part(now: Timestamp, interval: Duration) -> f64 {
    let into = u128::try_from(now.as_millisecond()).unwrap_or_default() % interval.as_millis().max(1);
    Duration::from_millis(u64::try_from(into).unwrap_or_default()).as_secs_f64()
        / interval.as_secs_f64().max(0.001)
}

fn pace(interval: Duration, count: usize) -> Duration {
    interval.checked_div(u32::try_from(count).unwrap_or(u32::MAX)).map_or(IDLE, |pace| pace.max(FASTEST))
}

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    /// Audits for ever; zero: not at all.
    pub(crate) async fn audit(self: Arc<Self>, interval: Duration) {
        if interval.is_zero() {
            return std::future::pending().await;
        }
        sleep(SETTLE.min(interval)).await;
        let mut rotation = Rotation::default();
        let (mut all, mut listed) = (self.audited(), Instant::now());
        loop {
            if listed.elapsed() >= LISTED_FOR.min(interval) {
                (all, listed) = (self.audited(), Instant::now());
            }
            let due = Instant::now() + pace(interval, all.len());
            if self.may_work()
                && let Some((_, (key, owner))) = rotation.next(&all, part(Timestamp::now(), interval))
                && self.is_there(key, owner)
            {
                self.audit_one(key, owner).await;
            }
            sleep_until(due).await;
        }
    }

    /// Every Service that has, or shall have, a load balancer.
    fn audited(&self) -> BTreeMap<ServiceUid, (ServiceKey, Owner)> {
        let ours = self.cache.services().into_iter().filter(|it| self.settings.classes.wants(it));
        let known = ours.filter_map(|service| {
            let owner = spec::owner(&service, &self.settings.cluster).ok()?;
            Some((owner.service.clone(), (ServiceKey::of(&service), owner)))
        });
        known.collect()
    }

    /// Whether it is still the Service that was listed.
    fn is_there(&self, key: &ServiceKey, owner: &Owner) -> bool {
        let service = self.cache.service(key);
        service.is_some_and(|service| service.metadata.uid.as_deref() == Some(owner.service.as_str()))
    }

    /// Marks it, and waits until it was read, by whatever go, or is no more.
    async fn audit_one(&self, key: &ServiceKey, owner: &Owner) {
        self.track(owner, |track| track.audit = true);
        self.queue.add(key.clone());
        let began = Instant::now();
        // A Service that is refused, or kept back after a failure, has no go; its turn is over soon.
        let mut patience = Duration::from_secs(5);
        while self.is_marked(owner) && began.elapsed() < patience {
            if self.known_track(owner, |track| track.phase != Phase::Idle) == Some(true) {
                patience = Duration::from_mins(10);
            }
            sleep(POLL).await;
        }
        self.known_track(owner, |track| track.audit = false);
    }

    fn is_marked(&self, owner: &Owner) -> bool {
        self.known_track(owner, |track| track.audit).unwrap_or_default()
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
