//! Calls of the loop to the dataplane.
//!
//! Owns the thread of each call: the loop's own, except for the first read, which runs beside the lists. Also
//! owns the limit below which a call is so short that no other thread takes over the loop's tasks. Leaves the
//! calls themselves to the loop.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use portico_proxy_core::plan::Transaction;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{block_in_place, spawn_blocking},
};

use crate::dataplane::{Applied, Dataplane, DataplaneError, Observed};

/// Result of a read, and the number of the ruleset before it.
pub(super) type Read = Result<(u32, Observed), DataplaneError>;

/// Number of elements that the kernel takes in less time than a switch of threads.
const FEW: usize = 256;

/// A dataplane, and the result of the early read.
pub(super) struct Caller {
    dataplane: Arc<Mutex<Box<dyn Dataplane>>>,
    ahead: Option<mpsc::Receiver<Read>>,
}

impl Caller {
    pub(super) fn new(dataplane: Box<dyn Dataplane>) -> Self {
        Self { dataplane: Arc::new(Mutex::new(dataplane)), ahead: None }
    }

    /// Makes a call that may block for long.
    pub(super) fn call<R>(&self, call: impl FnOnce(&mut dyn Dataplane) -> R) -> R {
        in_place(|| locked(&self.dataplane, call))
    }

    /// Commits one transaction.
    pub(super) fn apply(&self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        let apply = |dataplane: &mut dyn Dataplane| dataplane.apply(transaction);
        if transaction.len() <= FEW { locked(&self.dataplane, apply) } else { self.call(apply) }
    }

    /// Number of the kernel's current ruleset.
    pub(super) fn generation(&self) -> Result<u32, DataplaneError> {
        locked(&self.dataplane, |dataplane| dataplane.generation())
    }

    /// Begins to read on another thread. Call it once, and write nothing before [`read`](Self::read).
    pub(super) fn read_ahead(&mut self) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let dataplane = Arc::clone(&self.dataplane);
        // Nobody receives it when the process is about to end.
        spawn_blocking(move || drop(sender.send(locked(&dataplane, read))));
        self.ahead = Some(receiver);
    }

    /// The result of the early read, if there was one; otherwise reads now.
    pub(super) fn read(&mut self) -> Read {
        // Without a sender the other thread panicked, and so shall this one if there is a reason.
        let ahead = self.ahead.take().and_then(|ahead| in_place(|| ahead.recv()).ok());
        ahead.unwrap_or_else(|| self.call(read))
    }
}

fn read(dataplane: &mut dyn Dataplane) -> Read {
    let generation = dataplane.generation()?;
    Ok((generation, dataplane.read()?))
}

fn locked<R>(dataplane: &Mutex<Box<dyn Dataplane>>, call: impl FnOnce(&mut dyn Dataplane) -> R) -> R {
    call(&mut **dataplane.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Makes a call into the kernel on the loop's thread, which waits for it anyway. Waking another thread and
/// being woken takes longer than most calls. The runtime moves this thread's other tasks to another thread.
fn in_place<R>(call: impl FnOnce() -> R) -> R {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => block_in_place(call),
        _ => call(),
    }
}
