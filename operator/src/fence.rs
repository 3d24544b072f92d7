//! Whether this process still may change anything.
//!
//! Owns: [`Fence`], open while the lease is certainly ours. Leaves to others: the lease (`leader`), looking at the
//! fence before each write (`cluster`, `operation`).
//! Invariant: it closes by itself when the lease was not renewed in time, even if nothing else in the process runs.

use tokio::sync::watch;
use tokio::time::Instant;

/// Read side of the fence.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    open_until: watch::Receiver<Option<Instant>>,
}

/// Who opens and closes it.
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
        self.open_until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Resolves once it is open.
    pub(crate) async fn opened(&mut self) {
        // The keeper lives as long as the process; without it nothing opens any more.
        if self.open_until.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl FenceKeeper {
    /// Opens it until a moment, or moves that moment.
    pub(crate) fn open(&self, until: Instant) {
        self.open_until.send_replace(Some(until));
    }

    /// Closes it.
    pub(crate) fn close(&self) {
        self.open_until.send_replace(None);
    }
}
