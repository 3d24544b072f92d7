//! Many askers, few calls, and nobody's answer mixed up.
//!
//! Owns: the checks of [`Gather`]. Leaves to others: AWS. Invariant: time is the runtime's, paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::cloud::{CloudError, Trouble};

/// Answers each even number with its square, and counts.
async fn squares(calls: Arc<AtomicUsize>, keys: Vec<u32>) -> Answer<BTreeMap<u32, u32>> {
    calls.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_millis(3)).await;
    Ok(keys.into_iter().filter(|key| key % 2 == 0).map(|key| (key, key * key)).collect())
}

#[tokio::test(start_paused = true)]
async fn everybody_gets_his_own_answer_from_one_call() {
    let (gather, calls) = (Arc::new(Gather::default()), Arc::new(AtomicUsize::new(0)));
    let ask = |key: u32| {
        let (gather, calls) = (Arc::clone(&gather), Arc::clone(&calls));
        tokio::spawn(async move { gather.ask(key, |keys| squares(Arc::clone(&calls), keys)).await })
    };
    // Each is asked twice, in an order that is not theirs.
    let tasks: Vec<_> = (0..500).map(|n| (n * 7 % 250, ask(n * 7 % 250))).collect();
    for (key, task) in tasks {
        let expected = (key % 2 == 0).then_some(key * key);
        assert_eq!(task.await.unwrap().unwrap(), expected, "{key}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(ask(4).await.unwrap().unwrap(), Some(16));
    assert_eq!(calls.load(Ordering::Relaxed), 2, "what comes later is asked anew, not remembered");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_everybodys_and_the_next_ask_is_a_new_one() {
    let gather = Gather::<u32, u32>::default();
    let error = CloudError {
        operation: "X",
        trouble: Trouble::Throttled,
        code: "Throttling".to_owned(),
        message: String::new(),
    };
    let fails = |_keys| std::future::ready(Err(error.clone()));
    let (one, two) = tokio::join!(gather.ask(1, fails), gather.ask(2, fails));
    assert_eq!((one, two), (Err(error.clone()), Err(error.clone())));
    let works = |keys: Vec<u32>| std::future::ready(Ok(keys.into_iter().map(|key| (key, key)).collect()));
    assert_eq!(gather.ask(3, works).await, Ok(Some(3)));
}

#[tokio::test(start_paused = true)]
async fn who_calls_for_others_and_is_cancelled_leaves_nobody_waiting() {
    for cancelled_after in [5, 11] {
        let (gather, calls) = (Arc::new(Gather::default()), Arc::new(AtomicUsize::new(0)));
        let first = tokio::spawn({
            let (gather, calls) = (Arc::clone(&gather), Arc::clone(&calls));
            async move { gather.ask(2, |keys| squares(Arc::clone(&calls), keys)).await }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn({
            let (gather, calls) = (Arc::clone(&gather), Arc::clone(&calls));
            async move { gather.ask(4, |keys| squares(Arc::clone(&calls), keys)).await }
        });
        sleep(Duration::from_millis(cancelled_after)).await;
        first.abort();
        assert_eq!(second.await.unwrap(), Ok(Some(16)), "cancelled after {cancelled_after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_a_call_is_made_shares_the_next_one() {
    let (gather, calls) = (Arc::new(Gather::default()), Arc::new(AtomicUsize::new(0)));
    let ask = |key: u32, after: u64| {
        let (gather, calls) = (Arc::clone(&gather), Arc::clone(&calls));
        tokio::spawn(async move {
            sleep(Duration::from_millis(after)).await;
            let fetch = |keys: Vec<u32>| {
                let calls = Arc::clone(&calls);
                async move {
                    calls.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_secs(1)).await;
                    Ok(keys.into_iter().map(|key| (key, key)).collect())
                }
            };
            gather.ask(key, fetch).await
        })
    };
    // One every 100 ms, while a call takes a second.
    let tasks: Vec<_> = (0..30).map(|n| (n, ask(n, u64::from(n) * 100))).collect();
    for (key, task) in tasks {
        assert_eq!(task.await.unwrap(), Ok(Some(key)));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 4, "the first alone, then ten at a time");
}

#[tokio::test(start_paused = true)]
async fn those_who_are_about_to_come_are_waited_for_and_not_for_ever() {
    let window = Duration::from_millis(100);
    for (come_until, waits) in [(0, 1), (2, 2), (99, 4)] {
        let (gather, calls) = (Arc::new(Gather::new(window, window * 4)), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        let ask = |key: u32| {
            let (gather, calls) = (Arc::clone(&gather), Arc::clone(&calls));
            tokio::spawn(async move {
                let more = || began.elapsed() < window * come_until;
                gather.ask_with(key, more, |keys| squares(Arc::clone(&calls), keys)).await.unwrap();
                began.elapsed()
            })
        };
        let first = ask(2);
        sleep(window * 3 / 2).await;
        let second = ask(4);
        let took = first.await.unwrap();
        assert!(took >= window * waits && took < window * (waits + 1), "{come_until}: {took:?}");
        second.await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), if waits == 1 { 2 } else { 1 });
    }
}
