//! One class of calls to a cloud: waiting for leave, making the call, learning from its answer.
//!
//! Owns: [`Limiter`]. Leaves to others: arithmetic (`bucket`), order (`queue`). Invariants: whoever is first in the queue
//! sleeps until there is a token, the others until they are first. There is no task behind this. A waiter that is dropped
//! leaves the queue and wakes the next. No lock is held across an await. Between the [`Leave`] of a call and its first step
//! nothing is waited for.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::best::best;
use crate::bucket::{Admission, Bucket, Limit};
use crate::queue::{Priority, Queue};

/// How often a call is made that is throttled each time; then the caller is told, and its scheduler waits longer.
const ATTEMPTS: u32 = 6;

/// Who may forbid calls for a while, or for ever: whoever holds a lease that can be lost.
pub trait Leave: fmt::Debug + Send + Sync {
    /// Resolves while calls are allowed.
    fn given(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Admits calls of one class.
#[derive(Debug)]
pub struct Limiter {
    class: &'static str,
    state: Mutex<State>,
    leave: OnceLock<Arc<dyn Leave>>,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    queue: Queue<Ticket>,
    admitted: u64,
    throttled: u64,
    waited: Duration,
}

/// One that waits.
#[derive(Clone, Debug)]
struct Ticket(Arc<Notify>);

impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// How a limiter stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Which calls it is about: `elb-reads`.
    pub class: &'static str,
    /// Calls a second, as learnt so far.
    pub rate: f64,
    /// Calls that wait, by [`Priority::ALL`].
    pub waiting: [usize; 3],
    /// Calls that were let through since the start.
    pub admitted: u64,
    /// Calls that the cloud refused as too many.
    pub throttled: u64,
    /// What all calls waited, together.
    pub waited: Duration,
}

impl Limiter {
    /// One with a full bucket.
    pub fn new(class: &'static str, limit: Limit) -> Self {
        let state = State {
            bucket: Bucket::new(limit, Instant::now()),
            queue: Queue::new(),
            admitted: 0,
            throttled: 0,
            waited: Duration::ZERO,
        };
        Self { class, state: Mutex::new(state), leave: OnceLock::new() }
    }

    /// From now on every call also waits for this leave, last of all, right before it is made: however long it has waited
    /// for its turn, it is not made once leave is gone. Whoever gave it first keeps it.
    pub fn behind(&self, leave: Arc<dyn Leave>) {
        self.leave.get_or_init(|| leave);
    }

    /// Makes a call when it is its turn, and again while it is throttled, a few times: a throttled call did nothing, and
    /// what its caller has done so far is not lost by it. Any other answer is passed on. Work that was begun
    /// [`at_best`](crate::at_best) of a lower priority has that one.
    pub async fn call<T, E, F>(
        &self,
        priority: Priority,
        mut attempt: impl FnMut() -> F,
        is_throttled: impl Fn(&Result<T, E>) -> bool,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let priority = priority.max(best());
        let mut attempts = 1;
        loop {
            let admission = self.admit(priority).await;
            if let Some(leave) = self.leave.get() {
                leave.given().await;
            }
            let answer = attempt().await;
            let throttled = is_throttled(&answer);
            self.answered(admission, throttled);
            if !throttled || attempts == ATTEMPTS {
                return answer;
            }
            attempts += 1;
        }
    }

    /// How it stands.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let State { bucket, queue, admitted, throttled, waited } = &*state;
        Snapshot {
            class: self.class,
            rate: bucket.rate(),
            waiting: Priority::ALL.map(|priority| queue.waiting(priority)),
            admitted: *admitted,
            throttled: *throttled,
            waited: *waited,
        }
    }

    async fn admit(&self, priority: Priority) -> Admission {
        let began = Instant::now();
        let waiter = Waiter::queue(self, priority);
        loop {
            let token = {
                let mut state = self.state();
                if state.queue.first() == Some(&waiter.ticket) {
                    let token = state.bucket.take(Instant::now());
                    if token.is_ok() {
                        state.queue.served(priority, &waiter.ticket);
                        state.admitted += 1;
                        state.waited += began.elapsed();
                    }
                    Some(token)
                } else {
                    None
                }
            };
            match token {
                Some(Ok(admission)) => return admission, // dropping the waiter wakes the next
                Some(Err(after)) => sleep(after).await,
                None => waiter.ticket.0.notified().await,
            }
        }
    }

    fn answered(&self, admission: Admission, throttled: bool) {
        let mut state = self.state();
        let now = Instant::now();
        if throttled {
            state.throttled += 1;
            state.bucket.throttled(admission, now);
        } else {
            state.bucket.passed(admission, now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, until it is dropped.
struct Waiter<'a> {
    limiter: &'a Limiter,
    priority: Priority,
    ticket: Ticket,
}

impl<'a> Waiter<'a> {
    fn queue(limiter: &'a Limiter, priority: Priority) -> Self {
        let ticket = Ticket(Arc::new(Notify::new()));
        limiter.state().queue.push(priority, ticket.clone());
        Self { limiter, priority, ticket }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Self { limiter, priority, ticket } = self;
        let mut state = limiter.state();
        state.queue.remove(*priority, ticket);
        if let Some(Ticket(next)) = state.queue.first() {
            next.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
