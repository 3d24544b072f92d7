//! How many goes may talk to the provider at once, and who is next.
//!
//! Owns: [`Gate`], its permits and the order among those that wait. Leaves to others: what a go does, and how fast a
//! provider may be called (its own limiter).
//! Invariants: never more than `limit` permits at once; first come, first served within a priority; every priority
//! gets its share of the turns, so neither a thousand creations hold up a deletion nor a rollout a creation; whoever
//! waits is a parked task, not a worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelValue;
use tokio::sync::oneshot;

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Priority {
    /// Something serves and has to change (targets most of all), or is to be deleted.
    Serving,
    /// Something is to be made.
    Making,
    /// Something serves, and differs from what is wanted since before this process began: what changed while nobody ran.
    /// There may be as many of these as there are Services, and none is newer than the others.
    CatchingUp,
    /// Nothing is known to be wrong; somebody looks whether it is so.
    Checking,
}

impl Priority {
    /// Every one.
    pub(crate) const ALL: [Self; 4] = [Self::Serving, Self::Making, Self::CatchingUp, Self::Checking];
}

/// Whose turn it is: of ten permits given while all wait, five go to `Serving`, two to `Making`, two to `CatchingUp`, one to
/// `Checking`. A turn nobody of that priority waits for goes to the first in this order who does.
const TURNS: [Priority; 10] = {
    use Priority::{CatchingUp, Checking, Making, Serving};
    [Serving, Making, Serving, CatchingUp, Serving, Making, Serving, CatchingUp, Serving, Checking]
};

/// A limit on what goes on at once.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    turn: usize,
    closed: bool,
    serving: VecDeque<Waiter>,
    making: VecDeque<Waiter>,
    catching_up: VecDeque<Waiter>,
    checking: VecDeque<Waiter>,
}

type Waiter = oneshot::Sender<Permit>;

/// The right to go; dropping it lets the next one go.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Option<Arc<Gate>>,
}

impl State {
    fn line(&mut self, priority: Priority) -> &mut VecDeque<Waiter> {
        match priority {
            Priority::Serving => &mut self.serving,
            Priority::Making => &mut self.making,
            Priority::CatchingUp => &mut self.catching_up,
            Priority::Checking => &mut self.checking,
        }
    }

    fn next(&mut self) -> Option<Waiter> {
        let (before, from) = TURNS.split_at(self.turn);
        let order = [from, before].concat();
        let waiter = order.into_iter().find_map(|priority| self.line(priority).pop_front())?;
        self.turn = (self.turn + 1) % TURNS.len();
        Some(waiter)
    }
}

