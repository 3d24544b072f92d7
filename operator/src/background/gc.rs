//! Load balancers that no Service claims: a Service deleted by force, a finalizer stripped by hand.
//!
//! Owns: suspecting, waiting, and ordering their deletion. Leaves to others: deleting (the same go as a release).
//! Invariants: nothing is deleted before it was unclaimed in two looks, a grace period apart, and the API server
//! itself, past all caches, still knows no Service that claims it; never more at a time than `limit` allows; what
//! another Portico operator of this cluster holds is claimed; what belongs to another cluster is never seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use portico_provider::{LoadBalancerProvider, Owner, ServiceUid};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cache::service::{self, ServiceKey};
use crate::metrics::Collected;
use crate::provision::track::Decision;
use crate::provision::want::Want;
use crate::reconcile::Operator;
use crate::reconcile::api::Cluster;

pub(crate) mod limit;

use limit::Allowance;

/// Remembers since when what is unclaimed.
#[derive(Debug)]
pub(crate) struct Suspects {
    since: BTreeMap<ServiceUid, Instant>,
    allowance: Allowance,
}

/// What one look came to.
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
    /// None yet.
    pub(crate) fn new(limits: limit::DeletionLimits) -> Self {
        Self { since: BTreeMap::new(), allowance: Allowance::new(limits) }
    }

    /// One look at what exists and what is claimed.
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

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    /// Looks once every half grace period, for ever.
    pub(crate) async fn collect(self: Arc<Self>, grace: Duration, limits: limit::DeletionLimits) {
        let mut suspects = Suspects::new(limits);
        let mut ticks = interval((grace / 2).max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.cache.is_synced() && self.inventory.is_loaded() && self.may_work() {
                self.collect_once(&mut suspects, grace).await;
            }
        }
    }

    /// One look, and what follows from it.
    pub(crate) async fn collect_once(self: &Arc<Self>, suspects: &mut Suspects, grace: Duration) {
        // What exists first: a Service made between the two reads is then claimed and its load balancer not seen.
        let existing = self.inventory.owners();
        let count = existing.len();
        let claimed = self.claimed();
        let Scan { suspected, doomed, cleared } = suspects.scan(existing, &claimed, Instant::now(), grace);
        for owner in suspected {
            tracing::warn!(%owner, "load balancer that no Service claims");
            self.metrics.collected(Collected::Suspected);
        }
        for uid in cleared.iter().filter(|uid| !claimed.contains(uid)) {
            self.drop_track(uid);
        }
        let mut held = 0_usize;
        for owner in doomed {
            if !suspects.allowance.allows(&owner.service, count, Instant::now()) {
                held += 1;
                self.metrics.collected(Collected::Held);
            } else if self.is_unclaimed(&owner).await && self.collect_one(&owner) {
                suspects.allowance.spend(owner.service, Instant::now());
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

    /// What exists and no Service claims, by the API server's own word.
    pub(crate) async fn unclaimed(&self) -> Vec<Owner> {
        let claimed = self.claimed();
        let mut unclaimed = Vec::new();
        for owner in self.inventory.owners() {
            if !claimed.contains(&owner.service) && self.is_unclaimed(&owner).await {
                unclaimed.push(owner);
            }
        }
        unclaimed
    }

    /// A Service claims what is behind it if it is ours, and if any Portico operator's finalizer is on it: two of them
    /// with a class each may share one account, where each sees what both own.
    fn claims(&self, service: &Service) -> bool {
        self.settings.classes.claims(service) || service::has_finalizer(service)
    }

    fn claimed(&self) -> BTreeSet<ServiceUid> {
        let claims = |service: &Arc<Service>| self.claims(service);
        let services = self.cache.services();
        let uids =
            services.iter().filter(|service| claims(service)).filter_map(|it| it.metadata.uid.as_deref());
        uids.filter_map(|uid| uid.parse().ok()).collect()
    }

    /// Whether no Service claims what is this one's, by the API server's own word.
    pub(crate) async fn is_unclaimed(&self, owner: &Owner) -> bool {
        let Owner { cluster: _, service: uid, name } = owner;
        let key = ServiceKey { namespace: name.namespace().to_owned(), name: name.name().to_owned() };
        match self.cluster.service(&key).await {
            Ok(Some(service)) => {
                let same = service.metadata.uid.as_deref() == Some(uid.as_str());
                !(same && self.claims(&service))
            }
            Ok(None) => true,
            Err(error) => {
                tracing::warn!(%error, reason = error.reason(), %owner, "not collected: its Service cannot be read");
                false
            }
        }
    }

    /// Begins its deletion; whether there was one to begin.
    pub(crate) fn collect_one(self: &Arc<Self>, owner: &Owner) -> bool {
        let want = Want::absent(owner.clone());
        let observed = self.inventory.get(&owner.service);
        let plan = want.plan(&self.provider, observed.as_ref());
        let name = &owner.name;
        let key = ServiceKey { namespace: name.namespace().to_owned(), name: name.name().to_owned() };
        let starts = self.begin_at(key, &want, &plan, observed.is_some(), false) == Decision::Start;
        if starts && self.settings.read_only {
            tracing::warn!(%owner, "would delete a load balancer that no Service claims");
        } else if starts {
            tracing::warn!(%owner, "deleting a load balancer that no Service claims");
            self.metrics.collected(Collected::Deleted);
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_owner;

    const LIMITS: limit::DeletionLimits =
        limit::DeletionLimits { count: 10, share: 10, window: Duration::from_mins(10) };

    #[tokio::test(start_paused = true)]
    async fn only_what_is_unclaimed_in_two_looks_a_grace_period_apart_is_doomed() {
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
