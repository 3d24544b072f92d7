//! The operator's loop, as the suite drives it: observe, plan, execute, until there is nothing left to do.
//!
//! Owns: the loop and its bounds. Leaves to others: what to judge.
//! Invariant: bounded; a provider that never settles is a violation and not a hang.

use std::time::Duration;

use super::{CloudFixture, Violation};
use crate::capabilities::StatusKind;
use crate::desired::Desired;
use crate::model::{Backends, ClusterUid};
use crate::plan::Plan;
use crate::provider::{LoadBalancerProvider, Outcome};
use crate::read_mode::ReadMode;

/// So many rounds of observe and plan are enough for anything that converges.
const ROUNDS: usize = 60;

type Provider<W> = <W as CloudFixture>::Provider;
type Observed<W> = <Provider<W> as LoadBalancerProvider>::Observed;
type Step<W> = <Provider<W> as LoadBalancerProvider>::Step;

/// What was seen and done on the way.
pub(super) struct Driven<W: CloudFixture> {
    /// The last observation.
    pub(super) observed: Option<Observed<W>>,
    /// Every step executed, in order.
    pub(super) steps: Vec<Step<W>>,
}

/// Runs until the plan has no steps and no waits, or `limit` steps are done (a crash). Every round is a new
/// process, so nothing can depend on memory.
pub(super) async fn drive<W: CloudFixture>(
    fixture: &W,
    desired: Desired<'_>,
    limit: Option<usize>,
) -> Result<Driven<W>, Violation> {
    let mut steps = Vec::new();
    let mut last = String::new();
    for _ in 0..ROUNDS {
        let room = limit.map_or(usize::MAX, |limit| limit - steps.len());
        let Round { observed, plan, done } = round(fixture, desired, room).await?;
        let idle = plan.steps().is_empty() && plan.waiting().is_none();
        if idle || room == 0 {
            return Ok(Driven { observed, steps });
        }
        steps.extend(done);
        last = plan.to_string();
    }
    let owner = desired.owner();
    Err(Violation::new("a plan carried out leaves nothing to do", format!("{owner} still plans: {last}")))
}

/// One turn of the loop.
pub(super) struct Round<W: CloudFixture> {
    /// What it saw.
    pub(super) observed: Option<Observed<W>>,
    /// What it planned.
    pub(super) plan: Plan<Step<W>>,
    /// What it did of that.
    done: Vec<Step<W>>,
}

/// Observes, plans, does at most `room` steps, and waits as the plan says.
pub(super) async fn round<W: CloudFixture>(
    fixture: &W,
    desired: Desired<'_>,
    room: usize,
) -> Result<Round<W>, Violation> {
    let provider = fixture.provider(&desired.owner().cluster);
    let observed = observe(&provider, desired).await?;
    let plan = plan_twice(&provider, desired, observed.as_ref())?;
    let done = execute(fixture, &provider, &plan, room).await?;
    if let (Some(waiting), true) = (plan.waiting(), room > 0) {
        fixture.pause(bounded(waiting.retry)).await;
    }
    Ok(Round { observed, plan, done })
}

/// Drives to the end; anything blocked on the way is a violation.
pub(super) async fn converge<W: CloudFixture>(
    fixture: &W,
    desired: Desired<'_>,
) -> Result<Driven<W>, Violation> {
    let driven = drive(fixture, desired, None).await?;
    let provider = fixture.provider(&desired.owner().cluster);
    let plan = plan_twice(&provider, desired, driven.observed.as_ref())?;
    if plan.is_settled() {
        Ok(driven)
    } else {
        Err(Violation::new("a plan carried out leaves nothing to do", plan.to_string()))
    }
}

/// What became of the targets alone.
pub(super) struct Targeted<W: CloudFixture> {
    /// The last observation.
    pub(super) observed: Option<Observed<W>>,
    /// How many steps were executed.
    pub(super) steps: usize,
}

/// Brings targets to what exists, to the end, and does nothing else.
pub(super) async fn target<W: CloudFixture>(
    fixture: &W,
    backends: &Backends,
) -> Result<Targeted<W>, Violation> {
    for _ in 0..ROUNDS {
        let (targeted, waiting) = target_once(fixture, backends).await?;
        match (targeted.steps, waiting) {
            (0, None) => return Ok(targeted),
            (_, waiting) => fixture.pause(bounded(waiting.unwrap_or_default())).await,
        }
    }
    Err(Violation::new("targets settle", format!("those of {} do not", backends.owner)))
}