impl Gate {
    /// At most `limit` at once.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let [serving, making, catching_up, checking] = Default::default();
        let state = State { free: limit, turn: 0, closed: false, serving, making, catching_up, checking };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Waits for a turn; `None`: the gate closed, nothing may begin any more.
    pub(crate) async fn enter(self: &Arc<Self>, priority: Priority) -> Option<Permit> {
        let turn = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            if state.free > 0 {
                state.free -= 1;
                return Some(Permit { gate: Some(Arc::clone(self)) });
            }
            let (sender, turn) = oneshot::channel();
            state.line(priority).push_back(sender);
            turn
        };
        turn.await.ok()
    }

    /// Lets nobody in any more; who waits is sent away.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.serving.clear();
        state.making.clear();
        state.catching_up.clear();
        state.checking.clear();
    }

    /// How many wait.
    pub(crate) fn waiting(&self, priority: Priority) -> usize {
        self.lock().line(priority).len()
    }

    fn leave(self: Arc<Self>) {
        let mut permit = Permit { gate: None };
        loop {
            let Some(waiter) = ({
                let mut state = self.lock();
                let next = state.next();
                if next.is_none() {
                    state.free += 1;
                }
                next
            }) else {
                return;
            };
            permit.gate = Some(Arc::clone(&self));
            match waiter.send(permit) {
                Ok(()) => return,
                // It no longer waits; the next one then. This permit must not come here again when dropped.
                Err(refused) => permit = refused,
            }
            permit.gate = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;
    use tokio::task::JoinSet;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    async fn park(
        gate: &Arc<Gate>,
        priority: Priority,
        order: &Arc<Mutex<Vec<Priority>>>,
        set: &mut JoinSet<()>,
    ) {
        let before = gate.waiting(priority);
        let (gate_of_task, order) = (Arc::clone(gate), Arc::clone(order));
        set.spawn(async move {
            let permit = gate_of_task.enter(priority).await.unwrap();
            order.lock().unwrap().push(priority);
            tokio::task::yield_now().await;
            drop(permit);
        });
        while gate.waiting(priority) == before {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn deletions_and_target_changes_pass_a_crowd_of_creations_which_still_get_their_turns() {
        let gate = Gate::new(1);
        let held = gate.enter(Priority::Making).await.unwrap();
        let (order, mut set) = (Arc::default(), JoinSet::new());
        for _ in 0..100 {
            park(&gate, Priority::Making, &order, &mut set).await;
        }
        for _ in 0..10 {
            park(&gate, Priority::Serving, &order, &mut set).await;
        }
        park(&gate, Priority::Checking, &order, &mut set).await;
        drop(held);
        while set.join_next().await.is_some() {}
        let order = order.lock().unwrap();
        let last = |wanted| order.iter().rposition(|priority| *priority == wanted).unwrap();
        assert!(last(Priority::Serving) < 20, "ten of them within two rounds of turns: {:?}", &order[..24]);
        assert!(last(Priority::Checking) < 10, "{:?}", &order[..24]);
        assert!(order[..8].contains(&Priority::Making), "a creation is not starved either");
        assert_eq!(order.len(), 111);
    }

    #[tokio::test]
    async fn a_change_passes_all_that_a_restart_has_to_catch_up_with() {
        let gate = Gate::new(1);
        let held = gate.enter(Priority::CatchingUp).await.unwrap();
        let (order, mut set) = (Arc::default(), JoinSet::new());
        for _ in 0..100 {
            park(&gate, Priority::CatchingUp, &order, &mut set).await;
        }
        park(&gate, Priority::Serving, &order, &mut set).await;
        park(&gate, Priority::Making, &order, &mut set).await;
        drop(held);
        while set.join_next().await.is_some() {}
        let order = order.lock().unwrap();
        let first = |wanted| order.iter().position(|priority| *priority == wanted).unwrap();
        assert!(first(Priority::Serving) < 2 && first(Priority::Making) < 3, "{:?}", &order[..5]);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_costs_nobody_a_turn() {
        let gate = Gate::new(1);
        let held = gate.enter(Priority::Making).await.unwrap();
        let mut set = JoinSet::new();
        let order = Arc::default();
        park(&gate, Priority::Serving, &order, &mut set).await;
        park(&gate, Priority::Serving, &order, &mut set).await;
        set.abort_all();
        while set.join_next().await.is_some() {}
        drop(held);
        assert!(gate.enter(Priority::Making).await.is_some(), "the permit is free again");
    }

    #[tokio::test]
    async fn a_closed_gate_sends_everybody_away() {
        let gate = Gate::new(1);
        let held = gate.enter(Priority::Making).await.unwrap();
        let waits = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(Priority::Serving).await.is_some() }
        });
        while gate.waiting(Priority::Serving) == 0 {
            tokio::task::yield_now().await;
        }
        gate.close();
        assert!(!waits.await.unwrap());
        drop(held);
        assert!(gate.enter(Priority::Serving).await.is_none());
    }

    proptest! {
        #[test]
        fn there_are_never_more_at_once_than_allowed_and_everybody_gets_in(
            limit in 1usize..5,
            priorities in prop::collection::vec(0u8..4, 1..40),
        ) {
            runtime().block_on(async {
                let (gate, inside, most) = (Gate::new(limit), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
                let mut set = JoinSet::new();
                for priority in &priorities {
                    let priority = match priority {
                        0 => Priority::Serving,
                        1 => Priority::Making,
                        2 => Priority::CatchingUp,
                        _ => Priority::Checking,
                    };
                    let (gate, inside, most) = (Arc::clone(&gate), Arc::clone(&inside), Arc::clone(&most));
                    set.spawn(async move {
                        let _permit = gate.enter(priority).await.unwrap();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                    });
                }
                let mut entered = 0;
                while set.join_next().await.is_some() {
                    entered += 1;
                }
                assert_eq!(entered, priorities.len());
                assert_eq!(most.load(Ordering::SeqCst), limit.min(priorities.len()));
            });
        }
    }
}
