//! Which fault a call meets.
//!
//! Owns: the switches, the token buckets, the dice, and how each API words a refusal. Leaves to others: doing it (`proxy`).
//! Pure but for the clock that buckets are given. Invariant: the dice of the n-th call of a kind depend on nothing but the
//! seed, the kind and n.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::call::{Api, Call, Effect, Kind};

/// Every fault, each off by default. Shares are per thousand calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Refuse what exceeds the cloud's token buckets.
    pub throttle: Option<Limits>,
    /// Answer 5xx instead of passing the call on.
    pub errors: u16,
    /// Close the connection before the call took effect.
    pub drops_before: u16,
    /// Close the connection after it did.
    pub drops_after: u16,
    /// Answer a read with an earlier answer to the same read.
    pub stale: u16,
    /// How old that may be, in milliseconds.
    pub stale_ms: u64,
    /// Delay a call.
    pub delays: u16,
    /// By how much at most, in milliseconds.
    pub delay_ms: u64,
}

impl Faults {
    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Tokens it holds.
    pub burst: f64,
    /// Tokens a second that it gets.
    pub per_second: f64,
}

/// The buckets of one account and region, or project.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// ELB's and the tagging API's reads, each of its own.
    pub elb_reads: Rate,
    /// Writes of Elastic Load Balancing.
    pub elb_writes: Rate,
    /// Reads of EC2.
    pub ec2_reads: Rate,
    /// Writes of EC2.
    pub ec2_writes: Rate,
    /// Compute Engine's reads.
    pub compute_reads: Rate,
    /// Compute Engine's writes.
    pub compute_writes: Rate,
}

impl Limits {
    /// As documented: ELB 40 tokens and 10 a second for reads
    /// (<https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html>), EC2 100 and 20 for
    /// reads, 50 and 5 for writes (<https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>), Compute
    /// Engine 1,500 a minute each (<https://cloud.google.com/compute/api-quota>). ELB's page has no number for writes: as
    /// for reads.
    pub fn documented() -> Self {
        let rate = |burst, per_second| Rate { burst, per_second };
        Self {
            elb_reads: rate(40.0, 10.0),
            elb_writes: rate(40.0, 10.0),
            ec2_reads: rate(100.0, 20.0),
            ec2_writes: rate(50.0, 5.0),
            compute_reads: rate(250.0, 25.0),
            compute_writes: rate(250.0, 25.0),
        }
    }

    /// All of them `factor` times as fast: for a test that has less time than a cloud.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let faster = |rate: Rate| Rate { per_second: rate.per_second * factor, ..rate };
        Self {
            elb_reads: faster(self.elb_reads),
            elb_writes: faster(self.elb_writes),
            ec2_reads: faster(self.ec2_reads),
            ec2_writes: faster(self.ec2_writes),
            compute_reads: faster(self.compute_reads),
            compute_writes: faster(self.compute_writes),
        }
    }

    fn of(&self, kind: &Kind) -> Rate {
        match (kind.api, kind.effect) {
            (Api::Elb | Api::Tagging | Api::Other, Effect::Read) => self.elb_reads,
            (Api::Elb | Api::Tagging | Api::Other, Effect::Write) => self.elb_writes,
            (Api::Ec2, Effect::Read) => self.ec2_reads,
            (Api::Ec2, Effect::Write) => self.ec2_writes,
            (Api::Compute, Effect::Read) => self.compute_reads,
            (Api::Compute, Effect::Write) => self.compute_writes,
        }
    }
}

/// Fate of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is passed on, and its answer back.
    Passed,
    /// Refused: too many.
    Throttled,
    /// Answered 5xx, and not passed on.
    Failed,
    /// The connection is closed, and it is not passed on.
    DroppedBefore,
    /// It is passed on, and the connection is closed.
    DroppedAfter,
    /// Answered as it was a moment ago.
    Stale,
}

/// The fate of a call, and its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) fate: Fate,
    pub(super) delay: Duration,
}

/// Decides, call by call.
#[derive(Debug)]
pub(super) struct Judge {
    seed: u64,
    nth: BTreeMap<Kind, u64>,
    buckets: BTreeMap<(String, Api, Effect), Bucket>,
}

impl Judge {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, nth: BTreeMap::new(), buckets: BTreeMap::new() }
    }

    /// The decision on the next call of its kind.
    pub(super) fn judge(&mut self, faults: &Faults, call: &Call, now: Instant) -> Decision {
        let nth = self.nth.entry(call.kind.clone()).or_default();
        *nth += 1;
        let mut dice = Dice::new(self.seed, &call.kind, *nth);
        let slow = dice.hits(faults.delays);
        let delay =
            if slow { Duration::from_millis(dice.below(faults.delay_ms + 1)) } else { Duration::ZERO };
        let fate = [
            (faults.errors, Fate::Failed),
            (faults.drops_before, Fate::DroppedBefore),
            (faults.drops_after, Fate::DroppedAfter),
            (if call.kind.effect == Effect::Read { faults.stale } else { 0 }, Fate::Stale),
        ]
        .into_iter()
        .fold(None, |fate, (share, next)| if dice.hits(share) { fate.or(Some(next)) } else { fate })
        .unwrap_or(Fate::Passed);
        let fate = if self.is_throttled(faults, call, now) { Fate::Throttled } else { fate };
        Decision { fate, delay }
    }

    fn is_throttled(&mut self, faults: &Faults, call: &Call, now: Instant) -> bool {
        let Some(limits) = &faults.throttle else { return false };
        let Kind { api, effect, .. } = call.kind;
        let rate = limits.of(&call.kind);
        let bucket = self.buckets.entry((call.scope.clone(), api, effect));
        !bucket.or_insert(Bucket { tokens: rate.burst, at: now }).take(rate, now)
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Whether there was a token.
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second;
        self.tokens = (self.tokens + earned).min(rate.burst);
        self.at = now;
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014), started from seed, kind and number.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    fn new(seed: u64, kind: &Kind, nth: u64) -> Self {
        let name = kind.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(seed ^ name.wrapping_add(nth.wrapping_mul(0xd134_2543_de82_ef95)))
    }

    /// Dice of a test's own.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    /// Whether one of `share` in a thousand.
    pub fn hits(&mut self, share: u16) -> bool {
        self.below(1_000) < u64::from(share)
    }
}

