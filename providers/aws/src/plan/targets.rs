//! Targets of one group: registered before others are deregistered, and never more than there is room for.
//!
//! Owns: the order among them. Leaves to others: which there should be (`translate/targets`).
//! Invariants: a target is taken away only when every new one that is there has been asked for its health; where old
//! and new ones find no room together, old ones make it in turns, and as many as are wanted remain.

use std::collections::BTreeSet;

use super::LOOK_AGAIN;
use super::balancer::Parts;
use super::draft::Draft;
use crate::cloud::resources::{Health, Target};
use crate::observed::Group;
use crate::step::Action;
use crate::wanted::WantedListener;

impl Parts<'_> {
    pub(super) fn targets(
        &self,
        draft: &mut Draft<'_>,
        name: &str,
        group: &Group,
        listener: &WantedListener,
    ) {
        let wanted: &BTreeSet<Target> = &listener.targets;
        let mut missing: Vec<Target> =
            wanted.iter().filter(|target| !group.targets.contains_key(*target)).cloned().collect();
        let mut stale: Vec<Target> =
            group.targets.keys().filter(|target| !wanted.contains(*target)).cloned().collect();
        let there = group.targets.iter().filter(|(target, _)| wanted.contains(*target));
        let unasked = there.filter(|(_, health)| **health == Health::Initial).count();
        let room = listener.room.saturating_sub(group.targets.len());
        // The rest comes when there is room.
        let crowded = missing.len() > room && !stale.is_empty();
        if crowded {
            missing.truncate(room);
        }
        let new = missing.len() + unasked;
        if !missing.is_empty() {
            let action = Action::Register { group: self.group_named(name), targets: missing };
            draft.widen(action, "they are new");
        }
        if stale.is_empty() {
            return;
        }
        if new > 0 {
            let what = format!("{new} new targets of {name} to be asked for their health before old ones go");
            draft.wait(what, LOOK_AGAIN);
            return;
        }
        let mut reason = "they are no targets any more";
        if crowded {
            stale.truncate(group.targets.len().saturating_sub(wanted.len()).max(1));
            reason = "they are no targets any more, and others need their room";
            draft.wait(format!("room for new targets of {name}"), LOOK_AGAIN);
        }
        let action = Action::Deregister { group: self.group_named(name), targets: stale };
        draft.narrow(action, reason);
    }
}
