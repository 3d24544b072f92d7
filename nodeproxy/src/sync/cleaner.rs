//! Stale UDP flows: whose flows to list, from when on, and one listing at a time, on a thread of its own.
//!
//! Owns the frontends that endpoints may have left, until the kernel has been asked for their flows. Leaves to
//! [`portico_proxy_core::flows`] which flows are stale and to [`Flows`] how they are found and deleted.
//!
//! Invariants: the flows of a frontend are listed once no packet can be on its way to an endpoint that left it; all frontends
//! that are due share one listing, and what comes due meanwhile shares the next; listings take at most one part in
//! [`LISTING_SHARE`] of the time; one that fails is made again, with growing pauses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::ExponentialBackoff;
use portico_proxy_core::{
    flows::{self, StaleFlows},
    ledger::Moment,
    model::Model,
    table::{Family, Frontend},
};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::conntrack::{Flows, FlowsError};

/// The part of the time that listings may take: on some nodes there are many flows, and changes all day.
const LISTING_SHARE: Moment = 5;

/// How many flows of each family were deleted, or why they were not.
pub(super) type Deleted = Vec<(Family, Result<usize, FlowsError>)>;

/// A listing under way, and whose flows it looks at.
struct Listing {
    frontends: BTreeSet<Frontend>,
    began: Moment,
    task: JoinHandle<Deleted>,
}

/// See the file's head.
pub(super) struct Cleaner {
    flows: Arc<Mutex<Box<dyn Flows>>>,
    /// By the moment after which nothing leads to what left.
    left: BTreeMap<Moment, BTreeSet<Frontend>>,
    /// Due, and not yet listed.
    due: BTreeSet<Frontend>,
    listing: Option<Listing>,
    /// No other begins before.
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

    /// Endpoints may have left these frontends, and since `now` nothing leads there.
    pub(super) fn left(&mut self, frontends: BTreeSet<Frontend>, now: Moment) {
        if !frontends.is_empty() {
            self.left.entry(now).or_default().extend(frontends);
        }
    }

    /// When there is something to do next: what was left has ripened for `ripening`, or the pause is over.
    pub(super) fn next(&self, ripening: Moment) -> Option<Moment> {
        let ripe = || self.left.keys().next().map(|left| left.saturating_add(ripening));
        let next = if self.due.is_empty() { ripe() } else { Some(0) };
        next.filter(|_| self.listing.is_none()).map(|next| next.max(self.rest_until))
    }

    /// What was left at `ripe` or before is due.
    pub(super) fn ripen(&mut self, ripe: Moment) {
        let later = self.left.split_off(&ripe.saturating_add(1));
        self.due.extend(std::mem::replace(&mut self.left, later).into_values().flatten());
    }

    /// Begins to list the flows of whatever is due, unless a listing is under way or was a moment ago.
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

    /// Waits until the listing under way is over; for ever if there is none.
    pub(super) async fn over(&mut self) -> Result<Deleted, JoinError> {
        match &mut self.listing {
            Some(listing) => (&mut listing.task).await,
            None => std::future::pending().await,
        }
    }

    /// Takes the end of a listing in. What failed is due again after a pause.
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

    /// Whether a listing is under way.
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
