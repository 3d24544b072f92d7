//! Nodes that Google does not take as endpoints: an address that is not the instance's, an instance that is gone, or in
//! another zone or network.
//!
//! Owns: which were refused, what is said of them, and when they are offered again. Leaves to others: offering (`offer`).
//! Invariants: a node is unfit for every load balancer alike, so what one learnt, all know, and one offers it again for
//! all. Forgetting (a restart) costs one more refusal and nothing else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portico_provider::ServiceUid;

use crate::resource::Endpoint;

/// From one offer to the next: doubled each time, up to the last.
const FIRST: Duration = Duration::from_secs(30);
const LAST: Duration = Duration::from_mins(10);
/// So much longer until somebody else offers it, if the one whose turn it was has not.
const TAKEOVER: Duration = Duration::from_mins(5);
/// So long after that it is known to nobody any more.
const FORGOTTEN: Duration = Duration::from_hours(1);

/// A zone and a node in it.
pub(crate) type Place = (String, Endpoint);

/// A refused node, as one Service knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Google's own message for it.
    pub message: String,
    /// Whether it is to be offered again.
    pub offer: Offer,
}

/// When a node that was refused is offered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Now, by this Service.
    Now,
    /// By this Service, after so long.
    After(Duration),
    /// By another Service, which all hear of.
    ByAnother,
}

#[derive(Debug)]
struct Cached {
    message: String,
    tries: u32,
    until: Instant,
    /// The Service that offers it next.
    by: ServiceUid,
}

/// All that were refused.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<BTreeMap<Place, Cached>>);

impl Refused {
    /// One was refused.
    pub(crate) fn add(&self, by: &ServiceUid, place: Place, message: String, now: Instant) {
        let mut all = self.all();
        let tries = all.get(&place).map_or(0, |known| known.tries).saturating_add(1);
        let known = Cached { message, tries, until: now + pause(tries), by: by.clone() };
        all.insert(place, known);
    }

    /// These were taken.
    pub(crate) fn remove<'a>(&self, zone: &str, endpoints: impl Iterator<Item = &'a Endpoint>) {
        let mut all = self.all();
        for endpoint in endpoints {
            all.remove(&(zone.to_owned(), endpoint.clone()));
        }
    }

    /// The refused nodes that a Service knows.
    pub(crate) fn known_to(&self, service: &ServiceUid, now: Instant) -> BTreeMap<Place, Refusal> {
        let mut all = self.all();
        all.retain(|_, known| now < known.until + FORGOTTEN);
        let known = all.iter().map(|(place, Cached { message, tries, until, by })| {
            let offer = if by == service {
                if now < *until { Offer::After(pause(*tries)) } else { Offer::Now }
            } else if now < *until + TAKEOVER {
                Offer::ByAnother
            } else {
                Offer::Now
            };
            (place.clone(), Refusal { message: message.clone(), offer })
        });
        known.collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Place, Cached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After so many refusals.
fn pause(tries: u32) -> Duration {
    FIRST.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_place() -> Place {
        ("zone".to_owned(), Endpoint { instance: "node-1".to_owned(), ip: [10, 0, 0, 1].into() })
    }

    #[test]
    fn one_offers_it_again_for_all_ever_more_slowly_and_another_if_that_one_does_not() {
        let (refused, start) = (Refused::default(), Instant::now());
        let [one, other] = ["one", "other"].map(|uid| uid.parse::<ServiceUid>().unwrap());
        let offer = |service, now| refused.known_to(service, now).get(&mk_place()).map(|it| it.offer);
        assert_eq!(offer(&one, start), None);
        let mut now = start;
        for seconds in [30, 60, 120, 240, 480, 600, 600] {
            let after = Duration::from_secs(seconds);
            refused.add(&one, mk_place(), "why".to_owned(), now);
            assert_eq!(offer(&one, now), Some(Offer::After(after)));
            now += after;
            assert_eq!(offer(&one, now), Some(Offer::Now));
            assert_eq!(offer(&other, now), Some(Offer::ByAnother));
            assert_eq!(offer(&other, now + TAKEOVER), Some(Offer::Now));
        }
        refused.remove("zone", [mk_place().1].iter());
        assert_eq!(offer(&one, now), None, "it was taken");
        refused.add(&one, mk_place(), "why".to_owned(), now);
        assert_eq!(offer(&one, now), Some(Offer::After(FIRST)), "and begins anew");
        assert_eq!(offer(&one, now + FIRST + FORGOTTEN), None);
    }
}
