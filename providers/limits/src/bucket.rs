//! A token bucket whose rate learns what the cloud allows.
//!
//! Owns: tokens and the rate: multiplicative decrease on a throttled call, additive increase while calls that pass use it
//! up. Leaves to others: waiting (`limiter`), whose turn it is (`queue`). Pure. Invariants: the rate stays within its
//! bounds; of calls that were under way together, however many are throttled, the rate falls once.

use std::time::Duration;

use tokio::time::Instant;

/// What the rate becomes when a call is throttled.
const DECREASE: f64 = 0.7;
/// What a second of full use adds up to the knee, in parts of the documented rate.
const RECOVERY: f64 = 0.05;
/// What a second of full use adds above it, in parts of the rate: every step there is a trial that may cost a refusal.
const PROBING: f64 = 0.004;
/// Where the knee is, in parts of the rate at which a call was last throttled.
const KNEE: f64 = 0.85;
/// Bounds of the rate, in parts of the documented one: others share the account's bucket, or support has raised it.
const LEAST: f64 = 0.05;
const MOST: f64 = 4.0;

/// What is documented of one class of calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Calls at once, when there were none for a while.
    pub burst: f64,
    /// Calls a second, in the long run.
    pub rate: f64,
}

/// How many times the documented limits to begin with: 1, or more where support has raised an account's limits, or less
/// where others need most of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace(f64);

impl Pace {
    /// From 0.01 to 1,000; `None` for anything else.
    pub fn new(times: f64) -> Option<Self> {
        (0.01..=1_000.0).contains(&times).then_some(Self(times))
    }

    /// A documented limit at this pace.
    #[must_use]
    pub fn of(self, limit: Limit) -> Limit {
        let Self(times) = self;
        Limit { burst: limit.burst * times, rate: limit.rate * times }
    }
}

impl Default for Pace {
    /// As documented.
    fn default() -> Self {
        Self(1.0)
    }
}

/// Leave to make one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// How often the rate had fallen.
    fall: u64,
    /// Whether there was hardly a token left.
    scarce: bool,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    limit: Limit,
    rate: f64,
    /// Up to here the rate grows quickly: it was allowed before.
    knee: f64,
    tokens: f64,
    at: Instant,
    falls: u64,
}

impl Bucket {
    pub(crate) fn new(limit: Limit, now: Instant) -> Self {
        Self { limit, rate: limit.rate, knee: limit.rate, tokens: limit.burst.max(1.0), at: now, falls: 0 }
    }

    /// Calls a second, at present.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// Where the cloud allows less than is documented, its bucket fills more slowly, too.
    fn burst(&self) -> f64 {
        (self.limit.burst * (self.rate / self.limit.rate).min(1.0)).max(1.0)
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(self.burst());
        self.at = self.at.max(now);
    }

