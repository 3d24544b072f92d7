//! A plan in the making: steps in any order, sorted by what they need of one another.
//!
//! Owns: the order laws. Leaves to others: which steps. Invariant: additive steps come before destructive
//! ones; a resource is created before another names it, and deleted after the last that names it.

use std::time::Duration;

use portico_provider::{Effect, Field, GroupName, Obstacle, Owner, Plan};

use crate::cloud::resources::{Id, Kind};
use crate::step::{
    Action, Change, ListenerChange, LoadBalancerChange, Mark, Named, New, SecurityGroupChange, Step,
    TargetGroupChange,
};

/// Why what a group shared is deleted.
pub(super) const EMPTY_GROUP: &str = "the group has no member left";

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
        steps.sort_by_key(|(action, effect, _)| (*effect == Effect::Destructive, Stage::of(action, shared)));
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

/// The order of steps with the same effect: creators before users, then users before deleters. In a group, a target group is
/// the claim to be a member: created first, deleted last. No client is admitted before the load balancer is known to be the
/// group's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Preparation,
    SecurityGroups,
    Rules,
    TargetGroups,
    TargetGroupAttributes,
    HealthChecks,
    Registration,
    SharedSecurityGroups,
    LoadBalancer,
    Attributes,
    Subnets,
    Front,
    Families,
    SharedRules,
    Listeners,
    ListenerSpecs,
    Certificates,
    ListenerAttributes,
    Deregistration,
    RuleRemoval,
    CertificateRemoval,
    ListenerDeletion,
    SourceNatRemoval,
    LoadBalancerDeletion,
    SharedSecurityGroupDeletion,
    TargetGroupDeletion,
    SecurityGroupDeletion,
    Synced,
}

impl Stage {
    /// `shared`: a group's resources are among those that change.
    fn of(action: &Action, shared: bool) -> Self {
        use {LoadBalancerChange as L, SecurityGroupChange as S, TargetGroupChange as T};
        match action {
            Action::Read(_)
            | Action::Adopt { .. }
            | Action::Restore { .. }
            | Action::Tag { mark: Mark::Dirty | Mark::Note, .. } => Self::Preparation,
            Action::Tag { mark: Mark::Synced, .. } => Self::Synced,
            Action::Register { .. } => Self::Registration,
            Action::Deregister { .. } => Self::Deregistration,
            Action::Create(new) => match new {
                New::SecurityGroup { .. } if shared => Self::SharedSecurityGroups,
                New::SecurityGroup { .. } => Self::SecurityGroups,
                New::TargetGroup(_) => Self::TargetGroups,
                New::LoadBalancer(_) => Self::LoadBalancer,
                New::Listener { .. } => Self::Listeners,
            },
            Action::Modify(change) => match change {
                Change::SecurityGroup(_, S::Authorize(_)) if shared => Self::SharedRules,
                Change::SecurityGroup(_, S::Authorize(_)) => Self::Rules,
                Change::SecurityGroup(_, S::Revoke(_)) => Self::RuleRemoval,
                Change::TargetGroup(_, T::Attributes(_)) => Self::TargetGroupAttributes,
                Change::TargetGroup(_, T::HealthCheck(_)) => Self::HealthChecks,
                Change::LoadBalancer(_, L::Attributes(_)) => Self::Attributes,
                Change::LoadBalancer(_, L::Subnets { .. }) => Self::Subnets,
                Change::LoadBalancer(_, L::SecurityGroups(_)) => Self::Front,
                // UDP listeners on dual stack need prefixes: these come before them, and go after them.
                Change::LoadBalancer(_, L::Families(families, _)) if !families.source_nat => {
                    Self::SourceNatRemoval
                }
                Change::LoadBalancer(_, L::AddressType(_) | L::Families(..)) => Self::Families,
                Change::Listener(_, ListenerChange::Spec(..)) => Self::ListenerSpecs,
                Change::Listener(_, ListenerChange::AddCertificates(_)) => Self::Certificates,
                Change::Listener(_, ListenerChange::RemoveCertificates(_)) => Self::CertificateRemoval,
                Change::Listener(_, ListenerChange::Attributes(_)) => Self::ListenerAttributes,
            },
            Action::Delete { kind, .. } => match kind {
                Kind::Listener => Self::ListenerDeletion,
                Kind::LoadBalancer => Self::LoadBalancerDeletion,
                Kind::TargetGroup => Self::TargetGroupDeletion,
                Kind::SecurityGroup if shared => Self::SharedSecurityGroupDeletion,
                Kind::SecurityGroup => Self::SecurityGroupDeletion,
            },
        }
    }
}
