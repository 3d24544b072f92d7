//! How long to wait after the n-th failure in a row.
//!
//! Owns: the delays. Leaves to others: counting.
//! Invariant: between 0.75 and 1.25 of 1 s, 2 s, 4 s … 5 min. The delay is the same for the same Service and count, and differs
//! between Services, so that a provider that recovers is not called by all of them at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);

/// The delay after `failures` failures in a row (1 is the first).
pub(crate) fn delay(who: &impl Hash, failures: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let mut hasher = DefaultHasher::new();
    (failures, "backoff").hash(&mut hasher);
    who.hash(&mut hasher);
    let thousandths = 750 + u32::try_from(hasher.finish() % 501).unwrap_or(250);
    doubled.min(LONGEST) * thousandths / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_differ_between_services() {
        for failures in 1..70 {
            let base = FIRST.saturating_mul(1 << (failures - 1).min(12)).min(LONGEST);
            let delay = delay(&"web", failures);
            assert!(delay >= base * 3 / 4 && delay <= base * 5 / 4, "{failures}: {delay:?}");
        }
        assert_ne!(delay(&"a", 3), delay(&"b", 3));
    }
}
