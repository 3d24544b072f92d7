//! The order of permits, and the priorities that never starve.
//!
//! Owns: the checks of [`Permits`]. Leaves to others: what an attempt does. Invariant: no time passes but what waiting needs.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

async fn park(
    permits: &Arc<Permits>,
    priority: AttemptPriority,
    order: &Arc<Mutex<Vec<AttemptPriority>>>,
    set: &mut JoinSet<()>,
) {
    let before = permits.waiting(priority);
    let (permits_of_task, order) = (Arc::clone(permits), Arc::clone(order));
    set.spawn(async move {
        let permit = permits_of_task.acquire(priority).await.unwrap();
        order.lock().unwrap().push(priority);
        tokio::task::yield_now().await;
        drop(permit);
    });
    while permits.waiting(priority) == before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn deletions_and_target_changes_pass_many_creations_which_still_get_their_turns() {
    let permits = Permits::new(1);
    let held = permits.acquire(AttemptPriority::Creating).await.unwrap();
    let (order, mut set) = (Arc::default(), JoinSet::new());
    for _ in 0..100 {
        park(&permits, AttemptPriority::Creating, &order, &mut set).await;
    }
    for _ in 0..10 {
        park(&permits, AttemptPriority::Serving, &order, &mut set).await;
    }
    park(&permits, AttemptPriority::Auditing, &order, &mut set).await;
    drop(held);
    while set.join_next().await.is_some() {}
    let order = order.lock().unwrap();
    let last = |wanted| order.iter().rposition(|priority| *priority == wanted).unwrap();
    assert!(
        last(AttemptPriority::Serving) < 20,
        "ten of them within two rounds of turns: {:?}",
        &order[..24]
    );
    assert!(last(AttemptPriority::Auditing) < 10, "{:?}", &order[..24]);
    assert!(order[..8].contains(&AttemptPriority::Creating), "a creation is not starved either");
    assert_eq!(order.len(), 111);
}

#[tokio::test]
async fn a_change_passes_all_that_a_restart_has_to_catch_up_with() {
    let permits = Permits::new(1);
    let held = permits.acquire(AttemptPriority::CatchingUp).await.unwrap();
    let (order, mut set) = (Arc::default(), JoinSet::new());
    for _ in 0..100 {
        park(&permits, AttemptPriority::CatchingUp, &order, &mut set).await;
    }
    park(&permits, AttemptPriority::Serving, &order, &mut set).await;
    park(&permits, AttemptPriority::Creating, &order, &mut set).await;
    drop(held);
    while set.join_next().await.is_some() {}
    let order = order.lock().unwrap();
    let first = |wanted| order.iter().position(|priority| *priority == wanted).unwrap();
    assert!(first(AttemptPriority::Serving) < 2 && first(AttemptPriority::Creating) < 3, "{:?}", &order[..5]);
}

#[tokio::test]
async fn what_serves_finds_a_permit_although_creations_hold_all_that_they_may() {
    let permits = Permits::new(8);
    let at_once = |priority| permits.acquire(priority).now_or_never().flatten();
    let mut held: Vec<Permit> = (0..6).map(|_| at_once(AttemptPriority::Creating).unwrap()).collect();
    for others in [AttemptPriority::CatchingUp, AttemptPriority::Auditing] {
        assert!(at_once(others).is_none(), "{others:?}: two are reserved");
    }
    let (order, mut set) = (Arc::default(), JoinSet::new());
    park(&permits, AttemptPriority::Creating, &order, &mut set).await;
    drop([at_once(AttemptPriority::Serving).unwrap(), at_once(AttemptPriority::Serving).unwrap()]);
    assert_eq!(permits.waiting(AttemptPriority::Creating), 1, "what was reserved is not given to others");
    held.pop();
    while set.join_next().await.is_some() {}
    assert_eq!(order.lock().unwrap().len(), 1, "what they gave back is");
    held = (0..8).filter_map(|_| at_once(AttemptPriority::Serving)).collect();
    assert_eq!(held.len(), 3, "two reserved ones, and the one that nobody else holds");
}

#[tokio::test]
async fn who_gives_up_waiting_costs_nobody_a_turn() {
    let permits = Permits::new(1);
    let held = permits.acquire(AttemptPriority::Creating).await.unwrap();
    let mut set = JoinSet::new();
    let order = Arc::default();
    park(&permits, AttemptPriority::Serving, &order, &mut set).await;
    park(&permits, AttemptPriority::Serving, &order, &mut set).await;
    set.abort_all();
    while set.join_next().await.is_some() {}
    drop(held);
    assert!(permits.acquire(AttemptPriority::Creating).await.is_some(), "the permit is free again");
}

#[tokio::test]
async fn closed_permits_refuse_every_attempt_that_waits() {
    let permits = Permits::new(1);
    let held = permits.acquire(AttemptPriority::Creating).await.unwrap();
    let waits = tokio::spawn({
        let permits = Arc::clone(&permits);
        async move { permits.acquire(AttemptPriority::Serving).await.is_some() }
    });
    while permits.waiting(AttemptPriority::Serving) == 0 {
        tokio::task::yield_now().await;
    }
    permits.close();
    assert!(!waits.await.unwrap());
    drop(held);
    assert!(permits.acquire(AttemptPriority::Serving).await.is_none());
}

/// How many are inside, and how many there ever were.
#[derive(Debug, Default)]
struct Inside {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Inside {
    async fn stay(&self) {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

proptest! {
    #[test]
    fn there_are_never_more_at_once_than_allowed_and_everybody_gets_in(
        limit in 1usize..12,
        priorities in prop::collection::vec(0u8..4, 1..40),
    ) {
        runtime().block_on(async {
            let (permits, all, others) = (Permits::new(limit), Arc::new(Inside::default()), Arc::new(Inside::default()));
            let mut set = JoinSet::new();
            for priority in &priorities {
                let priority = match priority {
                    0 => AttemptPriority::Serving,
                    1 => AttemptPriority::Creating,
                    2 => AttemptPriority::CatchingUp,
                    _ => AttemptPriority::Auditing,
                };
                let (permits, all, others) = (Arc::clone(&permits), Arc::clone(&all), Arc::clone(&others));
                set.spawn(async move {
                    let _permit = permits.acquire(priority).await.unwrap();
                    if priority == AttemptPriority::Serving {
                        all.stay().await;
                    } else {
                        tokio::join!(all.stay(), others.stay());
                    }
                });
            }
            let mut entered = 0;
            while set.join_next().await.is_some() {
                entered += 1;
            }
            assert_eq!(entered, priorities.len());
            let (others_count, theirs) = (priorities.iter().filter(|it| **it > 0).count(), limit - limit / RESERVED);
            let is_full = others.most() == theirs.min(others_count);
            assert!(is_full || (others_count < priorities.len() && others.most() < theirs), "{others:?}");
            assert!(all.most() <= limit.min(priorities.len()), "{all:?}");
        });
    }
}
