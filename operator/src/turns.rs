//! How many goes are under way at once.
//!
//! Owns: the two lanes. Leaves to others: which lane a go is in (`reconcile`), how fast a provider is called (its limiters).
//! Invariants: what serves traffic never waits behind what is being made or taken down; goes of a lane begin in the order
//! in which they came. Without a bound a thousand new Services would share a cloud's ten calls a second, so that each took
//! as long as all of them, and none was ready before the last.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Enough to use up any cloud's rate; few enough that a call's wait for its turn there stays some seconds.
const AT_ONCE: usize = 16;

/// What a go is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Keeping up something that exists: its targets, its ports.
    Serving,
    /// Making something, or taking it down.
    Building,
}

/// Places for goes.
#[derive(Debug)]
pub(crate) struct Turns {
    serving: Semaphore,
    building: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { serving: Semaphore::new(AT_ONCE), building: Semaphore::new(AT_ONCE) }
    }
}

impl Turns {
    /// Waits for a place; `None`: there will be none any more.
    pub(crate) async fn take(&self, lane: Lane) -> Option<SemaphorePermit<'_>> {
        let places = match lane {
            Lane::Serving => &self.serving,
            Lane::Building => &self.building,
        };
        places.acquire().await.ok()
    }

    /// Nobody gets a place any more.
    pub(crate) fn close(&self) {
        self.serving.close();
        self.building.close();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_serves_does_not_wait_behind_what_is_built_and_closing_frees_all() {
        let turns = Turns::default();
        let building = futures::future::join_all((0..AT_ONCE).map(|_| turns.take(Lane::Building))).await;
        assert!(building.iter().all(Option::is_some));
        let one_more = turns.take(Lane::Building).fuse();
        futures::pin_mut!(one_more);
        assert!(one_more.as_mut().now_or_never().is_none(), "all places are taken");
        assert!(turns.take(Lane::Serving).now_or_never().flatten().is_some());
        turns.close();
        assert!(one_more.await.is_none());
    }
}
