//! A plan in the making: steps in any order, sorted by what they need of one another.
//!
//! Owns: the order laws. Leaves to others: which steps. Invariant: what widens comes before what narrows; a thing is
//! made before it is named, and deleted after nothing names it.

use std::time::Duration;

use portico_provider::{Effect, Field, GroupName, Obstacle, Owner, Plan};

use crate::step::{Action, Step};

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

    /// The first thing waited for is told; the soonest look counts.
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
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// A note that all is done, which comes last, whatever comes before it.
    pub(super) fn last(&mut self, action: Action, reason: &str) {
        let destroys = self.steps.iter().any(|(_, effect, _)| *effect == Effect::Destructive);
        let effect = if destroys { Effect::Destructive } else { Effect::Additive };
        self.steps.push((action, effect, reason.to_owned()));
    }

    /// Whether nothing waits or stands in the way.
    pub(super) fn is_unhindered(&self) -> bool {
        self.waiting.is_none() && self.blocked.is_empty()
    }

    pub(super) fn plan(self, because: &'static str) -> Plan<Step> {
        let Self { owner, group, shared, mut steps, waiting, blocked } = self;
        steps.sort_by_key(|(action, effect, _)| (*effect == Effect::Destructive, rank(action, shared)));
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

/// Makers before users, then users before deleters. In a group, a target group is the claim to be in it: made first,
/// deleted last. And nobody is let in before the load balancer is known to be ours.
fn rank(action: &Action, shared: bool) -> (u8, bool) {
    match action {
        Action::CreateSecurityGroup { .. } if shared => (6, true),
        Action::Authorize { .. } if shared => (11, true),
        Action::DeleteSecurityGroup(_) if shared => (21, true),
        other => (place(other), false),
    }
}

fn place(action: &Action) -> u8 {
    match action {
        Action::Read
        | Action::Adopt { .. }
        | Action::Reclaim { .. }
        | Action::ReadPrefixLists(_)
        | Action::ReadSecurityGroups(_)
        | Action::Mark { .. }
        | Action::MarkDirty { .. } => 0,
        Action::CreateSecurityGroup { .. } => 1,
        Action::Authorize { .. } => 2,
        Action::CreateTargetGroup(_) => 3,
        Action::SetGroupAttributes { .. } => 4,
        Action::SetHealthCheck { .. } => 5,
        Action::Register { .. } => 6,
        Action::CreateLoadBalancer { .. } => 7,
        Action::SetAttributes { .. } => 8,
        Action::SetSubnets { .. } => 9,
        Action::SetSecurityGroups { .. } => 10,
        Action::SetAddressType { .. } => 11,
        // With prefixes before UDP listeners come, without when they are gone.
        Action::SetFamilies { families, .. } if families.source_nat => 11,
        Action::CreateListener { .. } => 12,
        Action::ModifyListener { .. } => 13,
        Action::AddCertificates { .. } => 14,
        Action::SetListenerAttributes { .. } => 15,
        Action::Deregister { .. } => 16,
        Action::Revoke { .. } => 17,
        Action::RemoveCertificates { .. } => 18,
        Action::DeleteListener { .. } => 19,
        Action::SetFamilies { .. } => 20,
        Action::DeleteLoadBalancer(_) | Action::DeleteSharedLoadBalancer(_) => 21,
        Action::DeleteTargetGroup(_) => 22,
        Action::DeleteSecurityGroup(_) => 23,
        Action::MarkSynced { .. } => 24,
    }
}
