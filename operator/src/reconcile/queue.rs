//! The work queue: Services to reconcile, now or later.
//!
//! Owns: one entry per Service, delays, failures in a row, and never handing one Service to two workers. Leaves to others: the work.
//! Invariant: a Service added while a worker has it is handed out once more afterwards, so no change is missed. Of several moments
//! the earliest counts, since a reconcile that is early costs nothing.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::backoff;
use crate::cache::service::ServiceKey;

/// A queue of Services.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    ready: VecDeque<ServiceKey>,
    queued: HashSet<ServiceKey>,
    /// With a worker; `true`: added again meanwhile.
    active: HashMap<ServiceKey, bool>,
    later: BTreeSet<(Instant, ServiceKey)>,
    due: HashMap<ServiceKey, Instant>,
    /// Reconciles in a row that failed.
    failures: HashMap<ServiceKey, u32>,
    closed: bool,
}

impl QueueState {
    fn push(&mut self, key: ServiceKey) {
        if let Some(again) = self.active.get_mut(&key) {
            *again = true;
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn ripen(&mut self, now: Instant) {
        while let Some((due, key)) = self.later.pop_first() {
            if due > now {
                self.later.insert((due, key));
                return;
            }
            self.due.remove(&key);
            self.push(key);
        }
    }

    fn pop(&mut self) -> Option<ServiceKey> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.active.insert(key.clone(), false);
        Some(key)
    }
}

impl Queue {
    /// Queues a Service now.
    pub(crate) fn add(&self, key: ServiceKey) {
        self.lock().push(key);
        self.changed.notify_one();
    }

    /// Queues a Service at a moment, or earlier.
    pub(crate) fn add_at(&self, key: ServiceKey, due: Instant) {
        let mut state = self.lock();
        match state.due.get(&key) {
            Some(earlier) if *earlier <= due => return,
            Some(later) => {
                let put_off = (*later, key.clone());
                state.later.remove(&put_off);
            }
            None => {}
        }
        state.due.insert(key.clone(), due);
        state.later.insert((due, key));
        drop(state);
        self.changed.notify_one();
    }

    /// The next one, which nobody else gets until [`Queue::done`]; `None` once the queue is closed.
    pub(crate) async fn next(&self) -> Option<ServiceKey> {
        loop {
            let (taken, more, next_due) = {
                let mut state = self.lock();
                if state.closed {
                    self.changed.notify_one();
                    return None;
                }
                state.ripen(Instant::now());
                let taken = state.pop();
                (taken, !state.ready.is_empty(), state.later.first().map(|(due, _)| *due))
            };
            // One notification wakes one worker; whoever takes one of several passes it on.
            if more || taken.is_some() {
                self.changed.notify_one();
            }
            if taken.is_some() {
                return taken;
            }
            match next_due {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Queues a Service whose reconcile failed, later each time.
    pub(crate) fn retry(&self, key: &ServiceKey) {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let due = Instant::now() + backoff::delay(key, *failures);
        drop(state);
        self.add_at(key.clone(), due);
    }

    /// The reconcile did not fail, or the Service is gone.
    pub(crate) fn forget(&self, key: &ServiceKey) {
        self.lock().failures.remove(key);
    }

    /// The worker is through with it.
    pub(crate) fn done(&self, key: &ServiceKey) {
        let again = self.lock().active.remove(key) == Some(true);
        if again {
            self.add(key.clone());
        }
    }

    /// No more work; workers finish what they have.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// How many wait for a worker.
    pub(crate) fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_added_while_it_is_worked_on_comes_once_more_and_not_twice_at_once() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        let taken = queue.next().await.unwrap();
        assert_eq!(queue.depth(), 0, "added twice, queued once");
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.depth(), 0, "nobody gets it while a worker has it");
        queue.done(&taken);
        assert_eq!(queue.next().await, Some(key("a")));
        queue.done(&key("a"));
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_moments_the_earlier_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_at(key("a"), start + Duration::from_mins(1));
        queue.add_at(key("a"), start + Duration::from_secs(5));
        queue.add_at(key("a"), start + Duration::from_secs(30));
        assert_eq!(queue.next().await, Some(key("a")));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_comes_back_later_each_time_and_is_forgotten_with_its_last_failure() {
        let (queue, start) = (Queue::default(), Instant::now());
        for failures in 1..4 {
            queue.retry(&key("a"));
            queue.next().await.unwrap();
            queue.done(&key("a"));
            assert!(start.elapsed() >= Duration::from_millis(750) * ((1 << failures) - 1), "{failures}");
        }
        queue.forget(&key("a"));
        let QueueState { ready, queued, active, later, due, failures, closed: _ } = &*queue.lock();
        assert!(ready.is_empty() && queued.is_empty() && active.is_empty());
        assert!(later.is_empty() && due.is_empty() && failures.is_empty());
    }
}
