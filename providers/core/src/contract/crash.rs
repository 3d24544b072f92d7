//! Repetition, crashes and lost replies.
//!
//! Owns: promises 3 and 5. Leaves to others: faults inside a cloud (emulators have their own).
//! Invariant: after each crash the next process knows nothing but the cloud.

use super::drive::{Driven, converge, drive, expect_nothing, expect_one, observe, remove};
use super::{Violation, World, mk_owner};
use crate::model::LoadBalancer;
use crate::provider::{Desired, LoadBalancerProvider, Outcome};

/// Each step of a creation runs twice in a row, each time in a new process, and once more at the end.
pub async fn steps_can_be_repeated<W: World>(world: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a step executed again changes nothing";
    let desired = world.base(mk_owner("a", "repeated")?);
    let wanted = Desired::Present(&desired);
    let mut done = 0;
    loop {
        let Driven { observed: _, steps } = drive(world, wanted, Some(done + 1)).await?;
        let Some(step) = steps.last() else { break };
        for _ in 0..2 {
            again(world, PROMISE, &desired, step).await?;
        }
        let seen = observe(&world.provider(&desired.owner.cluster), wanted).await?;
        let count = seen.map_or(0, |observed| world.count(&observed));
        if count > 1 {
            return Err(Violation::new(PROMISE, format!("{count} load balancers after {step} again")));
        }
        done += 1;
    }
    let finished = converge(world, wanted).await?;
    let provider = world.provider(&desired.owner.cluster);
    expect_one(world, PROMISE, &provider, finished.observed.as_ref())?;
    remove(world, wanted).await?;
    expect_nothing(world, PROMISE, wanted).await
}

async fn again<W: World>(
    world: &W,
    promise: &'static str,
    desired: &LoadBalancer,
    step: &<W::Provider as LoadBalancerProvider>::Step,
) -> Result<(), Violation> {
    match world.provider(&desired.owner.cluster).execute(step).await {
        Ok(Outcome::Done | Outcome::Unchanged | Outcome::InProgress { .. }) => Ok(()),
        Err(error) => Err(Violation::new(promise, format!("{step} again: {error}"))),
    }
}

/// Stops after every possible number of steps of a creation; the next process ends with one load balancer.
pub async fn a_crash_after_any_step_converges<W: World>(world: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a crash after any step converges to one load balancer";
    for survived in 0.. {
        let desired = world.base(mk_owner("a", &format!("crash-{survived}"))?);
        let wanted = Desired::Present(&desired);
        let steps = drive(world, wanted, Some(survived)).await?.steps.len();
        let driven = converge(world, wanted).await?;
        let provider = world.provider(&desired.owner.cluster);
        expect_one(world, PROMISE, &provider, driven.observed.as_ref())?;
        remove(world, wanted).await?;
        expect_nothing(world, PROMISE, wanted).await?;
        if steps < survived {
            break;
        }
    }
    Ok(())
}

/// Gives up a creation after every possible number of steps, and a deletion likewise: nothing is left.
pub async fn a_crash_while_deleting_leaves_nothing<W: World>(world: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a crash while creating or deleting leaves nothing behind";
    for survived in 0.. {
        let desired = world.base(mk_owner("a", &format!("half-{survived}"))?);
        let wanted = Desired::Present(&desired);
        let created = drive(world, wanted, Some(survived)).await?.steps.len();
        remove(world, wanted).await?;
        expect_nothing(world, PROMISE, wanted).await?;
        converge(world, wanted).await?;
        let deleted = drive(world, Desired::Absent(&desired.owner), Some(survived)).await?.steps.len();
        remove(world, wanted).await?;
        expect_nothing(world, PROMISE, wanted).await?;
        if created < survived && deleted < survived {
            break;
        }
    }
    Ok(())
}

/// The cloud does what it was asked, and the reply is lost; the retry must find it. Where the world can do this.
pub async fn a_lost_reply_makes_no_second_one<W: World>(world: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a lost reply makes no second load balancer";
    for nth in 1..=4 {
        let desired = world.base(mk_owner("a", &format!("lost-{nth}"))?);
        let wanted = Desired::Present(&desired);
        if !world.lose_reply_of_write(nth) {
            return Ok(());
        }
        // The lost reply is an error of some step, or (beyond the last write) of none: either may be.
        drop(drive(world, wanted, None).await);
        world.lose_reply_of_write(0);
        let driven = converge(world, wanted).await?;
        let provider = world.provider(&desired.owner.cluster);
        expect_one(world, PROMISE, &provider, driven.observed.as_ref())?;
        world.lose_reply_of_write(nth);
        drop(remove(world, wanted).await);
        world.lose_reply_of_write(0);
        remove(world, wanted).await?;
        expect_nothing(world, PROMISE, wanted).await?;
    }
    Ok(())
}
