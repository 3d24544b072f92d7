//! Targets of one group: registered before others are deregistered, and never more than there is room for.
//!
//! Owns: the order among them. Leaves to others: which there should be (`translate/targets`).
//! Invariants: a target is taken away only when every new one that is there has been asked for its health; where old
//! and new ones find no room together, old ones make it in turns, and as many as are wanted remain. Targets that AWS
//! refused are waited for, and old ones stay for as long as no new one is there at all.

use std::collections::BTreeSet;

use super::Pace;
use super::draft::Draft;
use crate::cloud::refusal::{self, Refusal};
use crate::cloud::resources::{Health, Target};
use crate::observed::Targets;
use crate::step::{Action, Named};
use crate::wanted::WantedListener;

pub(super) fn targets(
    draft: &mut Draft<'_>,
    pace: Pace,
    group: &Named,
    present: &Targets,
    listener: &WantedListener,
) {
    let wanted: &BTreeSet<Target> = &listener.targets;
    let mut missing: Vec<Target> =
        wanted.iter().filter(|target| !present.contains_key(*target)).cloned().collect();
    let registered = || present.iter().filter(|(_, health)| !matches!(health, Health::Refused(_)));
    let (there, others): (Vec<_>, Vec<_>) = registered().partition(|(target, _)| wanted.contains(*target));
    let mut stale: Vec<Target> = others.into_iter().map(|(target, _)| target.clone()).collect();
    let unasked = there.iter().filter(|(_, health)| **health == Health::Initial).count();
    let registered = registered().count();
    let room = listener.room.saturating_sub(registered);
    // The rest comes when there is room.
    let crowded = missing.len() > room && !stale.is_empty();
    if crowded {
        missing.truncate(room);
    }
    let new = missing.len() + unasked;
    if !missing.is_empty() {
        draft.widen(Action::Register { group: group.clone(), targets: missing }, "they are new");
    }
    let refused = refused(present, wanted);
    if let Some((tries, what)) = &refused {
        draft.wait(format!("{what}, in {group}"), pace.again(*tries));
    }
    if stale.is_empty() {
        return;
    }
    let name = &group.name;
    if new > 0 {
        let what = format!("{new} new targets of {name} to be asked for their health before old ones go");
        draft.wait(what, pace.wait(0));
        return;
    }
    // Whoever is to take their place was refused: they serve as well as they can.
    if there.is_empty() && refused.is_some() {
        return;
    }
    let mut reason = "they are no targets any more";
    if crowded {
        stale.truncate(registered.saturating_sub(wanted.len()).max(1));
        reason = "they are no targets any more, and others need their room";
        draft.wait(format!("room for new targets of {name}"), pace.wait(0));
    }
    draft.narrow(Action::Deregister { group: group.clone(), targets: stale }, reason);
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
    Some((tries, format!("targets that AWS refuses to be fit: {}", refusal::told(&all))))
}