/// An error in the words of its API: status, content type, body.
pub(super) fn refusal(call: &Call, fate: Fate) -> (u16, &'static str, String) {
    let throttled = fate == Fate::Throttled;
    match call.kind.api {
        Api::Compute => {
            let (code, reason, message) = if throttled {
                (
                    403,
                    "rateLimitExceeded",
                    "Quota exceeded for quota metric 'Queries' of service 'compute.googleapis.com'.",
                )
            } else {
                (503, "backendError", "The service is currently unavailable.")
            };
            let detail = serde_json::json!({"message": message, "domain": "usageLimits", "reason": reason});
            let body = serde_json::json!({"error": {"code": code, "message": message, "errors": [detail]}});
            (code, "application/json; charset=UTF-8", body.to_string())
        }
        Api::Ec2 => {
            let (code, message) = if throttled {
                ("RequestLimitExceeded", "Request limit exceeded.")
            } else {
                ("InternalError", "An internal error has occurred.")
            };
            let body = format!(
                "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error>\
                 </Errors><RequestID>fault</RequestID></Response>"
            );
            (if throttled { 503 } else { 500 }, "text/xml", body)
        }
        Api::Tagging => {
            let code = if throttled { "ThrottledException" } else { "InternalServiceException" };
            let body = serde_json::json!({"__type": code, "Message": "Rate exceeded"});
            (if throttled { 400 } else { 500 }, "application/x-amz-json-1.1", body.to_string())
        }
        Api::Elb | Api::Other => {
            let (status, kind, code, message) = if throttled {
                (400, "Sender", "Throttling", "Rate exceeded")
            } else {
                (
                    500,
                    "Receiver",
                    "InternalFailure",
                    "The request processing has failed because of an unknown error.",
                )
            };
            let body = format!(
                "<ErrorResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\"><Error><Type>{kind}</Type>\
                 <Code>{code}</Code><Message>{message}</Message></Error><RequestId>fault</RequestId></ErrorResponse>"
            );
            (status, "text/xml", body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_call(name: &str, effect: Effect) -> Call {
        let kind = Kind { api: Api::Elb, name: name.to_owned(), effect };
        Call { kind, scope: "a/r".to_owned(), words: Vec::new(), text: name.to_owned() }
    }

    fn some() -> Faults {
        Faults {
            errors: 100,
            drops_before: 50,
            drops_after: 50,
            stale: 200,
            delays: 300,
            delay_ms: 9,
            ..Faults::none()
        }
    }

    fn decisions(seed: u64, between: usize) -> Vec<Decision> {
        let (mut judge, now) = (Judge::new(seed), Instant::now());
        let judged = (0..200).map(|_| {
            for _ in 0..between {
                judge.judge(&some(), &mk_call("Other", Effect::Write), now);
            }
            judge.judge(&some(), &mk_call("DescribeTags", Effect::Read), now)
        });
        judged.collect()
    }

    #[test]
    fn the_nth_call_of_a_kind_meets_the_same_fault_whatever_came_between() {
        assert_eq!(decisions(7, 0), decisions(7, 3));
        assert_ne!(decisions(7, 0), decisions(8, 0));
    }

    #[test]
    fn every_fault_comes_about_as_often_as_asked_and_none_when_off() {
        let (mut judge, now) = (Judge::new(1), Instant::now());
        let mut met: BTreeMap<Fate, u32> = BTreeMap::new();
        for _ in 0..10_000 {
            *met.entry(judge.judge(&some(), &mk_call("D", Effect::Read), now).fate).or_default() += 1;
        }
        for (fate, least, most) in
            [(Fate::Failed, 850, 1_150), (Fate::DroppedBefore, 350, 550), (Fate::Stale, 1_400, 1_800)]
        {
            assert!((least..=most).contains(&met[&fate]), "{fate:?}: {met:?}");
        }
        let write = |judge: &mut Judge| judge.judge(&some(), &mk_call("C", Effect::Write), now).fate;
        assert!((0..1_000).all(|_| write(&mut judge) != Fate::Stale), "a write cannot be stale");
        let off = judge.judge(&Faults::none(), &mk_call("D", Effect::Read), now);
        assert_eq!(off, Decision { fate: Fate::Passed, delay: Duration::ZERO });
    }

    #[test]
    fn a_bucket_lets_its_burst_through_and_then_its_rate() {
        let faults = Faults { throttle: Some(Limits::documented()), ..Faults::none() };
        let (mut judge, start) = (Judge::new(1), Instant::now());
        let mut passes = |now| {
            let passed = (0..100).filter(|_| {
                judge.judge(&faults, &mk_call("DescribeTags", Effect::Read), now).fate == Fate::Passed
            });
            passed.count()
        };
        assert_eq!(passes(start), 40);
        assert_eq!(passes(start + Duration::from_secs(1)), 10);
        assert_eq!(passes(start + Duration::from_mins(1)), 40);
    }
}