/// One pass of it, by a new process; what it waits for.
pub(super) async fn target_once<W: CloudFixture>(
    fixture: &W,
    backends: &Backends,
) -> Result<(Targeted<W>, Option<Duration>), Violation> {
    let provider = fixture.provider(&backends.owner.cluster);
    let observed = provider.observe(&backends.owner, ReadMode::Full).await;
    let observed = observed.map_err(|error| Violation::new("observe answers", error.to_string()))?;
    let Some(seen) = &observed else { return Ok((Targeted { observed, steps: 0 }, None)) };
    let plan = provider.plan_targets(backends, seen);
    if plan != provider.plan_targets(backends, seen) {
        return Err(Violation::new("a plan is deterministic", plan.to_string()));
    }
    for planned in plan.steps() {
        let outcome = provider.execute(&planned.step).await;
        outcome.map_err(|error| {
            Violation::new("steps of a plan succeed", format!("{}: {error}", planned.step))
        })?;
    }
    let waiting = plan.waiting().map(|waiting| waiting.retry);
    Ok((Targeted { observed, steps: plan.steps().len() }, waiting))
}

/// Deletes, to the end.
pub(super) async fn remove<W: CloudFixture>(
    fixture: &W,
    desired: Desired<'_>,
) -> Result<Driven<W>, Violation> {
    converge(fixture, Desired::Absent(desired.owner())).await
}

/// A fresh read.
pub(super) async fn observe<P: LoadBalancerProvider>(
    provider: &P,
    desired: Desired<'_>,
) -> Result<Option<P::Observed>, Violation> {
    provider
        .observe_for(desired, ReadMode::Full)
        .await
        .map_err(|error| Violation::new("observe answers", format!("{error} ({})", error.reason())))
}

/// The plan, made twice: the same, and narrow only after wide.
pub(super) fn plan_twice<P: LoadBalancerProvider>(
    provider: &P,
    desired: Desired<'_>,
    observed: Option<&P::Observed>,
) -> Result<Plan<P::Step>, Violation> {
    let plan = provider.plan(desired, observed);
    let again = provider.plan(desired, observed);
    if plan != again {
        return Err(Violation::new("a plan is deterministic", format!("{plan}\nand then\n{again}")));
    }
    if !plan.additive_first() {
        return Err(Violation::new("a plan widens before it narrows", plan.to_string()));
    }
    Ok(plan)
}

async fn execute<W: CloudFixture>(
    fixture: &W,
    provider: &Provider<W>,
    plan: &Plan<Step<W>>,
    room: usize,
) -> Result<Vec<Step<W>>, Violation> {
    let mut done = Vec::new();
    for planned in plan.steps().iter().take(room) {
        let outcome = provider.execute(&planned.step).await.map_err(|error| {
            Violation::new("steps of a plan succeed", format!("{}: {error}", planned.step))
        })?;
        done.push(planned.step.clone());
        if let Outcome::InProgress { retry, what: _ } = outcome {
            fixture.pause(bounded(retry)).await;
            break;
        }
    }
    Ok(done)
}

/// How many there are; 1 expected. A provider without load balancers has none.
pub(super) fn expect_one<W: CloudFixture>(
    fixture: &W,
    promise: &'static str,
    provider: &Provider<W>,
    observed: Option<&Observed<W>>,
) -> Result<(), Violation> {
    let count = observed.map_or(0, |observed| fixture.count(observed));
    let expected = usize::from(provider.capabilities().status != StatusKind::Nodes);
    if count == expected {
        Ok(())
    } else {
        Err(Violation::new(promise, format!("{count} load balancers, expected {expected}: {observed:?}")))
    }
}

/// The provider of a cluster and an empty inventory check for one owner.
pub(super) async fn expect_nothing<W: CloudFixture>(
    fixture: &W,
    promise: &'static str,
    desired: Desired<'_>,
) -> Result<(), Violation> {
    let owner = desired.owner();
    let provider = fixture.provider(&owner.cluster);
    let observed = observe(&provider, desired).await?;
    let listed = inventory(fixture, &owner.cluster).await?.services.remove(&owner.service);
    let left = fixture.left_in_the_cloud(owner);
    if observed.is_none() && listed.is_none() && left.is_empty() {
        return Ok(());
    }
    let seen = format!("observed: {observed:?}, listed: {listed:?}, in the cloud: {left:?}");
    Err(Violation::new(promise, seen))
}

/// The inventory of a cluster.
pub(super) async fn inventory<W: CloudFixture>(
    fixture: &W,
    cluster: &ClusterUid,
) -> Result<crate::provider::Inventory<Observed<W>>, Violation> {
    let listed = fixture.provider(cluster).inventory().await;
    listed.map_err(|error| Violation::new("inventory answers", error.to_string()))
}

/// A provider may ask for minutes; a test cloud is asked for no more than it needs.
pub(super) fn bounded(retry: Duration) -> Duration {
    retry.clamp(Duration::from_millis(1), Duration::from_secs(5))
}
