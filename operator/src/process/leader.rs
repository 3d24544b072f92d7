//! Which of several operators works: a Lease, in the record format that client-go's elections use.
//!
//! Owns: the election. Leaves to others: the Lease's storage (`leader::store`), what leading means (the fence).
//! Invariants: a lease is judged by when this process saw it change, never by another machine's clock. The fence is open only
//! until the last renewal's start plus the renew deadline; another candidate may take over only later.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::process::fence::FenceKeeper;

pub(crate) mod store;

use store::{LeaseStore, Stored};

/// A candidate, and its timings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Unique among all candidates: the pod's name.
    pub(crate) identity: String,
    /// How long others wait after the last renewal they saw.
    pub(crate) lease_duration: Duration,
    /// How long a leader keeps trying to renew before it gives up. Shorter than `lease_duration`.
    pub(crate) renew_deadline: Duration,
    /// From one try to the next.
    pub(crate) retry_period: Duration,
}

/// `spec` of the Lease, as far as elections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) holder: Option<String>,
    pub(crate) duration: Duration,
    pub(crate) acquired: Option<Timestamp>,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) transitions: i32,
}

/// A Lease, and when this process first saw it like this.
#[derive(Clone, Debug)]
struct Seen {
    lease: Stored,
    since: Instant,
}

/// The next action of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    /// Writes this: to take the lease, or to renew it.
    Write(Record),
    /// Nothing: another candidate holds it.
    Stand,
}

/// Another candidate has the lease, or it could not be renewed in time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaderError {
    /// Another candidate holds it.
    #[error("the lease is held by {holder} now")]
    Taken { holder: String },
    /// It could not be renewed.
    #[error("the lease could not be renewed within {deadline:?}")]
    Expired { deadline: Duration },
}

impl LeaderError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "LeaseTaken",
            Self::Expired { .. } => "LeaseExpired",
        }
    }
}

fn decide(candidate: &Candidate, seen: Option<&Seen>, now: Instant, wall: Timestamp) -> Move {
    let Candidate { identity, lease_duration, renew_deadline: _, retry_period: _ } = candidate;
    let mine = Record {
        holder: Some(identity.clone()),
        duration: *lease_duration,
        acquired: Some(wall),
        renewed: Some(wall),
        transitions: 0,
    };
    let Some(Seen { lease, since }) = seen else { return Move::Write(mine) };
    let Record { holder, duration, acquired, renewed: _, transitions } = &lease.record;
    match holder.as_deref() {
        Some(holder) if holder == identity => {
            Move::Write(Record { acquired: acquired.or(Some(wall)), transitions: *transitions, ..mine })
        }
        Some(holder) if !holder.is_empty() && now < *since + *duration => Move::Stand,
        _ => Move::Write(Record { transitions: transitions.saturating_add(1), ..mine }),
    }
}

/// Takes part until `stop`, then hands the lease over. An error: it led, and does so no longer.
pub(crate) async fn lead<S: LeaseStore>(
    store: &S,
    candidate: &Candidate,
    keeper: &FenceKeeper,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), LeaderError> {
    let mut election = Election { store, candidate, seen: None, renewed: None };
    loop {
        let result = election.round().await;
        metrics.leading(election.renewed.is_some() && result.is_ok());
        match (result, election.renewed) {
            (Ok(()), Some(renewed)) => keeper.open(renewed + candidate.renew_deadline),
            (Ok(()), None) => {}
            (Err(error), _) => {
                keeper.close();
                return Err(error);
            }
        }
        tokio::select! {
            () = sleep(candidate.retry_period) => {}
            () = stop.cancelled() => break,
        }
    }
    keeper.close();
    metrics.leading(false);
    election.hand_over().await;
    Ok(())
}

struct Election<'a, S> {
    store: &'a S,
    candidate: &'a Candidate,
    seen: Option<Seen>,
    /// While leading: when the last successful renewal began.
    renewed: Option<Instant>,
}

impl<S: LeaseStore> Election<'_, S> {
    async fn round(&mut self) -> Result<(), LeaderError> {
        let began = Instant::now();
        // A leader writes on what it wrote last; only a conflict makes it read.
        if self.renewed.is_none() || self.seen.is_none() {
            self.read().await;
        }
        self.check_holder()?;
        if (self.renewed.is_some() || self.seen_this_round(began)) && self.write(began).await {
            self.renewed = Some(began);
        }
        let deadline = self.candidate.renew_deadline;
        match self.renewed {
            Some(renewed) if renewed.elapsed() >= deadline => Err(LeaderError::Expired { deadline }),
            _ => Ok(()),
        }
    }

    /// Nobody takes a lease on what was seen some time ago.
    fn seen_this_round(&self, began: Instant) -> bool {
        self.last_read().is_none_or(|read| read >= began)
    }

    fn last_read(&self) -> Option<Instant> {
        self.seen.as_ref().map(|seen| seen.lease.read)
    }

    fn check_holder(&self) -> Result<(), LeaderError> {
        let holder = self.seen.as_ref().and_then(|seen| seen.lease.record.holder.clone());
        match holder.filter(|holder| *holder != self.candidate.identity) {
            Some(holder) if self.renewed.is_some() => Err(LeaderError::Taken { holder }),
            _ => Ok(()),
        }
    }

    async fn read(&mut self) {
        match timeout(self.candidate.retry_period, self.store.read()).await {
            Ok(Ok(lease)) => self.saw(lease),
            Ok(Err(error)) => tracing::warn!(%error, "lease not read"),
            Err(_elapsed) => tracing::warn!("lease not read in time"),
        }
    }

    fn saw(&mut self, lease: Option<Stored>) {
        self.seen = lease.map(|lease| {
            let unchanged = self.seen.as_ref().filter(|seen| seen.lease.version == lease.version);
            Seen { since: unchanged.map_or_else(Instant::now, |seen| seen.since), lease }
        });
    }

    /// Whether the lease is ours afterwards.
    async fn write(&mut self, now: Instant) -> bool {
        let Move::Write(record) = decide(self.candidate, self.seen.as_ref(), now, Timestamp::now()) else {
            return false;
        };
        let version = self.seen.as_ref().map(|seen| seen.lease.version.clone());
        match timeout(self.candidate.retry_period, self.store.write(record, version)).await {
            Ok(Ok(lease)) => {
                self.saw(Some(lease));
                return true;
            }
            Ok(Err(error)) => tracing::warn!(%error, "lease not written"),
            Err(_elapsed) => tracing::warn!("lease not written in time"),
        }
        // Another candidate may have written, or it was written and the answer got lost: read before the next try.
        if self.renewed.is_some() {
            self.read().await;
        }
        false
    }

    /// Leaves the lease to whoever asks next, if it is ours.
    async fn hand_over(mut self) {
        if self.renewed.is_none() {
            return;
        }
        let Some(Seen { lease, since: _ }) = self.seen.take() else { return };
        let record = Record { holder: None, duration: Duration::from_secs(1), ..lease.record };
        match timeout(self.candidate.renew_deadline, self.store.write(record, Some(lease.version))).await {
            Ok(Ok(_released)) => tracing::info!("lease handed over"),
            Ok(Err(error)) => tracing::warn!(%error, "lease not handed over; it runs out by itself"),
            Err(_elapsed) => tracing::warn!("lease not handed over in time; it runs out by itself"),
        }
    }
}

#[cfg(test)]
mod tests;
