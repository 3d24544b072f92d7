//! The dataplane as the loop calls it.
//!
//! Owns on which thread a call is made: on the loop's own, but for the first read of what stands, which takes another
//! thread's time while the lists still come in; and which calls are so short that no other thread is told of them. Leaves what
//! to call, and when, to the loop.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use portico_proxy_core::plan::Transaction;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{block_in_place, spawn_blocking},
};

use crate::dataplane::{Applied, Dataplane, DataplaneError, Observed};

/// What was read, and the number that the ruleset had before.
pub(super) type Read = Result<(u32, Observed), DataplaneError>;

/// Elements that the kernel takes in less time than another thread needs to go on with this one's tasks.
const FEW: usize = 256;

/// A dataplane, and what was read ahead of the loop.
pub(super) struct Caller {
    dataplane: Arc<Mutex<Box<dyn Dataplane>>>,
    ahead: Option<mpsc::Receiver<Read>>,
}

impl Caller {
    pub(super) fn new(dataplane: Box<dyn Dataplane>) -> Self {
        Self { dataplane: Arc::new(Mutex::new(dataplane)), ahead: None }
    }

    /// Makes a call that may take its time.
    pub(super) fn call<R>(&self, call: impl FnOnce(&mut dyn Dataplane) -> R) -> R {
        in_place(|| locked(&self.dataplane, call))
    }

    /// Makes the changes of one transaction.
    pub(super) fn apply(&self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        let apply = |dataplane: &mut dyn Dataplane| dataplane.apply(transaction);
        if transaction.len() <= FEW { locked(&self.dataplane, apply) } else { self.call(apply) }
    }

    /// Number of the kernel's current ruleset.
    pub(super) fn generation(&self) -> Result<u32, DataplaneError> {
        locked(&self.dataplane, |dataplane| dataplane.generation())
    }

    /// Begins to read what stands, on a thread of its own. To be called once, by who writes nothing before [`read`](Self::read).
    pub(super) fn read_ahead(&mut self) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let dataplane = Arc::clone(&self.dataplane);
        // Nobody receives it when the process is about to end.
        spawn_blocking(move || drop(sender.send(locked(&dataplane, read))));
        self.ahead = Some(receiver);
    }

    /// What was read ahead; otherwise reads now.
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

/// Makes a call into the kernel on the thread of the loop, which waits for it anyway: to wake another thread, and to be woken
/// by it, takes longer than most calls. The runtime lets another thread go on with this one's tasks.
fn in_place<R>(call: impl FnOnce() -> R) -> R {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => block_in_place(call),
        _ => call(),
    }
}
