//! A plan in the making: steps in any order, sorted by what they need of one another.
//!
//! Owns: additive steps before destructive ones; the marks of a change's begin and end. Leaves to others: which steps,
//! and the order among those with the same effect (`step`).

use std::time::Duration;

use portico_provider::{Effect, Field, GroupName, Obstacle, Owner, Plan};

use crate::cloud::resources::{Id, Kind};
use crate::step::{Action, Mark, Named, Step};
use crate::tags::SyncedHash;

/// Why what a group shared is deleted.
pub(super) const EMPTY_GROUP: &str = "the group has no member left";

/// The resources that carry the synced hash: the load balancer, or, if a group shares that, the Service's target groups.
pub(super) struct Marked {
    pub(super) load_balancer: Named,
    pub(super) target_groups: Vec<Named>,
}

/// Collects steps for one owner.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    owner: &'a Owner,
    /// The group whose things are made.
    group: Option<&'a GroupName>,
    /// Whether a group's things are among those that are changed.
    shared: bool,
    steps: Vec<(Action, Effect, String)>,
    waiting: Option<(String, Duration)>,
    blocked: Vec<(Field, Obstacle, String)>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(owner: &'a Owner, group: Option<&'a GroupName>, shared: bool) -> Self {
        Self { owner, group, shared, steps: Vec::new(), waiting: None, blocked: Vec::new() }
    }

    pub(super) fn additive(&mut self, action: Action, reason: impl Into<String>) {
        self.steps.push((action, Effect::Additive, reason.into()));
    }

    pub(super) fn destructive(&mut self, action: Action, reason: impl Into<String>) {
        self.steps.push((action, Effect::Destructive, reason.into()));
    }

    pub(super) fn delete(&mut self, kind: Kind, named: Named, reason: &str) {
        self.destructive(Action::Delete { kind, named, shared: false }, reason);
    }

    pub(super) fn delete_listener(&mut self, port: u16, id: &Id, reason: &str) {
        self.delete(Kind::Listener, Named { name: port.to_string(), id: Some(id.clone()) }, reason);
    }

    /// A load balancer of a group without members.
    pub(super) fn delete_shared(&mut self, named: Named) {
        let action = Action::Delete { kind: Kind::LoadBalancer, named, shared: true };
        self.destructive(action, EMPTY_GROUP);
    }

    /// The plan reports the first reason; the soonest retry counts.
    pub(super) fn wait(&mut self, what: String, retry: Duration) {
        self.waiting = Some(match self.waiting.take() {
            Some((first, soonest)) => (first, soonest.min(retry)),
            None => (what, retry),
        });
    }

    pub(super) fn block(&mut self, field: Field, obstacle: Obstacle, message: String) {
        self.blocked.push((field, obstacle, message));
    }

    /// Whether there is nothing to do so far.
    fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// A note that all is done, which comes last, whatever comes before it.
    fn last(&mut self, action: Action, reason: &str) {
        let destroys = self.steps.iter().any(|(_, effect, _)| *effect == Effect::Destructive);
        let effect = if destroys { Effect::Destructive } else { Effect::Additive };
        self.steps.push((action, effect, reason.to_owned()));
    }

    /// Whether nothing waits or stands in the way.
    fn is_unhindered(&self) -> bool {
        self.waiting.is_none() && self.blocked.is_empty()
    }

    /// Notes that a change begins, if there is anything to do; and that all is done, once it is.
    pub(super) fn mark(&mut self, wanted: &SyncedHash, on: &Marked, present: Option<&SyncedHash>) {
        let begun = self.mark_dirty(on, present);
        if begun.as_ref() != Some(wanted) && self.is_unhindered() {
            let Marked { load_balancer, target_groups } = on;
            // A target group that is made on the way has none of the tags that others have.
            let tags = wanted.beyond(begun.as_ref().filter(|_| target_groups.is_empty()));
            let (load_balancer, target_groups) = (load_balancer.clone(), target_groups.clone());
            self.last(
                Action::Tag { load_balancer, target_groups, mark: Mark::Synced, tags },
                "so that a restart need not read it in full",
            );
        }
    }

    /// Marks the synced hash as dirty, if there is anything to do. Returns the hash that the tags have then.
    pub(super) fn mark_dirty(&mut self, on: &Marked, present: Option<&SyncedHash>) -> Option<SyncedHash> {
        match present {
            // A crash on the way, and a return to the synced spec, must not look finished.
            Some(SyncedHash { spec, targets: Some(_) }) if !self.is_empty() => {
                let Marked { load_balancer, target_groups } = on;
                let begun = SyncedHash { spec: spec.clone(), targets: None };
                let tags = begun.beyond(present);
                let target_groups =
                    target_groups.iter().filter(|group| group.id.is_some()).cloned().collect();
                let load_balancer = load_balancer.clone();
                self.additive(
                    Action::Tag { load_balancer, target_groups, mark: Mark::Dirty, tags },
                    "so that a crash on the way does not look finished",
                );
                Some(begun)
            }
            present => present.cloned(),
        }
    }

    pub(super) fn plan(self, because: &'static str) -> Plan<Step> {
        let Self { owner, group, shared, mut steps, waiting, blocked } = self;
        steps.sort_by_key(|(action, effect, _)| (*effect == Effect::Destructive, action.stage(shared)));
        let mut plan = steps.into_iter().fold(Plan::nothing(because), |plan, (action, effect, reason)| {
            plan.step(Step { owner: owner.clone(), group: group.cloned(), action }, effect, reason)
        });
        if let Some((what, retry)) = waiting {
            plan = plan.wait(what, retry);
        }
        blocked
            .into_iter()
            .fold(plan, |plan, (field, obstacle, message)| plan.block(field, obstacle, message))
    }
}