    /// Takes a token, or says after how long there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<Admission, Duration> {
        self.refill(now);
        if self.tokens < 1.0 {
            // Rounded up: a waiter that wakes a nanosecond early would only wait again.
            let missing = Duration::from_secs_f64((1.0 - self.tokens) / self.rate);
            return Err(missing + Duration::from_millis(1));
        }
        self.tokens -= 1.0;
        Ok(Admission { fall: self.falls, scarce: self.tokens < 1.0 })
    }

    /// A call was answered, well or badly, but not throttled.
    pub(crate) fn passed(&mut self, admission: Admission, now: Instant) {
        let Admission { fall, scarce } = admission;
        if fall != self.falls || !scarce {
            return;
        }
        self.refill(now);
        // A call's part of what a second adds: a rate's worth of calls makes a second.
        let step = if self.rate < self.knee { RECOVERY * self.limit.rate / self.rate } else { PROBING };
        self.rate = (self.rate + step).min(self.limit.rate * MOST);
    }

    /// A call was refused because there were too many.
    pub(crate) fn throttled(&mut self, admission: Admission, now: Instant) {
        if admission.fall != self.falls {
            return; // it was under way when the rate fell
        }
        self.refill(now);
        self.falls += 1;
        self.knee = self.rate * KNEE;
        self.rate = (self.rate * DECREASE).max(self.limit.rate * LEAST);
        // The cloud's bucket is empty, so ours is.
        self.tokens = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Limit = Limit { burst: 40.0, rate: 10.0 };

    /// A cloud with a bucket of its own, and a caller that always has a call to make, for `seconds`.
    fn throttled_of(cloud: Limit, seconds: u64) -> (f64, f64, f64) {
        let start = Instant::now();
        let (mut ours, mut theirs) = (Bucket::new(LIMIT, start), Bucket::new(cloud, start));
        let (mut now, mut passed, mut refused) = (start, 0.0, 0.0);
        while now < start + Duration::from_secs(seconds) {
            match ours.take(now) {
                Err(after) => now += after,
                Ok(admission) if theirs.take(now).is_ok() => {
                    passed += 1.0;
                    ours.passed(admission, now);
                }
                Ok(admission) => {
                    refused += 1.0;
                    ours.throttled(admission, now);
                }
            }
        }
        (passed, refused, ours.rate())
    }

    #[test]
    fn it_settles_near_what_the_cloud_allows_be_that_more_or_less_than_documented() {
        for (cloud, least, most) in [(2.0, 1.0, 2.6), (10.0, 6.0, 12.0), (30.0, 15.0, 36.0)] {
            let allowed = cloud * 600.0 + 40.0;
            let (passed, refused, rate) = throttled_of(Limit { burst: 40.0, rate: cloud }, 600);
            assert!(rate >= least && rate <= most, "{cloud}: {rate}");
            assert!(passed > allowed * 0.6, "{cloud}: {passed} of {allowed}");
            assert!(refused < passed * 0.05 + 20.0, "{cloud}: {refused} refused, {passed} passed");
        }
    }

    #[test]
    fn many_refusals_of_calls_that_were_under_way_together_count_once() {
        let now = Instant::now();
        let mut bucket = Bucket::new(LIMIT, now);
        let together: Vec<Admission> = (0..10).map(|_| bucket.take(now).unwrap()).collect();
        for admission in together {
            bucket.throttled(admission, now);
        }
        assert!((bucket.rate() - 7.0).abs() < 1e-9, "{}", bucket.rate());
        assert!(bucket.take(now).is_err(), "a throttled bucket is empty");
    }

    #[test]
    fn a_pace_that_would_stop_or_flood_a_cloud_is_refused() {
        assert_eq!(Pace::new(2.0).map(|pace| pace.of(LIMIT)), Some(Limit { burst: 80.0, rate: 20.0 }));
        assert!([0.0, -1.0, 2_000.0, f64::NAN].into_iter().all(|times| Pace::new(times).is_none()));
    }

    #[test]
    fn a_rate_that_is_not_used_does_not_grow() {
        let start = Instant::now();
        let mut bucket = Bucket::new(LIMIT, start);
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            let admission = bucket.take(now).unwrap();
            bucket.passed(admission, now);
        }
        assert!((bucket.rate() - LIMIT.rate).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_allow(
            steps in proptest::collection::vec((0_u64..2_000, 0_u8..3), 1..400)
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(LIMIT, start);
            let (mut now, mut taken, mut earned) = (start, 0.0, LIMIT.burst);
            for (millis, answer) in steps {
                now += Duration::from_millis(millis);
                earned += bucket.rate() * Duration::from_millis(millis).as_secs_f64();
                while let Ok(admission) = bucket.take(now) {
                    taken += 1.0;
                    match answer {
                        0 => bucket.passed(admission, now),
                        1 => bucket.throttled(admission, now),
                        _ => {}
                    }
                }
                prop_assert!(taken <= earned + 1e-6, "{taken} of {earned}");
                prop_assert!(bucket.rate() >= LIMIT.rate * LEAST && bucket.rate() <= LIMIT.rate * MOST);
            }
        }
    }
}
