//! The leadership guard: whether this process may change anything.
//!
//! Owns: [`Fence`], open while the lease is certainly ours. Leaves to others: the lease (`leader`), checking the
//! fence before each write (`api`) and each request to the provider (its limiters), and aborting calls
//! when it closes (`calls`).
//! Invariant: it closes by itself when the lease was not renewed in time, even if nothing else in the process runs.

use std::pin::Pin;

use portico_limits::Leave;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Read side of the fence.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    open_until: watch::Receiver<Option<Instant>>,
}

/// The write side, which opens and closes it.
#[derive(Debug)]
pub(crate) struct FenceKeeper {
    open_until: watch::Sender<Option<Instant>>,
}

/// A closed one.
pub(crate) fn fence() -> (FenceKeeper, Fence) {
    let (sender, receiver) = watch::channel(None);
    (FenceKeeper { open_until: sender }, Fence { open_until: receiver })
}

impl Fence {
    /// Whether writing is allowed at this moment.
    pub(crate) fn is_open(&self) -> bool {
        is_open(*self.open_until.borrow())
    }

    /// Resolves while it is open.
    pub(crate) async fn opened(&self) {
        let mut open_until = self.open_until.clone();
        // The keeper lives as long as the process; without it nothing opens any more.
        if open_until.wait_for(|until| is_open(*until)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves while it is closed.
    pub(crate) async fn closed(&self) {
        let mut open_until = self.open_until.clone();
        loop {
            let Some(until) = open_until.borrow_and_update().filter(|until| Instant::now() < *until) else {
                return;
            };
            tokio::select! {
                () = sleep_until(until) => {}
                Ok(()) = open_until.changed() => {}
            }
        }
    }
}

fn is_open(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() < until)
}

impl Leave for Fence {
    fn given(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.opened())
    }
}

impl FenceKeeper {
    /// Opens it until a moment, or moves that moment.
    pub(crate) fn open(&self, until: Instant) {
        self.open_until.send_replace(Some(until));
    }

    /// Closes it at once.
    pub(crate) fn close(&self) {
        self.open_until.send_replace(None);
    }
}
