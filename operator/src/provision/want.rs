//! The load balancer that a Service shall have, and its plan.
//!
//! Owns: [`Want`], its digest, and the order of its two plans: the targets of what exists, then the rest. Leaves to others:
//! composing it (`stages`), executing the plan (`operation`).
//! Invariant: pure.

use std::collections::BTreeSet;

use portico_provider::{
    Backends, Desired, LoadBalancer, LoadBalancerProvider, Owner, Plan, ReadMode, ServiceUid, SpecHash,
};

/// The load balancer, or its absence, that a Service wants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Want {
    what: What,
    /// Possible targets of what exists; `None`: those of the load balancer, or none are known.
    backends: Option<Box<Backends>>,
    digest: WantDigest,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Present(Box<LoadBalancer>),
    Targets(Owner),
    Absent(Owner),
}

/// A digest of a want, without the addresses that the status shows. Only the digest is kept once a want is settled: with a
/// thousand nodes a load balancer is a hundred kilobytes. Making a digest takes a millisecond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WantDigest {
    /// A load balancer like this.
    Present(SpecHash),
    /// These targets behind whatever exists, and no other change.
    Targets(SpecHash),
    /// Nothing, for this Service; until then these targets.
    Absent(ServiceUid, Option<SpecHash>),
}

impl Want {
    /// A load balancer.
    pub(crate) fn present(load_balancer: Box<LoadBalancer>) -> Self {
        let digest = WantDigest::Present(load_balancer.spec_hash());
        Self { what: What::Present(load_balancer), backends: None, digest }
    }

    /// A load balancer, and for what exists already the targets of either kind.
    pub(crate) fn provide(load_balancer: Box<LoadBalancer>, backends: Backends) -> Self {
        Self { backends: Some(Box::new(backends)), ..Self::present(load_balancer) }
    }

    /// The targets of what exists, and nothing else.
    pub(crate) fn targets(backends: Backends) -> Self {
        let digest = WantDigest::Targets(backends.spec_hash());
        Self { what: What::Targets(backends.owner.clone()), backends: Some(Box::new(backends)), digest }
    }

    /// No load balancer.
    pub(crate) fn absent(owner: Owner) -> Self {
        let digest = WantDigest::Absent(owner.service.clone(), None);
        Self { what: What::Absent(owner), backends: None, digest }
    }

    /// No load balancer; until it is deleted, its targets are updated.
    pub(crate) fn release(backends: Backends) -> Self {
        let owner = backends.owner.clone();
        let digest = WantDigest::Absent(owner.service.clone(), Some(backends.spec_hash()));
        Self { what: What::Absent(owner), backends: Some(Box::new(backends)), digest }
    }

    /// As the provider takes it; `None`: only targets are wanted.
    pub(crate) fn desired(&self) -> Option<Desired<'_>> {
        match &self.what {
            What::Present(load_balancer) => Some(Desired::Present(load_balancer)),
            What::Targets(_) => None,
            What::Absent(owner) => Some(Desired::Absent(owner)),
        }
    }

    /// Owner of the load balancer.
    pub(crate) fn owner(&self) -> &Owner {
        match &self.what {
            What::Present(load_balancer) => &load_balancer.owner,
            What::Targets(owner) | What::Absent(owner) => owner,
        }
    }

    /// The load balancer, where one is wanted.
    pub(crate) fn load_balancer(&self) -> Option<&LoadBalancer> {
        match &self.what {
            What::Present(load_balancer) => Some(load_balancer),
            What::Targets(_) | What::Absent(_) => None,
        }
    }

    /// Whether nothing is wanted.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.what, What::Absent(_))
    }

    pub(crate) fn digest(&self) -> &WantDigest {
        &self.digest
    }

    /// Names of what it shares with other Services, by the want and the last read.
    pub(crate) fn shares<P: LoadBalancerProvider>(
        &self,
        provider: &P,
        observed: Option<&P::Observed>,
    ) -> BTreeSet<String> {
        provider.shares(self.desired().unwrap_or(Desired::Absent(self.owner())), observed)
    }

    /// How closely an attempt reads first, by the plan from the inventory.
    pub(crate) fn first_read_mode<S>(&self, plan: &Plan<S>) -> ReadMode {
        match self.desired() {
            Some(desired) => ReadMode::first(desired, plan),
            None if plan.is_destructive() => ReadMode::Verify,
            None => ReadMode::Pending,
        }
    }

    /// All that there is to do: targets of what exists, then the rest.
    pub(crate) fn plan<P: LoadBalancerProvider>(
        &self,
        provider: &P,
        observed: Option<&P::Observed>,
    ) -> Plan<P::Step> {
        let rest = self.plan_rest(provider, observed);
        match self.plan_targets(provider, observed, &rest) {
            Some(targets) => rest.after_targets(targets),
            None => rest,
        }
    }

    pub(crate) fn plan_rest<P: LoadBalancerProvider>(
        &self,
        provider: &P,
        observed: Option<&P::Observed>,
    ) -> Plan<P::Step> {
        match self.desired() {
            Some(desired) => provider.plan(desired, observed),
            None => Plan::nothing("the targets of what exists are as they should be"),
        }
    }

    /// The plan for the targets of what exists; `None`: nothing exists, or it is being deleted.
    pub(crate) fn plan_targets<P: LoadBalancerProvider>(
        &self,
        provider: &P,
        observed: Option<&P::Observed>,
        rest: &Plan<P::Step>,
    ) -> Option<Plan<P::Step>> {
        let observed = observed.filter(|_| !self.is_absent() || rest.steps().is_empty())?;
        match (&self.backends, &self.what) {
            (Some(backends), _) => Some(provider.plan_targets(backends, observed)),
            (None, What::Present(load_balancer)) => {
                Some(provider.plan_targets(&load_balancer.backends(), observed))
            }
            (None, What::Targets(_) | What::Absent(_)) => None,
        }
    }
}
