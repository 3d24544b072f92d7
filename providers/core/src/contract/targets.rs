//! Targets of what exists, by themselves.
//!
//! Owns: promise 13. Leaves to others: traffic, and how soon a cloud finds a target healthy.
//! Invariant: the judge reads what the cloud sends to past the provider; the rest of the Service is never applied.

use std::collections::BTreeSet;

use super::drive::{Targeted, converge, expect_one, observe, plan_twice, remove, target, target_once};
use super::{CloudFixture, Registered, Variation, Violation, mk_owner, provides};
use crate::capabilities::Field;
use crate::desired::Desired;
use crate::model::{Backends, Listener, ListenerKey, LoadBalancer, Port, Targets};
use crate::provider::LoadBalancerProvider;

/// Whatever else differs, is refused or waits for consent: changed targets arrive, and nothing else changes.
pub async fn targets_depend_on_nothing_else<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "targets depend on nothing but targets";
    let base = fixture.base(mk_owner("a", "targeted")?);
    let provider = fixture.provider(&base.owner.cluster);
    let variations = fixture.variations(&base);
    let retargeted = variations.iter().find(|variation| variation.field == Field::Targets);
    let Some(Variation { field: _, desired: moved }) =
        retargeted.filter(|_| provides(&provider.capabilities()))
    else {
        return Ok(());
    };
    let other = LoadBalancer { owner: mk_owner("a", "reference")?, ..moved.clone() };
    converge(fixture, Desired::Present(&other)).await?;
    let after = fixture.registered(&other.owner).await;
    remove(fixture, Desired::Present(&other)).await?;
    converge(fixture, Desired::Present(&base)).await?;
    let before = fixture.registered(&base.owner).await;
    if before == after || before.values().all(BTreeSet::is_empty) {
        return Err(Violation::new(PROMISE, format!("the fixture registers {before:?}, then {after:?}")));
    }
    let others = variations.iter().filter(|variation| variation.field != Field::Targets);
    let tried: Vec<Variation> = fixture.unsupported(&base).into_iter().chain(others.cloned()).collect();
    for (Variation { field, desired }, (targets, expected)) in
        tried.iter().zip([(moved, &after), (&base, &before)].into_iter().cycle())
    {
        let backends = offered(desired, targets);
        let Targeted { observed, steps: _ } = target(fixture, &backends).await?;
        expect_one(fixture, PROMISE, &provider, observed.as_ref())?;
        let seen = fixture.registered(&base.owner).await;
        if let Some(wrong) = unlike(&base, desired, expected, &seen) {
            return Err(Violation::new(PROMISE, format!("{field} changed, and {wrong}")));
        }
    }
    target(fixture, &base.backends()).await?;
    agree(fixture, PROMISE, &base, moved).await?;
    remove(fixture, Desired::Present(&base)).await.map(|_driven| ())
}

/// The targets of one load balancer beside everything else of another.
fn offered(rest: &LoadBalancer, targets: &LoadBalancer) -> Backends {
    let Backends { nodes, pods, .. } = targets.backends();
    let Backends { nodes: their_nodes, pods: their_pods, .. } = rest.backends();
    match targets.targets {
        Targets::Nodes(_) => Backends { nodes, pods: their_pods, ..rest.backends() },
        Targets::Pods(_) => Backends { nodes: their_nodes, pods, ..rest.backends() },
    }
}

/// The first listener of `base` behind which not the expected targets are. One that `rest` lacks has none; one that it
/// changed may have others.
fn unlike(
    base: &LoadBalancer,
    rest: &LoadBalancer,
    expected: &Registered,
    seen: &Registered,
) -> Option<String> {
    base.listeners.iter().find_map(|listener| {
        let key = listener.key();
        let wanted = match rest.listener(key) {
            Some(same) if same == listener => expected.get(&key).cloned().unwrap_or_default(),
            Some(_changed) => return None,
            None => BTreeSet::new(),
        };
        let got = seen.get(&key).cloned().unwrap_or_default();
        (got != wanted).then(|| format!("behind {key} are {got:?}, not {wanted:?}"))
    })
}

