//! Limiters on a paused clock.
//!
//! Owns: who goes when. Leaves to others: the numbers (`bucket`), the order alone (`queue`).

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::best::at_best;

/// One call at once, and then one a second.
const SLOW: Limit = Limit { burst: 1.0, rate: 1.0 };

/// Of the type that a limiter judges answers by.
fn passes<T>(_answer: &T) -> bool {
    false
}

async fn quick() -> Result<(), ()> {
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_the_burst_wait_for_the_rate() {
    let limiter = Arc::new(Limiter::new("x", Limit { burst: 4.0, rate: 2.0 }));
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let limiter = Arc::clone(&limiter);
        calls.spawn(async move { limiter.call(Priority::Provisioning, quick, passes).await });
    }
    calls.join_all().await;
    let took = began.elapsed().as_secs_f64();
    assert!(
        (2.8..=3.2).contains(&took),
        "six calls beyond the burst, two a second and a little more: {took}"
    );
    assert_eq!(limiter.snapshot().admitted, 10);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_target_change_goes_before_what_came_earlier() {
    let limiter = Arc::new(Limiter::new("x", SLOW));
    limiter.call(Priority::Background, quick, passes).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut calls = JoinSet::new();
    for priority in [Priority::Background, Priority::Provisioning, Priority::Provisioning, Priority::Targets]
    {
        let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
        calls.spawn(async move {
            limiter.call(priority, quick, passes).await.unwrap();
            order.lock().unwrap().push(priority);
        });
        tokio::task::yield_now().await; // each queues before the next comes
    }
    calls.join_all().await;
    let expected = [Priority::Targets, Priority::Provisioning, Priority::Provisioning, Priority::Background];
    assert_eq!(*order.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_away_while_it_waits_holds_nobody_up() {
    let limiter = Arc::new(Limiter::new("x", SLOW));
    limiter.call(Priority::Targets, quick, passes).await.unwrap();
    let first = tokio::spawn({
        let limiter = Arc::clone(&limiter);
        async move { limiter.call(Priority::Targets, quick, passes).await }
    });
    tokio::task::yield_now().await;
    let second = tokio::spawn({
        let limiter = Arc::clone(&limiter);
        async move { limiter.call(Priority::Targets, quick, passes).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(limiter.snapshot().waiting, [2, 0, 0]);
    first.abort();
    let began = Instant::now();
    second.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "it had the first one's token: {:?}", began.elapsed());
    assert_eq!((limiter.snapshot().waiting, limiter.snapshot().admitted), ([0, 0, 0], 2));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_is_made_again_more_slowly_and_told_when_it_does_not_help() {
    let limiter = Limiter::new("x", Limit { burst: 10.0, rate: 10.0 });
    let calls = Cell::new(0);
    let attempt = |refusals: u32| {
        let calls = &calls;
        move || {
            calls.set(calls.get() + 1);
            let answer = if calls.get() <= refusals { Err("throttled") } else { Ok(calls.get()) };
            std::future::ready(answer)
        }
    };
    let answer = limiter.call(Priority::Targets, attempt(2), Result::is_err).await;
    assert_eq!(answer, Ok(3));
    let slower = limiter.snapshot();
    assert!(slower.rate < 5.2 && slower.throttled == 2, "{slower:?}");
    calls.set(0);
    assert_eq!(limiter.call(Priority::Targets, attempt(99), Result::is_err).await, Err("throttled"));
    assert_eq!(calls.get(), ATTEMPTS);
}

#[tokio::test(start_paused = true)]
async fn low_ones_get_through_a_flood_of_high_ones() {
    let limiter = Arc::new(Limiter::new("x", SLOW));
    let mut flood = JoinSet::new();
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..5 {
        let (limiter, done) = (Arc::clone(&limiter), Arc::clone(&done));
        flood.spawn(async move {
            loop {
                limiter.call(Priority::Targets, quick, passes).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    tokio::task::yield_now().await;
    limiter.call(Priority::Background, quick, passes).await.unwrap();
    let before = done.load(Ordering::SeqCst);
    assert!((5..=20).contains(&before), "{before} went first");
}

#[tokio::test(start_paused = true)]
async fn calls_of_work_that_nobody_waits_for_come_last_and_what_it_puts_right_does_not() {
    let limiter = Arc::new(Limiter::new("x", SLOW));
    limiter.call(Priority::Background, quick, passes).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut calls = JoinSet::new();
    for name in ["audit", "repair", "create"] {
        let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
        calls.spawn(async move {
            let own = if name == "create" { Priority::Provisioning } else { Priority::Targets };
            let call = async { limiter.call(own, quick, passes).await.unwrap() };
            match name {
                "audit" => at_best(Priority::Background, call).await,
                "repair" => at_best(Priority::Background, at_best(Priority::Targets, call)).await,
                _ => call.await,
            }
            order.lock().unwrap().push(name);
        });
    }
    calls.join_all().await;
    assert_eq!(*order.lock().unwrap(), ["repair", "create", "audit"]);
}

/// A lease that is held until a moment.
#[derive(Debug)]
struct Until(Instant);

impl Leave for Until {
    fn given(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if Instant::now() >= self.0 {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_for_its_turn_is_not_made_without_leave() {
    let limiter = Arc::new(Limiter::new("slow", Limit { burst: 1.0, rate: 1.0 }));
    limiter.behind(Arc::new(Until(Instant::now() + Duration::from_millis(2_500))));
    let made = Arc::new(std::sync::atomic::AtomicU32::new(0));
    for _ in 0..6 {
        let (limiter, made) = (Arc::clone(&limiter), Arc::clone(&made));
        tokio::spawn(async move {
            let call = || async {
                made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok::<(), ()>(())
            };
            limiter.call(Priority::Targets, call, |_answer| false).await
        });
    }
    sleep(Duration::from_mins(1)).await;
    assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), 3, "at 0, 1 and 2 s");
}
