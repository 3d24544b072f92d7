//! Making one, finding it again, and taking it away.
//!
//! Owns: promises 2, 4, 7, 8, 9 and the law of ownership. Leaves to others: crashes and changes.
//! Invariant: each check removes what it made.

use std::collections::BTreeSet;

use super::drive::{converge, drive, expect_nothing, expect_one, inventory, observe, plan_twice, remove};
use super::{CloudFixture, Violation, mk_owner, provides};
use crate::capabilities::StatusKind;
use crate::desired::Desired;
use crate::model::IngressAddress;
use crate::model::LoadBalancer;
use crate::provider::{LoadBalancerProvider, Outcome};
use crate::report::Report;

/// Create → the inventory shows it with its owner, agrees with `observe`, and nothing is left to do.
pub async fn a_created_one_is_in_the_inventory<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "what was created is in the inventory, with its owner";
    let desired = fixture.base(mk_owner("a", "created")?);
    let wanted = Desired::Present(&desired);
    let driven = converge(fixture, wanted).await?;
    let provider = fixture.provider(&desired.owner.cluster);
    expect_one(fixture, PROMISE, &provider, driven.observed.as_ref())?;
    let report = provider.report(&desired, driven.observed.as_ref());
    if !report.ready || (report.ingress.is_empty() && provides(&provider.capabilities())) {
        return Err(Violation::new(
            "what converged is reported ready, with its address",
            format!("{report:?}"),
        ));
    }
    let listed = inventory(fixture, &desired.owner.cluster).await?;
    match listed.services.get(&desired.owner.service) {
        Some(owned) if owned.owner == desired.owner => {
            // By now the status shows it.
            let published = LoadBalancer { published: addresses(&report), ..desired.clone() };
            let plan = plan_twice(&provider, Desired::Present(&published), Some(&owned.observed))?;
            if !plan.is_settled() {
                return Err(Violation::new(PROMISE, format!("planned from the inventory: {plan}")));
            }
        }
        Some(owned) => return Err(Violation::new(PROMISE, format!("listed for {}", owned.owner))),
        None if provides(&provider.capabilities()) => {
            return Err(Violation::new(PROMISE, format!("{} is not listed", desired.owner)));
        }
        None => {}
    }
    remove(fixture, wanted).await.map(|_driven| ())
}

/// Delete → nothing is observed, nothing is listed, and a neighbour is as before.
pub async fn deleting_ends_empty<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "deleting ends with an empty listing, and takes nothing else";
    let doomed = fixture.base(mk_owner("a", "doomed")?);
    let neighbour = fixture.base(mk_owner("a", "neighbour")?);
    converge(fixture, Desired::Present(&doomed)).await?;
    converge(fixture, Desired::Present(&neighbour)).await?;
    remove(fixture, Desired::Present(&doomed)).await?;
    expect_nothing(fixture, PROMISE, Desired::Present(&doomed)).await?;
    let provider = fixture.provider(&neighbour.owner.cluster);
    let kept = observe(&provider, Desired::Present(&neighbour)).await?;
    expect_one(fixture, PROMISE, &provider, kept.as_ref())?;
    remove(fixture, Desired::Present(&neighbour)).await.map(|_driven| ())
}

/// The steps of a finished deletion, once more, are done; and an absent one has nothing to plan.
pub async fn deleting_the_absent_is_done<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "deleting the absent is done";
    let desired = fixture.base(mk_owner("a", "absent")?);
    converge(fixture, Desired::Present(&desired)).await?;
    let deletion = remove(fixture, Desired::Present(&desired)).await?;
    let provider = fixture.provider(&desired.owner.cluster);
    for step in &deletion.steps {
        match provider.execute(step).await {
            Ok(Outcome::Done) => {}
            other => return Err(Violation::new(PROMISE, format!("{step}: {other:?}"))),
        }
    }
    let plan = plan_twice(&provider, Desired::Absent(&desired.owner), None)?;
    if plan.is_settled() { Ok(()) } else { Err(Violation::new(PROMISE, plan.to_string())) }
}

/// Two clusters with the same Service UID: each sees and deletes only its own.
pub async fn clusters_do_not_see_each_other<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "another cluster's things are neither shown nor touched";
    let ours = fixture.base(mk_owner("a", "twin")?);
    let theirs = fixture.base(mk_owner("b", "twin")?);
    converge(fixture, Desired::Present(&theirs)).await?;
    expect_nothing(fixture, PROMISE, Desired::Present(&ours)).await?;
    let listed = inventory(fixture, &ours.owner.cluster).await?;
    if let Some(foreign) = listed.services.values().find(|owned| owned.owner.cluster != ours.owner.cluster) {
        return Err(Violation::new(PROMISE, format!("listed: {}", foreign.owner)));
    }
    converge(fixture, Desired::Present(&ours)).await?;
    remove(fixture, Desired::Present(&ours)).await?;
    let provider = fixture.provider(&theirs.owner.cluster);
    let kept = observe(&provider, Desired::Present(&theirs)).await?;
    expect_one(fixture, PROMISE, &provider, kept.as_ref())?;
    remove(fixture, Desired::Present(&theirs)).await.map(|_driven| ())
}

/// What a Service's status shows is given to it again, although another address would come first.
pub async fn published_addresses_are_claimed<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a published address is claimed before another is allocated";
    let first = fixture.base(mk_owner("a", "first")?);
    let mut second = fixture.base(mk_owner("a", "second")?);
    if fixture.provider(&first.owner.cluster).capabilities().status != StatusKind::Ip {
        return Ok(());
    }
    converge(fixture, Desired::Present(&first)).await?;
    let had = addresses_of(fixture, &second).await?;
    remove(fixture, Desired::Present(&first)).await?;
    remove(fixture, Desired::Present(&second)).await?;
    second.published.clone_from(&had);
    let has = addresses_of(fixture, &second).await?;
    remove(fixture, Desired::Present(&second)).await?;
    if has == had { Ok(()) } else { Err(Violation::new(PROMISE, format!("had {had:?}, now {has:?}"))) }
}

async fn addresses_of<W: CloudFixture>(
    fixture: &W,
    desired: &LoadBalancer,
) -> Result<BTreeSet<IngressAddress>, Violation> {
    let driven = drive(fixture, Desired::Present(desired), None).await?;
    let report = fixture.provider(&desired.owner.cluster).report(desired, driven.observed.as_ref());
    Ok(addresses(&report))
}

/// The addresses of a report.
pub(super) fn addresses(report: &Report) -> BTreeSet<IngressAddress> {
    report.ingress.iter().map(|ingress| ingress.address.clone()).collect()
}
