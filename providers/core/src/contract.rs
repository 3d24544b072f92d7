//! The suite every provider passes: each promise of [`crate::LoadBalancerProvider`], tried on the real thing.
//!
//! ```text
//! let fixture = MyFixture::start();            // an emulator, a fake, a daemon on loopback
//! contract::run(&fixture).await?;            // Err(Violation) names the promise and what was seen
//! ```
//! Owns: the checks. Leaves to others: the runtime, the clock and the cloud, behind [`CloudFixture`].
//! Invariant: a check judges through the trait alone, so that an emulator and a real cloud are judged alike;
//! each has been seen to fail on a fake with that very bug (`contract/tests.rs`).

pub mod cached;
pub mod change;
pub mod crash;
mod drive;
pub mod life;
mod tally;
pub mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use tally::tally;

use crate::capabilities::{Capabilities, Field, StatusKind};
use crate::model::{ClusterUid, InvalidOwner, ListenerKey, LoadBalancer, Owner, Port, ServiceName};
use crate::provider::LoadBalancerProvider;

/// A provider under test and the cloud behind it.
pub trait CloudFixture: Sync {
    /// The provider under test.
    type Provider: LoadBalancerProvider;

    /// A new process of the provider for this cluster, on the same cloud: no memory of an earlier one.
    fn provider(&self, cluster: &ClusterUid) -> Self::Provider;

    /// A load balancer that this provider can provide, with at least one listener and one target.
    fn base(&self, owner: Owner) -> LoadBalancer;

    /// `base`, changed in one field each; at least one for each field that is mutable or replaceable.
    fn variations(&self, base: &LoadBalancer) -> Vec<Variation>;

    /// `base`, with something that this provider cannot do, and the field that its plan must name.
    fn unsupported(&self, base: &LoadBalancer) -> Vec<Variation>;

    /// How many load balancers there are in an observation.
    fn count(&self, observed: &<Self::Provider as LoadBalancerProvider>::Observed) -> usize;

    /// Lets the cloud work for so long: sleeps, or moves its clock.
    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send;

    /// Resources of this owner in the cloud, read past the provider, which may be blind to its own
    /// leaks. Empty where there is no such view.
    fn left_in_the_cloud(&self, owner: &Owner) -> Vec<String> {
        let Owner { cluster: _, service: _, name: _ } = owner;
        Vec::new()
    }

    /// Targets of each of this owner's listeners in the cloud, read past the provider. Empty if the provider
    /// makes nothing.
    fn registered(&self, owner: &Owner) -> impl Future<Output = Registered> + Send;

    /// Holds back the cloud's verdicts on the health of targets, or lets them come. Does nothing where they come at once.
    fn hold_health(&self, held: bool) {
        let _: bool = held;
    }

    /// Has the cloud do the `n`th write from now (1 is the next, 0 disarms) and lose its reply. `false`: not possible
    /// here, as by default.
    fn lose_reply_of_write(&self, n: u32) -> bool {
        n == 0
    }
}

/// Behind each listener its targets: name or address of the machine or pod, and the port there; `None`: the packet keeps the
/// listener's.
pub type Registered = BTreeMap<ListenerKey, BTreeSet<(String, Option<Port>)>>;

/// A changed load balancer.
#[derive(Clone, Debug)]
pub struct Variation {
    /// The changed field.
    pub field: Field,
    /// All of it.
    pub desired: LoadBalancer,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("promise broken: {promise}: {seen}")]
pub struct Violation {
    /// The check that failed.
    pub promise: &'static str,
    /// The observation that breaks it.
    pub seen: String,
}

impl Violation {
    fn new(promise: &'static str, seen: impl Into<String>) -> Self {
        Self { promise, seen: seen.into() }
    }
}

impl From<InvalidOwner> for Violation {
    fn from(error: InvalidOwner) -> Self {
        Self::new("the suite's owners are well-formed", error.to_string())
    }
}

/// Runs every check; the first broken promise is the answer.
pub async fn run<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    change::the_field_table_is_complete(fixture)?;
    life::a_created_one_is_in_the_inventory(fixture).await?;
    life::deleting_ends_empty(fixture).await?;
    life::deleting_the_absent_is_done(fixture).await?;
    life::clusters_do_not_see_each_other(fixture).await?;
    life::published_addresses_are_claimed(fixture).await?;
    crash::steps_can_be_repeated(fixture).await?;
    crash::a_crash_after_any_step_converges(fixture).await?;
    crash::a_crash_while_deleting_leaves_nothing(fixture).await?;
    crash::a_lost_reply_makes_no_second_one(fixture).await?;
    cached::own_steps_may_be_cached(fixture).await?;
    targets::targets_depend_on_nothing_else(fixture).await?;
    targets::no_target_keeps_a_lost_port(fixture).await?;
    change::every_field_converges(fixture).await?;
    change::replacement_needs_consent(fixture).await?;
    change::the_unsupported_is_blocked(fixture)
}

/// Whether the provider makes anything at all; one for bare metal does not, and must then do nothing.
fn provides(capabilities: &Capabilities) -> bool {
    match capabilities.status {
        StatusKind::Ip | StatusKind::Hostname => true,
        StatusKind::Nodes => false,
    }
}

/// Cluster `cluster`'s Service `service`; the names are unlike any other suite's.
fn mk_owner(cluster: &str, service: &str) -> Result<Owner, Violation> {
    Ok(Owner {
        cluster: format!("contract-{cluster}").parse()?,
        service: format!("uid-{service}").parse()?,
        name: ServiceName::new("contract", service)?,
    })
}
