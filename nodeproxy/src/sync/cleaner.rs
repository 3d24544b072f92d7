//! Deletion of stale UDP flows: one listing at a time, on a thread of its own.
//!
//! Owns the frontends that endpoints may have left, until their flows were listed. Leaves to
//! [`portico_proxy_core::flows`] which flows are stale, and to [`Flows`] listing and deleting.
//!
//! Invariants: the flows of a frontend are listed once no packet can be on its way to an endpoint that left it.
//! All frontends that are due share one listing, and later ones share the next. Listings take at most one part
//! in [`LISTING_SHARE`] of the time. A failed one is retried, with growing pauses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::ExponentialBackoff;
use portico_proxy_core::{
    flows::{self, StaleFlows},
    model::Model,
    shadow::Moment,
    table::{Family, Frontend},
};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::conntrack::{Flows, FlowsError};

/// Share of the time for listings, because some nodes have many flows, and changes all day.
const LISTING_SHARE: Moment = 5;

/// Number of deleted flows of each family, or the error.
pub(super) type Deleted = Vec<(Family, Result<usize, FlowsError>)>;

/// A running listing and its frontends.
struct Listing {
    frontends: BTreeSet<Frontend>,
    began: Moment,
    task: JoinHandle<Deleted>,
}

/// Frontends with possibly stale flows.
pub(super) struct Cleaner {
    flows: Arc<Mutex<Box<dyn Flows>>>,
    /// By the time after which nothing leads to the endpoint that left.
    left: BTreeMap<Moment, BTreeSet<Frontend>>,
    /// Due, and not yet listed.
    due: BTreeSet<Frontend>,
    listing: Option<Listing>,
    /// Earliest time of the next listing.
    rest_until: Moment,
    pauses: ExponentialBackoff,
}

impl Cleaner {
    pub(super) fn new(flows: Box<dyn Flows>) -> Self {
        Self {
            flows: Arc::new(Mutex::new(flows)),
            left: BTreeMap::new(),
            due: BTreeSet::new(),
            listing: None,
            rest_until: 0,
            pauses: super::backoff(),
        }
    }

    /// Records frontends that endpoints may have left; since `now` nothing leads there.
    pub(super) fn left(&mut self, frontends: BTreeSet<Frontend>, now: Moment) {
        if !frontends.is_empty() {
            self.left.entry(now).or_default().extend(frontends);
        }
    }

    /// Time of the next step: entries are due `ripening` after they were recorded, and the pause must be over.
    pub(super) fn next(&self, ripening: Moment) -> Option<Moment> {
        let ripe = || self.left.keys().next().map(|left| left.saturating_add(ripening));
        let next = if self.due.is_empty() { ripe() } else { Some(0) };
        next.filter(|_| self.listing.is_none()).map(|next| next.max(self.rest_until))
    }

    /// Entries of `ripe` or before become due.
    pub(super) fn ripen(&mut self, ripe: Moment) {
        let later = self.left.split_off(&ripe.saturating_add(1));
        self.due.extend(std::mem::replace(&mut self.left, later).into_values().flatten());
    }

    /// Begins to list the flows of all due frontends, unless a listing runs or has just ended.
    pub(super) fn start(&mut self, model: &Model, now: Moment) {
        if self.due.is_empty() || self.listing.is_some() || now < self.rest_until {
            return;
        }
        let frontends = std::mem::take(&mut self.due);
        let stale = flows::stale_flows(model, frontends.iter().copied());
        let flows = Arc::clone(&self.flows);
        let task = spawn_blocking(move || {
            let mut flows = flows.lock().unwrap_or_else(PoisonError::into_inner);
            delete(&mut **flows, stale)
        });
        self.listing = Some(Listing { frontends, began: now, task });
    }

    /// Waits for the end of the running listing; for ever if there is none.
    pub(super) async fn over(&mut self) -> Result<Deleted, JoinError> {
        match &mut self.listing {
            Some(listing) => (&mut listing.task).await,
            None => std::future::pending().await,
        }
    }

    /// Records the end of a listing. After a failure its frontends are due again after a pause.
    pub(super) fn ended(&mut self, is_done: bool, now: Moment, ripening: Moment) {
        let Some(Listing { frontends, began, task: _ }) = self.listing.take() else { return };
        self.rest_until = began.saturating_add(ripening.max(LISTING_SHARE * now.saturating_sub(began)));
        if is_done {
            self.pauses = super::backoff();
            return;
        }
        let pause = self.pauses.next().unwrap_or(Duration::from_secs(30));
        self.left(frontends, now.saturating_add(Moment::try_from(pause.as_millis()).unwrap_or(Moment::MAX)));
    }

    /// Whether a listing runs.
    pub(super) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }
}

fn delete(flows: &mut dyn Flows, stale: Vec<StaleFlows>) -> Deleted {
    let (v4, v6): (Vec<_>, Vec<_>) =
        stale.into_iter().partition(|stale| Family::of(stale.frontend.address) == Family::V4);
    let families = [(Family::V4, v4), (Family::V6, v6)].into_iter().filter(|(_, stale)| !stale.is_empty());
    families.map(|(family, stale)| (family, flows.delete(&stale))).collect()
}
