//! Budget of open files of this process.
//!
//! Owns the budget: every socket of the proxy takes its share first. At the limit a client waits or the idlest
//! flow is closed, and no system call fails. Invariants: nothing here spins. An exhausted budget is reported,
//! with its remedy, at most once a minute.

use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant},
};

/// Files for the rest of the process: watches, servers, netlink.
const RESERVE: u64 = 256;
/// Interval of reports about an exhausted budget.
const SAY_EVERY: Duration = Duration::from_mins(1);
/// Upper bound of the budget.
const MOST: u64 = 1 << 24;

/// A share of the budget, returned on drop.
pub type Share = OwnedSemaphorePermit;

/// Number of open files that the proxy may have.
#[derive(Debug)]
pub struct Files {
    limit: u64,
    budget: Arc<Semaphore>,
    said: Mutex<Option<Instant>>,
}

/// Raises the limit of open files as far as this process may, and returns it.
pub fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return RESERVE * 2 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files stays as it is");
            soft
        }
    }
}

impl Files {
    /// The budget of a process with this limit.
    pub fn new(limit: u64) -> Self {
        let budget = limit.min(MOST).saturating_sub(RESERVE);
        let budget = Arc::new(Semaphore::new(usize::try_from(budget).unwrap_or(0)));
        Self { limit, budget, said: Mutex::default() }
    }

    /// A share of so many files, if there are any left.
    pub fn try_take(&self, files: u32) -> Option<Share> {
        self.budget.clone().try_acquire_many_owned(files).ok()
    }

    /// Waits for a share of so many files.
    pub async fn take(&self, files: u32) -> Share {
        if let Some(share) = self.try_take(files) {
            return share;
        }
        self.exhausted();
        // Only a closed semaphore refuses, and nobody closes this one.
        match self.budget.clone().acquire_many_owned(files).await {
            Ok(share) => share,
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Reports the exhausted budget, unless that was just done.
    pub fn exhausted(&self) {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|said| now.duration_since(said) < SAY_EVERY) {
            return;
        }
        *said = Some(now);
        let limit = self.limit;
        tracing::warn!(
            limit,
            "the userspace proxy has as many connections as it may have open files: new ones wait, and idle UDP flows are \
             closed; raise the process's limit (LimitNOFILE, or the container runtime's default), use --udp-timeout, or use \
             --dataplane=nftables, which needs no file for a connection"
        );
    }
}

/// Whether a call failed because this process or this machine may open no more files.
pub fn is_exhausted(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let limit = raise_limit();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft), Ok(limit));
    }

    #[tokio::test]
    async fn who_finds_no_file_waits_for_one_that_is_given_back() {
        let files = Arc::new(Files::new(RESERVE + 2));
        let first = files.try_take(2).expect("two");
        assert!(files.try_take(1).is_none());
        let waiter = tokio::spawn({
            let files = files.clone();
            async move { drop(files.take(2).await) }
        });
        drop(first);
        waiter.await.expect("no panic");
    }
}
