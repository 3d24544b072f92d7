//! The load balancer that a Service shall have, and its plan.
//!
//! Owns: [`Want`], its digest, and the order of its two plans: the targets of what exists, then the rest. Leaves to others:
//! composing it (`stages`), executing the plan (`operation`).
//! Invariant: pure.

use std::collections::BTreeSet;

use portico_provider::{
    Backends, Desired, LoadBalancer, LoadBalancerProvider, Owner, Plan, ReadMode, ServiceUid, SpecHash,
};

/// What is wanted for a Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Want {
    what: What,
    /// What targets of what exists may be; `None`: those of the load balancer, or nothing is known of them.
    backends: Option<Box<Backends>>,
    digest: WantDigest,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Present(Box<LoadBalancer>),
    Targets(Owner),
    Absent(Owner),
}

/// What tells one want from another; what the status shows at the moment is no wish. It is all that is remembered of a
/// want when it has been met: with a thousand nodes behind it a load balancer is a hundred kilobytes, and its digest takes
/// a millisecond.
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
    /// This.
    pub(crate) fn present(load_balancer: Box<LoadBalancer>) -> Self {
        let digest = WantDigest::Present(load_balancer.spec_hash());
        Self { what: What::Present(load_balancer), backends: None, digest }
    }

    /// This, and for what exists already targets of either kind.
    pub(crate) fn provide(load_balancer: Box<LoadBalancer>, backends: Backends) -> Self {
        Self { backends: Some(Box::new(backends)), ..Self::present(load_balancer) }
    }

    /// The targets of what exists, and nothing else.
    pub(crate) fn targets(backends: Backends) -> Self {
        let digest = WantDigest::Targets(backends.spec_hash());
        Self { what: What::Targets(backends.owner.clone()), backends: Some(Box::new(backends)), digest }
    }

    /// Nothing.
    pub(crate) fn absent(owner: Owner) -> Self {
        let digest = WantDigest::Absent(owner.service.clone(), None);
        Self { what: What::Absent(owner), backends: None, digest }
    }

    /// Nothing; until it is deleted, its targets.
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

    /// What tells it from others.
    pub(crate) fn digest(&self) -> &WantDigest {
        &self.digest
    }

    /// What it shares with others, by what is wanted and what was observed.
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

    /// What comes first; `None`: nothing exists, or it is just being deleted.
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
