//! The concurrency limiter of attempts, and the order in which they get permits.
//!
//! Owns: [`Permits`], its permits and the order among those that wait. Leaves to others: what an attempt does, and how fast a
//! provider may be called (its own limiter).
//! Invariants: there are never more than `limit` permits, and a quarter of them are for what serves. Within a priority, the first
//! attempt that waits comes first. Every priority gets its share of the turns, so a thousand creations delay no deletion, and a
//! rollout delays no creation. An attempt that waits is a parked task, not a worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The priority of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AttemptPriority {
    /// Something serves and has to change (targets most of all), or is to be deleted.
    Serving,
    /// A load balancer is to be created.
    Creating,
    /// Something serves, and differs from what is wanted since before this process began: what changed while nobody ran.
    /// There may be as many of these as there are Services, and none is newer than the others.
    CatchingUp,
    /// No difference is known; the attempt only checks.
    Auditing,
}

impl AttemptPriority {
    /// In the order of their urgency.
    pub(crate) const ALL: [Self; 4] = [Self::Serving, Self::Creating, Self::CatchingUp, Self::Auditing];
}

/// The priority of each turn: of ten permits given while all wait, five go to `Serving`, two to `Creating`, two to `CatchingUp`, one to
/// `Auditing`. A turn that no attempt of its priority waits for is the next priority's.
const TURNS: [AttemptPriority; 10] = {
    use AttemptPriority::{Auditing, CatchingUp, Creating, Serving};
    [Serving, Creating, Serving, CatchingUp, Serving, Creating, Serving, CatchingUp, Serving, Auditing]
};

/// One in so many permits is for [`AttemptPriority::Serving`] alone. Goes that make things wait for the provider's limits with a
/// permit in their hands; looks at what they have made pass them all together, and so share calls.
const RESERVED: usize = 4;

/// The concurrency limiter.
#[derive(Debug)]
pub(crate) struct Permits {
    state: Mutex<PermitState>,
}

#[derive(Debug)]
struct PermitState {
    free: usize,
    /// Permits that others than [`AttemptPriority::Serving`] may still get.
    free_to_others: usize,
    turn: usize,
    closed: bool,
    serving: VecDeque<Waiter>,
    creating: VecDeque<Waiter>,
    catching_up: VecDeque<Waiter>,
    auditing: VecDeque<Waiter>,
}

type Waiter = oneshot::Sender<Permit>;

/// The right to run; dropping it lets the next attempt run.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Option<Arc<Permits>>,
    priority: AttemptPriority,
}

impl PermitState {
    fn has_room(&self, priority: AttemptPriority) -> bool {
        self.free > 0 && (priority == AttemptPriority::Serving || self.free_to_others > 0)
    }

    fn take(&mut self, priority: AttemptPriority) {
        self.free -= 1;
        if priority != AttemptPriority::Serving {
            self.free_to_others -= 1;
        }
    }

    fn give_back(&mut self, priority: AttemptPriority) {
        self.free += 1;
        if priority != AttemptPriority::Serving {
            self.free_to_others += 1;
        }
    }

    fn line(&mut self, priority: AttemptPriority) -> &mut VecDeque<Waiter> {
        match priority {
            AttemptPriority::Serving => &mut self.serving,
            AttemptPriority::Creating => &mut self.creating,
            AttemptPriority::CatchingUp => &mut self.catching_up,
            AttemptPriority::Auditing => &mut self.auditing,
        }
    }

    /// The next one that there is a permit for, which is taken.
    fn next(&mut self) -> Option<(AttemptPriority, Waiter)> {
        let (before, from) = TURNS.split_at(self.turn);
        let order = [from, before].concat();
        let (priority, waiter) = order.into_iter().find_map(|priority| {
            let waiter = if self.has_room(priority) { self.line(priority).pop_front() } else { None };
            Some((priority, waiter?))
        })?;
        self.take(priority);
        self.turn = (self.turn + 1) % TURNS.len();
        Some((priority, waiter))
    }
}

impl Permits {
    /// At most `limit` at once.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let [serving, creating, catching_up, auditing] = Default::default();
        let free_to_others = limit - limit / RESERVED;
        let (turn, closed) = (0, false);
        let state = PermitState {
            free: limit,
            free_to_others,
            turn,
            closed,
            serving,
            creating,
            catching_up,
            auditing,
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Waits for a turn; `None`: the permits closed, nothing may begin any more.
    pub(crate) async fn acquire(self: &Arc<Self>, priority: AttemptPriority) -> Option<Permit> {
        let turn = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            if state.has_room(priority) {
                state.take(priority);
                return Some(Permit { permits: Some(Arc::clone(self)), priority });
            }
            let (sender, turn) = oneshot::channel();
            state.line(priority).push_back(sender);
            turn
        };
        turn.await.ok()
    }

    /// Gives no permit any more; attempts that wait get `None`.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.serving.clear();
        state.creating.clear();
        state.catching_up.clear();
        state.auditing.clear();
    }

    /// Attempts of a priority that wait.
    pub(crate) fn waiting(&self, priority: AttemptPriority) -> usize {
        self.lock().line(priority).len()
    }

    /// Returns a permit and hands it to the next attempt.
    fn release(self: Arc<Self>, mut priority: AttemptPriority) {
        loop {
            let next = {
                let mut state = self.lock();
                state.give_back(priority);
                state.next()
            };
            let Some((of, waiter)) = next else { return };
            let Err(mut refused) = waiter.send(Permit { permits: Some(Arc::clone(&self)), priority: of })
            else {
                return;
            };
            // It no longer waits; the next one then. This permit must not come here again when dropped.
            refused.permits = None;
            priority = of;
        }
    }

    fn lock(&self) -> MutexGuard<'_, PermitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = self.permits.take() {
            permits.release(self.priority);
        }
    }
}

#[cfg(test)]
mod tests;
