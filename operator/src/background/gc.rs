//! Load balancers that no Service claims: a Service deleted by force, a finalizer stripped by hand.
//!
//! Owns: [`Collector`]. Leaves to others: the deletion (an attempt, as for a release).
//! Invariants: a load balancer is deleted only if it was unclaimed in two scans, a grace period apart, and a read of the API
//! server past the cache finds no Service that claims it. Never are more deleted at a time than `limit` allows. A load balancer
//! that another Portico operator of this cluster holds is claimed; those of another cluster are never read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use portico_provider::{LoadBalancerProvider, Owner, ServiceUid};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cache::service::{self, ServiceKey};
use crate::metrics::{Collected, Metrics};
use crate::provision::track::Decision;
use crate::provision::want::Want;
use crate::provision::{Provisioner, Request};
use crate::reconcile::Reconciler;
use crate::reconcile::api::Cluster;

pub(crate) mod limit;

use limit::{Allowance, DeletionLimits};

/// Unclaimed load balancers, and since when.
#[derive(Debug)]
pub(crate) struct Suspects {
    since: BTreeMap<ServiceUid, Instant>,
    allowance: Allowance,
}

/// The result of one scan.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Scan {
    /// Unclaimed for the first time.
    suspected: Vec<Owner>,
    /// Unclaimed for longer than the grace period.
    doomed: Vec<Owner>,
    /// No longer there, or claimed again.
    cleared: Vec<ServiceUid>,
}

impl Suspects {
    pub(crate) fn new(limits: DeletionLimits) -> Self {
        Self { since: BTreeMap::new(), allowance: Allowance::new(limits) }
    }

    /// Compares what exists with what is claimed.
    pub(crate) fn scan(
        &mut self,
        existing: Vec<Owner>,
        claimed: &BTreeSet<ServiceUid>,
        now: Instant,
        grace: Duration,
    ) -> Scan {
        let mut scan = Scan::default();
        let unclaimed: Vec<Owner> =
            existing.into_iter().filter(|owner| !claimed.contains(&owner.service)).collect();
        let still: BTreeSet<&ServiceUid> = unclaimed.iter().map(|owner| &owner.service).collect();
        scan.cleared = self.since.keys().filter(|uid| !still.contains(uid)).cloned().collect();
        self.since.retain(|uid, _| still.contains(uid));
        for owner in unclaimed {
            match self.since.get(&owner.service) {
                None => {
                    self.since.insert(owner.service.clone(), now);
                    scan.suspected.push(owner);
                }
                Some(since) if now.duration_since(*since) >= grace => scan.doomed.push(owner),
                Some(_) => {}
            }
        }
        scan
    }
}

/// The collector of load balancers that no Service claims.
pub(crate) struct Collector<P: LoadBalancerProvider, C> {
    reconciler: Arc<Reconciler<P, C>>,
    provisioner: Arc<Provisioner<P>>,
    metrics: Metrics,
    grace: Duration,
    suspects: Suspects,
}

impl<P: LoadBalancerProvider, C: Cluster> Collector<P, C> {
    /// `grace`: how long a load balancer is unclaimed before it is deleted.
    pub(crate) fn new(
        reconciler: &Arc<Reconciler<P, C>>,
        metrics: Metrics,
        grace: Duration,
        limits: DeletionLimits,
    ) -> Self {
        let (reconciler, provisioner) = (Arc::clone(reconciler), Arc::clone(reconciler.provisioner()));
        Self { reconciler, provisioner, metrics, grace, suspects: Suspects::new(limits) }
    }

