//! Repetition, crashes and lost replies.
//!
//! Owns: promises 3 and 5. Leaves to others: faults inside a cloud (emulators have their own).
//! Invariant: after each crash the next process knows nothing but the cloud.

use super::drive::{Driven, converge, drive, expect_nothing, expect_one, observe, remove};
use super::{CloudFixture, Violation, mk_owner};
use crate::desired::Desired;
use crate::model::LoadBalancer;
use crate::provider::{LoadBalancerProvider, Outcome};

/// Each step of a creation runs twice in a row, each time in a new process, and once more at the end.
pub async fn steps_can_be_repeated<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a step executed again changes nothing";
    let desired = fixture.base(mk_owner("a", "repeated")?);
    let wanted = Desired::Present(&desired);
    let mut done = 0;
    loop {
        let Driven { observed: _, steps } = drive(fixture, wanted, Some(done + 1)).await?;
        let Some(step) = steps.last() else { break };
        for _ in 0..2 {
            again(fixture, PROMISE, &desired, step).await?;
        }
        let seen = observe(&fixture.provider(&desired.owner.cluster), wanted).await?;
        let count = seen.map_or(0, |observed| fixture.count(&observed));
        if count > 1 {
            return Err(Violation::new(PROMISE, format!("{count} load balancers after {step} again")));
        }
        done += 1;
    }
    let finished = converge(fixture, wanted).await?;
    let provider = fixture.provider(&desired.owner.cluster);
    expect_one(fixture, PROMISE, &provider, finished.observed.as_ref())?;
    remove(fixture, wanted).await?;
    expect_nothing(fixture, PROMISE, wanted).await
}

async fn again<W: CloudFixture>(
    fixture: &W,
    promise: &'static str,
    desired: &LoadBalancer,
    step: &<W::Provider as LoadBalancerProvider>::Step,
) -> Result<(), Violation> {
    match fixture.provider(&desired.owner.cluster).execute(step).await {
        Ok(Outcome::Done | Outcome::Unchanged | Outcome::InProgress { .. }) => Ok(()),
        Err(error) => Err(Violation::new(promise, format!("{step} again: {error}"))),
    }
}

/// Stops after every possible number of steps of a creation; the next process ends with one load balancer.
pub async fn a_crash_after_any_step_converges<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a crash after any step converges to one load balancer";
    for survived in 0.. {
        let desired = fixture.base(mk_owner("a", &format!("crash-{survived}"))?);
        let wanted = Desired::Present(&desired);
        let steps = drive(fixture, wanted, Some(survived)).await?.steps.len();
        let driven = converge(fixture, wanted).await?;
        let provider = fixture.provider(&desired.owner.cluster);
        expect_one(fixture, PROMISE, &provider, driven.observed.as_ref())?;
        remove(fixture, wanted).await?;
        expect_nothing(fixture, PROMISE, wanted).await?;
        if steps < survived {
            break;
        }
    }
    Ok(())
}

/// Gives up a creation after every possible number of steps, and a deletion likewise: nothing is left.
pub async fn a_crash_while_deleting_leaves_nothing<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a crash while creating or deleting leaves nothing behind";
    for survived in 0.. {
        let desired = fixture.base(mk_owner("a", &format!("half-{survived}"))?);
        let wanted = Desired::Present(&desired);
        let created = drive(fixture, wanted, Some(survived)).await?.steps.len();
        remove(fixture, wanted).await?;
        expect_nothing(fixture, PROMISE, wanted).await?;
        converge(fixture, wanted).await?;
        let deleted = drive(fixture, Desired::Absent(&desired.owner), Some(survived)).await?.steps.len();
        remove(fixture, wanted).await?;
        expect_nothing(fixture, PROMISE, wanted).await?;
        if created < survived && deleted < survived {
            break;
        }
    }
    Ok(())
}

/// The cloud does what it was asked, and the reply is lost; the retry must find it. Where the fixture can do this.
pub async fn a_lost_reply_makes_no_second_one<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a lost reply makes no second load balancer";
    for nth in 1..=4 {
        let desired = fixture.base(mk_owner("a", &format!("lost-{nth}"))?);
        let wanted = Desired::Present(&desired);
        if !fixture.lose_reply_of_write(nth) {
            return Ok(());
        }
        // The lost reply is an error of some step, or (beyond the last write) of none: either may be.
        drop(drive(fixture, wanted, None).await);
        fixture.lose_reply_of_write(0);
        let driven = converge(fixture, wanted).await?;
        let provider = fixture.provider(&desired.owner.cluster);
        expect_one(fixture, PROMISE, &provider, driven.observed.as_ref())?;
        fixture.lose_reply_of_write(nth);
        drop(remove(fixture, wanted).await);
        fixture.lose_reply_of_write(0);
        remove(fixture, wanted).await?;
        expect_nothing(fixture, PROMISE, wanted).await?;
    }
    Ok(())
}
