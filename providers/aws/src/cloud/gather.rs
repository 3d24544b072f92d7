//! Questions asked within a moment of one another, answered by one call.
//!
//! Owns: [`Gather`]: who waits, who calls, whose answer is whose. Leaves to others: what is called (`batches`).
//! Invariants:
//! - Each asker gets the answer to its own question, or the error, from a call that began after it asked.
//! - While one call waits for its turn or its answer, later askers gather for the next call.
//! - If the asker that makes the call is cancelled, the others ask again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, oneshot};
use tokio::time::{Instant, sleep};

use super::Answer;

/// How long the first one waits for others by default.
const WINDOW: Duration = Duration::from_millis(10);

type Reply<V> = oneshot::Sender<Answer<Option<V>>>;

/// Questions `K`, answers `V`.
#[derive(Debug)]
pub(crate) struct Gather<K, V> {
    state: Mutex<State<K, V>>,
    /// Held by the one who calls: under a limit calls take long, and the longer, the more share the next.
    turn: Turn<()>,
    window: Duration,
    patience: Duration,
}

#[derive(Debug)]
struct State<K, V> {
    waiting: Vec<(K, Reply<V>)>,
    /// Somebody waits for the end of the window, to ask for all.
    led: bool,
}

impl<K, V> Default for Gather<K, V> {
    fn default() -> Self {
        Self::new(WINDOW, WINDOW)
    }
}

/// The one who asks for all; dropped before it took them, it leaves the questions to be asked again.
struct Lead<'a, K, V>(&'a Gather<K, V>);

impl<K, V> Lead<'_, K, V> {
    fn take(self) -> Vec<(K, Reply<V>)> {
        mem::take(&mut self.0.state().waiting)
    }
}

impl<K, V> Drop for Lead<'_, K, V> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.led = false;
        state.waiting.clear();
    }
}

impl<K, V> Gather<K, V> {
    /// `window`: how long the first one waits for others; `patience`: for those who are said to come.
    pub(crate) fn new(window: Duration, patience: Duration) -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), led: false });
        Self { state, turn: Turn::default(), window: window.max(WINDOW), patience }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone, V: Clone> Gather<K, V> {
    /// Asks `key`; `fetch` asks for several at once, and leaves out what there is no answer to.
    pub(crate) async fn ask<F, Fetch>(&self, key: K, fetch: F) -> Answer<Option<V>>
    where
        F: Fn(Vec<K>) -> Fetch,
        Fetch: Future<Output = Answer<BTreeMap<K, V>>>,
    {
        self.ask_with(key, || false, fetch).await
    }

    /// The same; after the window the first one waits for as long as `more` says that others are about to come, and he has
    /// patience.
    pub(crate) async fn ask_with<F, Fetch>(
        &self,
        key: K,
        more: impl Fn() -> bool,
        fetch: F,
    ) -> Answer<Option<V>>
    where
        F: Fn(Vec<K>) -> Fetch,
        Fetch: Future<Output = Answer<BTreeMap<K, V>>>,
    {
        loop {
            let (reply, answer) = oneshot::channel();
            let leads = {
                let mut state = self.state();
                state.waiting.push((key.clone(), reply));
                !mem::replace(&mut state.led, true)
            };
            if leads {
                let lead = Lead(self);
                let began = Instant::now();
                sleep(self.window).await;
                while began.elapsed() < self.patience && more() {
                    sleep(self.window).await;
                }
                let turn = self.turn.lock().await;
                let asked = lead.take();
                let keys: BTreeSet<K> = asked.iter().map(|(key, _)| key.clone()).collect();
                let answers = fetch(keys.into_iter().collect()).await;
                drop(turn);
                for (key, reply) in asked {
                    let own = answers.as_ref().map(|all| all.get(&key).cloned()).map_err(Clone::clone);
                    // Whoever no longer waits needs no answer.
                    reply.send(own).ok();
                }
            }
            if let Ok(answer) = answer.await {
                return answer;
            }
        }
    }
}

#[cfg(test)]
mod tests;