    /// Collects every half grace period.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval((self.grace / 2).max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let is_known = self.reconciler.cache().is_synced() && self.provisioner.is_loaded();
            if is_known && self.provisioner.may_work() {
                self.collect_once().await;
            }
        }
    }

    /// One scan, and the deletions that follow from it.
    pub(crate) async fn collect_once(&mut self) {
        // What exists first: a Service created between the two reads is then claimed and its load balancer not seen.
        let existing = self.provisioner.owners();
        let count = existing.len();
        let claimed = self.claimed();
        let scan = self.suspects.scan(existing, &claimed, Instant::now(), self.grace);
        let Scan { suspected, doomed, cleared } = scan;
        for owner in suspected {
            tracing::warn!(%owner, "load balancer that no Service claims");
            self.metrics.collected(Collected::Suspected);
        }
        for uid in cleared.iter().filter(|uid| !claimed.contains(uid)) {
            self.provisioner.forget(uid);
        }
        let mut held = 0_usize;
        for owner in doomed {
            if !self.suspects.allowance.allows(&owner.service, count, Instant::now()) {
                held += 1;
                self.metrics.collected(Collected::Held);
            } else if self.is_unclaimed(&owner).await && self.delete(&owner) {
                self.suspects.allowance.spend(owner.service, Instant::now());
            }
        }
        if held > 0 {
            tracing::warn!(
                held,
                of = count,
                "more load balancers are unclaimed than may be deleted at a time; \
                if they are yours, give their Services back; if not, `portico-operator gc --yes` deletes them"
            );
        }
    }

    /// Owners of what exists and no Service claims, by a read of the API server past the cache.
    pub(crate) async fn unclaimed(&self) -> Vec<Owner> {
        let claimed = self.claimed();
        let mut unclaimed = Vec::new();
        for owner in self.provisioner.owners() {
            if !claimed.contains(&owner.service) && self.is_unclaimed(&owner).await {
                unclaimed.push(owner);
            }
        }
        unclaimed
    }

    /// Whether a Service claims its load balancer: it is ours, or any Portico operator's finalizer is on it. Two operators with
    /// a class each may share one account, where each reads what both own.
    fn claims(&self, service: &Service) -> bool {
        self.reconciler.scope().classes.claims(service) || service::has_finalizer(service)
    }

    fn claimed(&self) -> BTreeSet<ServiceUid> {
        let services = self.reconciler.cache().services();
        let claiming = services.iter().filter(|service| self.claims(service));
        claiming.filter_map(|it| it.metadata.uid.as_deref()?.parse().ok()).collect()
    }

    /// Whether no Service claims this owner's load balancer, by a read of the API server past the cache. An error says no.
    pub(crate) async fn is_unclaimed(&self, owner: &Owner) -> bool {
        match self.reconciler.api().service(&key(owner)).await {
            Ok(Some(service)) => {
                let same = service.metadata.uid.as_deref() == Some(owner.service.as_str());
                !(same && self.claims(&service))
            }
            Ok(None) => true,
            Err(error) => {
                tracing::warn!(%error, reason = error.reason(), %owner, "not collected: its Service cannot be read");
                false
            }
        }
    }

    /// Starts the deletion; whether there was one to start.
    fn delete(&self, owner: &Owner) -> bool {
        let request = Request { key: key(owner), want: &Want::absent(owner.clone()), was_synced: false };
        let starts = self.provisioner.submit(&self.reconciler, request).decision == Decision::Start;
        if starts && self.provisioner.policy().read_only {
            tracing::warn!(%owner, "would delete a load balancer that no Service claims");
        } else if starts {
            tracing::warn!(%owner, "deleting a load balancer that no Service claims");
            self.metrics.collected(Collected::Deleted);
        }
        starts
    }
}

fn key(owner: &Owner) -> ServiceKey {
    let name = &owner.name;
    ServiceKey { namespace: name.namespace().to_owned(), name: name.name().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_owner;

    const LIMITS: DeletionLimits = DeletionLimits { count: 10, share: 10, window: Duration::from_mins(10) };

    #[tokio::test(start_paused = true)]
    async fn only_what_is_unclaimed_in_two_scans_a_grace_period_apart_is_doomed() {
        let (grace, start) = (Duration::from_mins(1), Instant::now());
        let (kept, orphan) = (mk_owner("kept"), mk_owner("orphan"));
        let claimed = BTreeSet::from([kept.service.clone()]);
        let both = || vec![kept.clone(), orphan.clone()];
        let mut suspects = Suspects::new(LIMITS);
        let first = suspects.scan(both(), &claimed, start, grace);
        assert_eq!((first.suspected, first.doomed), (vec![orphan.clone()], vec![]));
        let early = suspects.scan(both(), &claimed, start + grace / 2, grace);
        assert_eq!(early, Scan::default());
        let late = suspects.scan(both(), &claimed, start + grace, grace);
        assert_eq!(late.doomed, std::slice::from_ref(&orphan));
        let claimed_again = BTreeSet::from([kept.service.clone(), orphan.service.clone()]);
        let cleared = suspects.scan(both(), &claimed_again, start + grace, grace);
        assert_eq!(cleared.cleared, std::slice::from_ref(&orphan.service));
        let anew = suspects.scan(both(), &claimed, start + grace * 9, grace);
        assert_eq!(anew.doomed, [], "the grace period begins anew");
    }
}
