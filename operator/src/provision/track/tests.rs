//! Decisions about attempts, on a paused clock.

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
    let mut track = Track { phase: Phase::Running { audit: None }, ..Track::default() };
    track.ended(&present(), end, now, Duration::from_mins(10));
    track
}

fn failure(retry: Retry) -> End {
    End::Failed { reason: "Throttled", message: String::new(), retry }
}

#[tokio::test(start_paused = true)]
async fn what_is_as_desired_costs_no_attempt_and_what_is_not_gets_one() {
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
        Track { phase: Phase::Running { audit: None }, ..track }.decide(&present(), &steps(), now),
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
async fn what_was_left_half_done_is_read_although_the_inventory_is_as_wanted_now() {
    let now = Instant::now();
    let mut other = mk_load_balancer("web");
    other.source_ranges.insert("10.0.0.0/8".parse().unwrap());
    let mut track = Track { phase: Phase::Running { audit: None }, ..Track::default() };
    track.ended(&Want::present(Box::new(other)), failure(Retry::Backoff), now, Duration::ZERO);
    let nothing = Plan::<&str>::nothing("as desired");
    assert_eq!(track.decide(&present(), &nothing, now), Decision::Start);
    track.ended(&present(), End::Settled, now, Duration::ZERO);
    assert_eq!(track.decide(&present(), &nothing, now), Decision::Rest(None));
}

#[tokio::test(start_paused = true)]
async fn targets_that_stay_unhealthy_are_read_ever_more_rarely_and_healthy_ones_not_at_all() {
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
    assert_eq!(aligned(start, Duration::from_secs(2)), start + Duration::from_secs(2), "short ones do not");
}
