//! Targets of one group: registered before others are deregistered, and never more than there is room for.
//!
//! Owns: the order among them. Leaves to others: which there should be (`translate/targets`).
//! Invariants: a target is taken away only when every new one that is there has been asked for its health; where old
//! and new ones find no room together, old ones make it in turns, and as many as are wanted remain.

use std::collections::BTreeSet;

use super::Pace;
use super::draft::Draft;
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
    let mut stale: Vec<Target> = present.keys().filter(|target| !wanted.contains(*target)).cloned().collect();
    let there = present.iter().filter(|(target, _)| wanted.contains(*target));
    let unasked = there.filter(|(_, health)| **health == Health::Initial).count();
    let room = listener.room.saturating_sub(present.len());
    // The rest comes when there is room.
    let crowded = missing.len() > room && !stale.is_empty();
    if crowded {
        missing.truncate(room);
    }
    let new = missing.len() + unasked;
    if !missing.is_empty() {
        draft.widen(Action::Register { group: group.clone(), targets: missing }, "they are new");
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
    let mut reason = "they are no targets any more";
    if crowded {
        stale.truncate(present.len().saturating_sub(wanted.len()).max(1));
        reason = "they are no targets any more, and others need their room";
        draft.wait(format!("room for new targets of {name}"), pace.wait(0));
    }
    draft.narrow(Action::Deregister { group: group.clone(), targets: stale }, reason);
}
