//! The contract between the operator and a provider of load balancers.
//!
//! Owns: [`LoadBalancerProvider`], what goes in and what comes out. Leaves to others: when to call what.
//! Invariant: the promises in the trait's doc comment; `contract` tests each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::time::Duration;

use crate::capabilities::{Capabilities, Field};
use crate::desired::Desired;
use crate::error::ProviderError;
use crate::model::{Backends, LoadBalancer, Owner, ServiceUid};
use crate::plan::Plan;
use crate::read_mode::ReadMode;
use crate::report::Report;

/// Provides load balancers for the Services of one cluster.
///
/// An implementation is made for one cluster: its UID is part of its configuration, every thing it makes
/// carries that UID and the Service's as tags, and it neither shows nor touches anything that carries another.
///
/// # What the operator does
/// The operator reads [`inventory`](Self::inventory) once for all Services and plans each Service from its part of it.
/// Where there is something to do or to wait for, it starts a provisioning attempt:
///
/// 1. It calls [`observe_for`](Self::observe_for).
/// 2. It executes every step of [`plan_targets`](Self::plan_targets) until there is none. Of a Service that is refused,
///    or whose deletion is held up, it executes these steps and nothing else.
/// 3. It executes the steps of [`plan`](Self::plan) in order, stops at the first error or [`Outcome::InProgress`], and
///    begins again with `observe_for`.
/// 4. It writes [`report`](Self::report) whenever something was observed.
///
/// [`ReadMode::first`], [`ReadMode::before`] and [`ReadMode::after`] choose how much is read: a provider may answer from
/// its cache after own steps, a destructive step is planned from a verified read, and only a full read proves that
/// nothing is left. A Service that is deleted is planned as [`Desired::Absent`] until a full `observe` answers `None`;
/// only then the operator removes its finalizer. Resources in the inventory without a Service in the cluster are deleted
/// the same way. At any moment at most one attempt runs for a Service, and for each resource that Services
/// [share](Self::shares).
///
/// # What a provider promises
/// 1. `plan` is synchronous, total and deterministic: equal arguments, equal plan, no I/O, no clock, no panic.
///    What it cannot do is [blocked](Plan::blocked), with field and remedy.
/// 2. `plan(d, o)` of an `o` that already is as `d` wants has no steps; and after all steps of a plan are done
///    and nothing is in progress, planning again from a full `observe` has none either.
/// 3. Each step may be executed again, at any time and by another process: it then changes nothing.
/// 4. Deleting the absent is `Ok(Done)`.
/// 5. A crash after any step loses nothing: a fresh process converges from `observe` alone, to one load
///    balancer. Where a cloud makes a thing and tags it in two calls, `execute` makes the name deterministic.
/// 6. Additive steps come before destructive ones: add before remove, new before old (law 2).
/// 7. Deleting lists what is owned: `plan(Absent, Some(o))` has a step for (or waits for) each thing left in
///    `o`, and a [full](ReadMode::Full) `observe` answers `None` only when a listing shows nothing at all (law 4).
/// 8. `inventory` and `observe` agree: what one shows with an owner, the other shows with the same.
/// 9. What exists, and what the Service's status already shows ([`LoadBalancer::published`]), is kept before
///    anything new is allocated (law 6).
/// 10. A change of a field marked [`Mutable`](crate::Mutability::Mutable) converges in place. One marked
///     `Replace` makes the new first and needs [`Replacement::Allowed`](crate::Replacement); without it the plan
///     is blocked by `ReplacementRequired`, and everything else still converges.
/// 11. Waiting is data: `execute` never sleeps for a provider's work. It answers `InProgress`, and a plan made
///     meanwhile says what it waits for.
/// 12. `observe` answers from its cache only what this process read or wrote itself, and got an answer for. An error, a
///     timeout or a sign of another writer invalidates the cache, and the next read reads everything.
/// 13. Targets depend on nothing but targets: `plan_targets` alone brings node and pod changes to what exists, whatever
///     `plan` refuses, waits for or fails at. A target is a machine (or pod) and a port: its first pass also removes each
///     target whose port its listener no longer has, healthy replacements or not.
pub trait LoadBalancerProvider: Send + Sync + 'static {
    /// All that exists for one Service: every owned thing, leftovers of a crash or a replacement included.
    type Observed: Clone + Debug + PartialEq + Send + Sync;
    /// One call, or a few that belong together and fail together. Display is a phrase: `create load balancer x`.
    type Step: Clone + Debug + PartialEq + Display + Send + Sync;

    /// The provider's name: metric label, `--provider` value, last part of its class (`portico.dev/local`).
    fn name(&self) -> &'static str;

    /// Which fields and annotations this provider honours, and what a change of each costs.
    fn capabilities(&self) -> Capabilities;

    /// Everything this cluster owns, paged to the end, in one snapshot.
    fn inventory(&self) -> impl Future<Output = Result<Inventory<Self::Observed>, ProviderError>> + Send;

    /// Reads one Service's resources, at least as much as `read_mode` asks; `None` if there is none at all. A provider
    /// without a cache reads everything.
    fn observe(
        &self,
        owner: &Owner,
        read_mode: ReadMode,
    ) -> impl Future<Output = Result<Option<Self::Observed>, ProviderError>> + Send;

    /// The same for a plan that is to be made for `desired`: of a load balancer that it shares, or is to share, with others
    /// also what they have there. A provider without shared load balancers needs no more than [`observe`](Self::observe).
    fn observe_for(
        &self,
        desired: Desired<'_>,
        read_mode: ReadMode,
    ) -> impl Future<Output = Result<Option<Self::Observed>, ProviderError>> + Send {
        self.observe(desired.owner(), read_mode)
    }

    /// Names of what this Service shares with others, or is to share: attempts with one of them in common must not overlap.
    /// Total and deterministic, as `plan`.
    fn shares(&self, desired: Desired<'_>, observed: Option<&Self::Observed>) -> BTreeSet<String> {
        let (_, _) = (desired, observed);
        BTreeSet::new()
    }

    /// The next steps, from desired and observed state.
    fn plan(&self, desired: Desired<'_>, observed: Option<&Self::Observed>) -> Plan<Self::Step>;

    /// What to register and deregister in what already exists (target groups, endpoint groups, listeners), each by the kind of
    /// targets that it has. It creates, replaces and deletes nothing else, and depends on no other field, quota, consent or
    /// replacement. Its steps do not depend on each other: all are executed, whatever becomes of one. Once it has none, `plan`
    /// of the same backends changes no target of what existed. Total and deterministic, as `plan`.
    ///
    /// New before old holds for machines and pods: they are registered first, and the old ones deregistered when the new ones
    /// were asked for their health. It does not hold for ports: Kubernetes may have given the old port to another Service.
    fn plan_targets(&self, backends: &Backends, observed: &Self::Observed) -> Plan<Self::Step>;

    /// Which fields of what exists are not as desired; for what is said and counted of drift, never for deciding.
    /// Empty where nothing differs, where nothing exists at all, and where a provider cannot tell.
    fn differing(&self, desired: &LoadBalancer, observed: Option<&Self::Observed>) -> BTreeSet<Field> {
        let (_, _) = (desired, observed);
        BTreeSet::new()
    }

    /// Does one step.
    fn execute(&self, step: &Self::Step) -> impl Future<Output = Result<Outcome, ProviderError>> + Send;

    /// The Service's status. Total and deterministic, as `plan`. `None` observed: nothing of
    /// it exists (yet), which is all a provider without load balancers ever sees.
    fn report(&self, desired: &LoadBalancer, observed: Option<&Self::Observed>) -> Report;

    /// Annotations that tell people and tools what the load balancer is made of, by full key; `None`: there is no such
    /// part. Every key that this provider ever writes is there, so that what is gone can be taken back. Total and
    /// deterministic, as `plan`.
    fn resources(&self, _observed: Option<&Self::Observed>) -> BTreeMap<&'static str, Option<String>> {
        BTreeMap::new()
    }
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It was tried, and nothing could be changed by it now: no failure, and no change to tell of. The next plan waits, and
    /// says for what.
    Unchanged,
    /// The provider accepted it and is at work.
    InProgress {
        /// When to read again.
        retry: Duration,
        /// The awaited change, as a noun phrase.
        what: String,
    },
}

/// Everything one cluster owns at a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Inventory<O> {
    /// Owned resources, by Service.
    pub services: BTreeMap<ServiceUid, Owned<O>>,
}

/// One Service's part of an inventory.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned<O> {
    /// The owner, by its tags.
    pub owner: Owner,
    /// All of it.
    pub observed: O,
}

impl<O> Inventory<O> {
    /// One with nothing in it.
    pub fn empty() -> Self {
        Self { services: BTreeMap::new() }
    }
}

impl<O> FromIterator<Owned<O>> for Inventory<O> {
    fn from_iter<I: IntoIterator<Item = Owned<O>>>(items: I) -> Self {
        Self { services: items.into_iter().map(|owned| (owned.owner.service.clone(), owned)).collect() }
    }
}
