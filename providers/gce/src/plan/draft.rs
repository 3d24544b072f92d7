//! A plan in the making: compares with what exists, and knows which effect each call has.
//!
//! Owns: turning "this should exist" into calls with reasons. Leaves to others: in which order.
//! Invariant: the last step of a draft, and only that, waits for its operation: the others of one stage do not need
//! each other, and run side by side.

use portico_provider::{Effect, Owner, Plan};

use crate::observed::Observed;
use crate::resource::{Endpoint, Id, Resource};
use crate::step::{Call, Failure, Step};

pub(crate) struct Draft<'a> {
    owner: &'a Owner,
    observed: &'a Observed,
    calls: Vec<(Call, Effect, String, Option<Failure>)>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(owner: &'a Owner, observed: &'a Observed) -> Self {
        Self { owner, observed, calls: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Makes it, or changes it to be so.
    pub(crate) fn ensure(&mut self, resource: Resource) {
        match self.observed.resources.get(&resource.id()) {
            None => self.insert(resource, "there is none"),
            Some(present) if *present == resource => {}
            Some(_) => self.push(Call::Patch(resource), Effect::Additive, "it differs".to_owned()),
        }
    }

    /// Changes it to be so, if it exists, by taking something away.
    pub(crate) fn shrink(&mut self, resource: Resource) {
        if self.observed.resources.get(&resource.id()).is_some_and(|present| *present != resource) {
            let reason = "it has more than is wanted".to_owned();
            self.push(Call::Patch(resource), Effect::Destructive, reason);
        }
    }

    /// Changes what it says of itself, if it exists, which takes nothing away.
    pub(crate) fn note(&mut self, resource: Resource) {
        if self.observed.resources.get(&resource.id()).is_some_and(|present| *present != resource) {
            let reason = "its description is to say which nodes it has".to_owned();
            self.push(Call::Patch(resource), Effect::Additive, reason);
        }
    }

    pub(crate) fn insert(&mut self, resource: Resource, reason: &str) {
        self.push(Call::Insert { resource, otherwise: None }, Effect::Additive, reason.to_owned());
    }

    /// Makes the one, or the other if that is refused.
    pub(crate) fn insert_or(&mut self, resource: Resource, otherwise: Resource, reason: &str) {
        let call = Call::Insert { resource, otherwise: Some(otherwise) };
        self.push(call, Effect::Additive, reason.to_owned());
    }

    /// Makes it, whatever became of an earlier try with other values.
    pub(crate) fn insert_anew(&mut self, resource: Resource, reason: &str) {
        let call = Call::Insert { resource, otherwise: None };
        self.calls.push((call, Effect::Additive, reason.to_owned(), None));
    }

    pub(crate) fn attach(&mut self, group: Id, endpoints: Vec<Endpoint>) {
        if !endpoints.is_empty() {
            let reason = "they belong there and are not in it".to_owned();
            self.push(Call::Attach { group, endpoints }, Effect::Additive, reason);
        }
    }

    pub(crate) fn detach(&mut self, group: Id, endpoints: Vec<Endpoint>) {
        if !endpoints.is_empty() {
            let reason = "they do not belong there any more".to_owned();
            self.push(Call::Detach { group, endpoints }, Effect::Destructive, reason);
        }
    }

    pub(crate) fn delete(&mut self, id: Id, reason: &str) {
        self.push(Call::Delete(id), Effect::Destructive, reason.to_owned());
    }

    fn push(&mut self, call: Call, effect: Effect, reason: String) {
        let failure = self
            .observed
            .failure(&call.target())
            .map(|(operation, error)| Failure { operation: operation.name.clone(), error: error.clone() });
        self.calls.push((call, effect, reason, failure));
    }

    /// The plan with these calls.
    pub(crate) fn finish(mut self, plan: Plan<Step>) -> Plan<Step> {
        self.calls.sort_by_key(|(_, effect, ..)| *effect == Effect::Destructive);
        let count = self.calls.len();
        self.calls.into_iter().enumerate().fold(plan, |plan, (index, (call, effect, reason, after))| {
            let step = Step { owner: self.owner.clone(), call, after, waits: index + 1 == count };
            plan.step(step, effect, reason)
        })
    }
}
