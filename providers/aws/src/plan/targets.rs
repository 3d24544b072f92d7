//! Targets of one group: nodes and pods are registered before others are deregistered, ports are not.
//!
//! Owns: the order among them. Leaves to others: which there should be (`wanted/targets`), of which groups (`backends`).
//! Invariants:
//! - A target whose port is not its listener's is deregistered at once: Kubernetes may have given that port to another Service.
//! - A target at the right port is deregistered only when AWS has asked every registered new one for its health.
//! - Where old and new targets find no room together, old ones make it in turns, and as many as are wanted remain.
//! - Targets that AWS refused are waited for; old ones at the right port stay while no new one is registered.

use std::collections::BTreeSet;

use super::Pace;
use super::draft::Draft;
use crate::cloud::refusal::{self, Refusal};
use crate::cloud::resources::{Health, Target};
use crate::observed::Targets;
use crate::step::{Action, Named};

/// `room`: so many targets AWS lets the group have, old and new together.
pub(super) fn targets(
    draft: &mut Draft<'_>,
    pace: Pace,
    group: &Named,
    present: &Targets,
    (wanted, room): (&BTreeSet<Target>, usize),
) {
    let mut missing: Vec<Target> =
        wanted.iter().filter(|target| !present.contains_key(*target)).cloned().collect();
    let registered = || present.iter().filter(|(_, health)| !matches!(health, Health::Refused(_)));
    let (there, others): (Vec<_>, Vec<_>) = registered().partition(|(target, _)| wanted.contains(*target));
    let others = others.into_iter().map(|(target, _)| target.clone());
    let (mut going, mut stale): (Vec<Target>, Vec<Target>) = others.partition(is_lost(wanted));
    let unasked = there.iter().filter(|(_, health)| **health == Health::Initial).count();
    let registered = registered().count();
    let room = room.saturating_sub(registered);
    // The rest comes when there is room.
    let is_full = missing.len() > room && registered > there.len();
    if is_full {
        missing.truncate(room);
    }
    let new = missing.len() + unasked;
    if !missing.is_empty() {
        draft.additive(Action::Register { target_group: group.clone(), targets: missing }, "they are new");
    }
    let refused = refused(present, wanted);
    if let Some((tries, what)) = &refused {
        draft.wait(format!("{what}, in {group}"), pace.again(*tries));
    }
    let name = &group.name;
    let mut reason = "their port is not the listener's any more";
    // Whoever is to take their place was refused: they serve as well as they can.
    let irreplaceable = there.is_empty() && refused.is_some();
    if new > 0 && !stale.is_empty() {
        let what = format!("{new} new targets of {name} to be asked for their health before old ones go");
        draft.wait(what, pace.wait(0));
    } else if !stale.is_empty() && !irreplaceable {
        reason = "they are no targets any more";
        if is_full {
            stale.truncate(registered.saturating_sub(wanted.len() + going.len()).max(1));
            reason = "they are no targets any more, and others need their room";
        }
        going.append(&mut stale);
    }
    if going.is_empty() {
        return;
    }
    if is_full {
        draft.wait(format!("room for new targets of {name}"), pace.wait(0));
    }
    draft.destructive(Action::Deregister { target_group: group.clone(), targets: going }, reason);
}

/// Whether a target is at a port where none is wanted, or where its machine is not.
fn is_lost(wanted: &BTreeSet<Target>) -> impl Fn(&Target) -> bool {
    let ports: BTreeSet<u16> = wanted.iter().map(|target| target.port).collect();
    let machines: BTreeSet<&str> = wanted.iter().map(|target| target.id.as_str()).collect();
    move |target| !ports.contains(&target.port) || machines.contains(target.id.as_str())
}

/// Of the wanted targets that AWS refused: the fewest tries of any, and who they are.
fn refused(present: &Targets, wanted: &BTreeSet<Target>) -> Option<(u32, String)> {
    let all = present.iter().filter(|(target, _)| wanted.contains(*target));
    let all: Vec<(&Target, &Refusal)> = all
        .filter_map(|(target, health)| match health {
            Health::Refused(refusal) => Some((target, refusal)),
            _ => None,
        })
        .collect();
    let tries = all.iter().map(|(_, refusal)| refusal.tries).min()?;
    Some((tries, format!("targets that AWS refuses to be fit: {}", refusal::describe(&all))))
}
