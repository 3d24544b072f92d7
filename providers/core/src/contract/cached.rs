//! One process that answers from its cache after its own steps, as the operator runs it.
//!
//! Owns: promise 12: the cache equals the cloud. Leaves to others: how much reading it saves.
//! Invariant: the judge is another process, which has an empty cache and reads everything.

use super::drive::{bounded, expect_nothing, expect_one, observe, plan_twice};
use super::{CloudFixture, Variation, Violation, mk_owner, provides};
use crate::desired::Desired;
use crate::model::{LoadBalancer, Owner, Replacement};
use crate::provider::{LoadBalancerProvider, Outcome};
use crate::read_mode::ReadMode;

/// Reads after which anything that converges has converged.
const READS: usize = 200;

/// One process makes one, changes each field and back, and deletes it; after each, another process that reads
/// everything has nothing to add.
pub async fn own_steps_may_be_cached<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "the cache of a process after its own steps equals the cloud";
    let base = fixture.base(mk_owner("a", "cached")?);
    let process = fixture.provider(&base.owner.cluster);
    // As an operator that has listed everything, and found nothing.
    let listed = process.inventory().await;
    listed.map_err(|error| Violation::new("inventory answers", error.to_string()))?;
    let mut wishes = vec![base.clone()];
    for Variation { field: _, desired } in fixture.variations(&base) {
        wishes.extend([desired, base.clone()]);
    }
    for wish in wishes {
        let published = run(fixture, &process, &consenting(wish), PROMISE).await?;
        let judge = fixture.provider(&base.owner.cluster);
        let wanted = Desired::Present(&published);
        let seen = observe(&judge, wanted).await?;
        expect_one(fixture, PROMISE, &judge, seen.as_ref())?;
        let left = plan_twice(&judge, wanted, seen.as_ref())?;
        if !left.is_settled() {
            return Err(Violation::new(PROMISE, format!("another process still plans: {left}")));
        }
    }
    end(fixture, &process, &base.owner, PROMISE).await?;
    expect_nothing(fixture, PROMISE, Desired::Absent(&base.owner)).await
}

fn consenting(desired: LoadBalancer) -> LoadBalancer {
    LoadBalancer { replacement: Replacement::Allowed, ..desired }
}

/// Until nothing is left to do, publishing what is reported, as an operator would.
async fn run<W: CloudFixture>(
    fixture: &W,
    process: &W::Provider,
    wish: &LoadBalancer,
    promise: &'static str,
) -> Result<LoadBalancer, Violation> {
    let mut wish = wish.clone();
    let mut read_mode = ReadMode::Verify;
    for _ in 0..READS {
        let observed = read(process, Desired::Present(&wish), read_mode).await?;
        wish.published = super::life::addresses(&process.report(&wish, observed.as_ref()));
        let plan = plan_twice(process, Desired::Present(&wish), observed.as_ref())?;
        if let Some(closer) = read_mode.before(Desired::Present(&wish), observed.is_some(), &plan) {
            read_mode = closer;
            continue;
        }
        if plan.is_settled() || (plan.steps().is_empty() && !provides(&process.capabilities())) {
            return Ok(wish);
        }
        read_mode = step_by_step(fixture, process, &plan, Desired::Present(&wish)).await?;
    }
    Err(Violation::new(promise, format!("{} does not settle", wish.owner)))
}

async fn end<W: CloudFixture>(
    fixture: &W,
    process: &W::Provider,
    owner: &Owner,
    promise: &'static str,
) -> Result<(), Violation> {
    let wanted = Desired::Absent(owner);
    let mut read_mode = ReadMode::Verify;
    for _ in 0..READS {
        let observed = read(process, wanted, read_mode).await?;
        let plan = plan_twice(process, wanted, observed.as_ref())?;
        match read_mode.before(wanted, observed.is_some(), &plan) {
            Some(closer) => read_mode = closer,
            None if plan.is_settled() => return Ok(()),
            None => read_mode = step_by_step(fixture, process, &plan, wanted).await?,
        }
    }
    Err(Violation::new(promise, format!("{owner} is not deleted")))
}

async fn read<P: LoadBalancerProvider>(
    process: &P,
    desired: Desired<'_>,
    read_mode: ReadMode,
) -> Result<Option<P::Observed>, Violation> {
    let observed = process.observe_for(desired, read_mode).await;
    observed.map_err(|error| Violation::new("observe answers", format!("{read_mode:?}: {error}")))
}

/// Executes a plan and returns the mode of the read that follows.
async fn step_by_step<W: CloudFixture>(
    fixture: &W,
    process: &W::Provider,
    plan: &crate::plan::Plan<<W::Provider as LoadBalancerProvider>::Step>,
    desired: Desired<'_>,
) -> Result<ReadMode, Violation> {
    for planned in plan.steps() {
        let outcome = process.execute(&planned.step).await;
        let failed = |error| Violation::new("steps of a plan succeed", format!("{}: {error}", planned.step));
        if let Outcome::InProgress { retry, what: _ } = outcome.map_err(failed)? {
            fixture.pause(bounded(retry)).await;
            return Ok(ReadMode::Pending);
        }
    }
    if let (true, Some(waiting)) = (plan.steps().is_empty(), plan.waiting()) {
        fixture.pause(bounded(waiting.retry)).await;
        return Ok(ReadMode::Pending);
    }
    Ok(ReadMode::after(desired))
}
