//! Stopping at a chosen call, so that a test can kill the caller exactly there.
//!
//! Owns: [`Trap`]. Leaves to others: killing. Invariants: a trap springs once. The call that sprang it gets no answer; its
//! connection hangs until the trap is dropped, as it does for a caller that is about to die.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::call::{Call, Effect};

/// On which side of a call's effect it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The cloud never hears of it.
    Before,
    /// It took effect, and its caller never hears of that.
    After,
}

/// A trap that is set.
#[derive(Debug)]
pub struct Trap {
    sprung: watch::Receiver<bool>,
    /// Dropped with the trap: lets the call's connection go.
    _release: watch::Sender<()>,
}

impl Trap {
    /// Waits until a call is held in it.
    pub async fn sprung(&mut self) {
        // The other end lives in the proxy; if that went, nothing is held and nothing will be.
        if self.sprung.wait_for(|sprung| *sprung).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct Set {
    /// Writes still to pass.
    left: u64,
    moment: Moment,
    sprung: watch::Sender<bool>,
    release: watch::Receiver<()>,
}

/// A call that is held.
#[derive(Debug)]
pub(super) struct Caught {
    pub(super) moment: Moment,
    sprung: watch::Sender<bool>,
    release: watch::Receiver<()>,
}

impl Caught {
    /// Notifies the test, and waits until it drops the trap.
    pub(super) async fn hold(mut self) {
        self.sprung.send_replace(true);
        while self.release.changed().await.is_ok() {}
    }
}

/// The place for a trap.
#[derive(Clone, Debug, Default)]
pub(super) struct Traps(Arc<Mutex<Option<Set>>>);

impl Traps {
    /// Sets one for the `nth` write from now (1 is the next), instead of any that is set.
    pub(super) fn set(&self, nth: u64, moment: Moment) -> Trap {
        let (notify, sprung) = watch::channel(false);
        let (held, release) = watch::channel(());
        let set = Set { left: nth.saturating_sub(1), moment, sprung: notify, release };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(set);
        Trap { sprung, _release: held }
    }

    /// Whether this call is the one.
    pub(super) fn catch(&self, call: &Call) -> Option<Caught> {
        if call.kind.effect == Effect::Read {
            return None;
        }
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let set = place.as_mut()?;
        if set.left > 0 {
            set.left -= 1;
            return None;
        }
        let Set { left: _, moment, sprung, release } = place.take()?;
        Some(Caught { moment, sprung, release })
    }
}
