//! Changing one field at a time, replacing, and refusing.
//!
//! Owns: promise 10, the field table and the unsupported. Leaves to others: what traffic sees meanwhile.
//! Invariant: every field that can change has a variation, so that a new field cannot be forgotten.

use super::drive::{converge, drive, expect_nothing, expect_one, observe, plan_twice, remove, round};
use super::life::addresses;
use super::{CloudFixture, Variation, Violation, mk_owner, provides};
use crate::capabilities::{Field, Mutability};
use crate::desired::Desired;
use crate::model::{LoadBalancer, Replacement};
use crate::plan::Obstacle;
use crate::provider::LoadBalancerProvider;

/// Each field has one row, and each that can change has a variation to try it with.
pub fn the_field_table_is_complete<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "each field is mutable, replaceable or immutable, in one table";
    let base = fixture.base(mk_owner("a", "table")?);
    let capabilities = fixture.provider(&base.owner.cluster).capabilities();
    let variations = fixture.variations(&base);
    for field in Field::ALL {
        let rows = capabilities.fields.iter().filter(|rule| rule.field == field).count();
        if rows != 1 {
            return Err(Violation::new(PROMISE, format!("{field} has {rows} rows")));
        }
        let tried = variations.iter().any(|variation| variation.field == field);
        let needed = provides(&capabilities) && capabilities.mutability(field) != Mutability::Immutable;
        if needed && !tried {
            return Err(Violation::new(PROMISE, format!("no variation tries {field}")));
        }
    }
    Ok(())
}

/// From the base to each variation and back, in place or (with consent) by replacement.
pub async fn every_field_converges<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    let base = fixture.base(mk_owner("a", "changing")?);
    for Variation { field, desired } in fixture.variations(&base) {
        converge(fixture, Desired::Present(&base)).await?;
        change(fixture, field, &consenting(&desired)).await?;
        change(fixture, field, &consenting(&base)).await?;
    }
    remove(fixture, Desired::Present(&base)).await?;
    expect_nothing(fixture, "what was changed can be deleted", Desired::Present(&base)).await
}

fn consenting(desired: &LoadBalancer) -> LoadBalancer {
    LoadBalancer { replacement: Replacement::Allowed, ..desired.clone() }
}

async fn change<W: CloudFixture>(fixture: &W, field: Field, desired: &LoadBalancer) -> Result<(), Violation> {
    const PROMISE: &str = "a change of each field converges, and has an effect";
    let provider = fixture.provider(&desired.owner.cluster);
    let before = observe(&provider, Desired::Present(desired)).await?;
    let plan = plan_twice(&provider, Desired::Present(desired), before.as_ref())?;
    if plan.steps().is_empty() && provides(&provider.capabilities()) {
        return Err(Violation::new(PROMISE, format!("{field} changed, but: {plan}")));
    }
    let published = publish_until_settled(fixture, desired).await?;
    let driven = converge(fixture, Desired::Present(&published)).await?;
    expect_one(fixture, PROMISE, &provider, driven.observed.as_ref())
}

/// A replacement goes on when the new addresses are published, as an operator would.
async fn publish_until_settled<W: CloudFixture>(
    fixture: &W,
    desired: &LoadBalancer,
) -> Result<LoadBalancer, Violation> {
    let mut current = desired.clone();
    let provider = fixture.provider(&desired.owner.cluster);
    for _ in 0..100 {
        let observed = observe(&provider, Desired::Present(&current)).await?;
        current.published = addresses(&provider.report(&current, observed.as_ref()));
        if round(fixture, Desired::Present(&current), usize::MAX).await?.plan.is_settled() {
            break;
        }
    }
    Ok(current)
}

/// Without consent a replacement is blocked, and what serves stays as it is, address included.
pub async fn replacement_needs_consent<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a replacement needs consent";
    let base = fixture.base(mk_owner("a", "replaced")?);
    let provider = fixture.provider(&base.owner.cluster);
    let capabilities = provider.capabilities();
    for Variation { field, desired } in fixture.variations(&base) {
        if capabilities.mutability(field) != Mutability::Replace {
            continue;
        }
        let before = converge(fixture, Desired::Present(&base)).await?.observed;
        let served = provider.report(&base, before.as_ref()).ingress;
        let after = drive(fixture, Desired::Present(&desired), None).await?.observed;
        let plan = plan_twice(&provider, Desired::Present(&desired), after.as_ref())?;
        let shown = plan
            .blocked()
            .iter()
            .any(|blocked| blocked.field == field && blocked.obstacle == Obstacle::ReplacementRequired);
        let now = provider.report(&base, after.as_ref()).ingress;
        if !shown || now != served {
            return Err(Violation::new(PROMISE, format!("{field}: {plan}; {served:?} became {now:?}")));
        }
    }
    remove(fixture, Desired::Present(&base)).await.map(|_driven| ())
}

/// What a provider cannot do is blocked, by field, before anything is made; and its report does not panic.
pub fn the_unsupported_is_blocked<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "what cannot be done is blocked with its field, before anything is made";
    let base = fixture.base(mk_owner("a", "unsupported")?);
    let provider = fixture.provider(&base.owner.cluster);
    for Variation { field, desired } in fixture.unsupported(&base) {
        let plan = plan_twice(&provider, Desired::Present(&desired), None)?;
        let named = plan.blocked().iter().any(|blocked| {
            blocked.field == field && blocked.obstacle == Obstacle::Unsupported && !blocked.message.is_empty()
        });
        if !named || !plan.steps().is_empty() {
            return Err(Violation::new(PROMISE, format!("{field}: {plan}")));
        }
        if provider.report(&desired, None).ready && provides(&provider.capabilities()) {
            return Err(Violation::new(PROMISE, format!("{field}: reported ready")));
        }
    }
    Ok(())
}