/// What one planner has done, the other finds done.
async fn agree<W: CloudFixture>(
    fixture: &W,
    promise: &'static str,
    base: &LoadBalancer,
    moved: &LoadBalancer,
) -> Result<(), Violation> {
    let provider = fixture.provider(&base.owner.cluster);
    let settled = converge(fixture, Desired::Present(base)).await?.observed;
    let published = super::life::addresses(&provider.report(base, settled.as_ref()));
    target(fixture, &moved.backends()).await?;
    let moved = LoadBalancer { published, ..moved.clone() };
    let observed = observe(&provider, Desired::Present(&moved)).await?;
    let left = plan_twice(&provider, Desired::Present(&moved), observed.as_ref())?;
    if left.steps().iter().any(|planned| planned.effect == crate::plan::Effect::Destructive) {
        return Err(Violation::new(promise, format!("the targets are as desired, and it plans: {left}")));
    }
    Ok(())
}

/// Node ports are swapped, moved, taken over by another listener, and freed, while no target's health is known: after one
/// pass no target has a port that its listener lost.
pub async fn no_target_keeps_a_lost_port<W: CloudFixture>(fixture: &W) -> Result<(), Violation> {
    const PROMISE: &str = "a target is a machine and a port: a lost port goes in the first pass";
    let mut base = fixture.base(mk_owner("a", "ported")?);
    let provider = fixture.provider(&base.owner.cluster);
    let Some(first) = base.listeners.first().cloned().filter(|_| provides(&provider.capabilities())) else {
        return Ok(());
    };
    let second = Listener {
        port: beside(first.port, 1)?,
        name: "second".to_owned(),
        node_port: first.node_port.map(|port| beside(port, 1)).transpose()?,
        ..first.clone()
    };
    let fresh = first.node_port.map(|port| beside(port, 2)).transpose()?;
    let with = |listener: &Listener, node_port| Listener { node_port, ..listener.clone() };
    base.listeners = [first.clone(), second.clone()].into();
    let histories: [BTreeSet<Listener>; 6] = [
        [with(&first, second.node_port), with(&second, first.node_port)].into(),
        [with(&first, fresh), with(&second, first.node_port)].into(),
        [with(&first, first.node_port), with(&second, fresh)].into(),
        [with(&second, first.node_port)].into(),
        [with(&first, second.node_port)].into(),
        base.listeners.clone(),
    ];
    converge(fixture, Desired::Present(&base)).await?;
    fixture.hold_health(true);
    let judged = judge(fixture, PROMISE, &base, &histories).await;
    fixture.hold_health(false);
    judged?;
    remove(fixture, Desired::Present(&base)).await.map(|_driven| ())
}

async fn judge<W: CloudFixture>(
    fixture: &W,
    promise: &'static str,
    base: &LoadBalancer,
    histories: &[BTreeSet<Listener>],
) -> Result<(), Violation> {
    for listeners in histories {
        let desired = LoadBalancer { listeners: listeners.clone(), ..base.clone() };
        let backends = desired.backends();
        target_once(fixture, &backends).await?;
        let seen = fixture.registered(&base.owner).await;
        if let Some((key, lost)) = lost(&backends, &seen) {
            return Err(Violation::new(promise, format!("{key} still sends to {lost} after {backends:?}")));
        }
    }
    Ok(())
}

/// A listener, and its targets at ports that it does not have.
fn lost(backends: &Backends, seen: &Registered) -> Option<(ListenerKey, String)> {
    seen.iter().find_map(|(key, targets)| {
        let ports = ports(backends, *key);
        let stray = targets.iter().find(|(_, port)| match port {
            Some(port) => !ports.contains(port),
            None => ports.is_empty(),
        });
        stray.map(|stray| (*key, format!("{stray:?}")))
    })
}

/// Where the targets of one listener may listen.
fn ports(backends: &Backends, key: ListenerKey) -> BTreeSet<Port> {
    let Some(listener) = backends.listener(key) else { return BTreeSet::new() };
    let of_pods = backends.pods.iter().filter_map(|pod| pod.ports.get(&key)).copied();
    of_pods.chain(listener.node_port).collect()
}

fn beside(port: Port, by: u16) -> Result<Port, Violation> {
    let moved = port.get().checked_add(by).and_then(|number| Port::try_from(number).ok());
    moved.ok_or_else(|| Violation::new("the fixture's base leaves room for two more ports", port.to_string()))
}
