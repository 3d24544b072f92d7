//! A plan of a provider, as a value that prints itself.
//!
//! Owns: [`Plan`]. Leaves to others: making one (a provider's `plan`) and carrying it out (the operator, step by step).
//! Invariant: a plan without steps, waits and obstacles says why there is nothing to do.

use std::fmt;
use std::time::Duration;

use crate::capabilities::Field;

/// The next steps of a provider for one Service, in order.
///
/// A plan can have steps and obstacles at once: targets still change while a new scheme waits for consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<S> {
    steps: Vec<PlannedStep<S>>,
    waiting: Option<Waiting>,
    blocked: Vec<Blocked>,
    because: &'static str,
}

/// One step, with the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep<S> {
    /// The argument of `execute`.
    pub step: S,
    /// The reason: desired state against observed state.
    pub reason: String,
    /// Its effect on an existing load balancer.
    pub effect: Effect,
}

/// The effect of a step on an existing load balancer (law 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Only adds: safe on an inventory snapshot and on cached state.
    Additive,
    /// Takes something away, or changes it in place: planned only from a [verified](crate::ReadMode::Verify) read.
    Destructive,
}

/// The provider is at work by itself; read again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The awaited change, as a noun phrase.
    pub what: String,
    /// When to read again.
    pub retry: Duration,
}

/// Something desired that this plan does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The field that is meant.
    pub field: Field,
    /// The kind of obstacle.
    pub obstacle: Obstacle,
    /// The request, the reason against it, and the remedy.
    pub message: String,
}

/// Why something desired is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// This provider cannot do it, or not with this value.
    Unsupported,
    /// It needs another load balancer, and so the user's consent.
    ReplacementRequired,
    /// Another Service of the group has that listener.
    ListenerConflict,
    /// It is a matter of the whole load balancer, which another Service of the group decides.
    GroupConflict,
}

impl Obstacle {
    /// Whether it may resolve by itself when another Service of the group changes.
    pub fn is_of_the_group(self) -> bool {
        match self {
            Self::Unsupported | Self::ReplacementRequired => false,
            Self::ListenerConflict | Self::GroupConflict => true,
        }
    }

    /// Condition reason, Event reason and metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unsupported => "Unsupported",
            Self::ReplacementRequired => "ReplacementRequired",
            Self::ListenerConflict => "ListenerConflict",
            Self::GroupConflict => "GroupConflict",
        }
    }
}

impl<S> Plan<S> {
    /// A plan to build on; `because` is what it says if nothing is added: "the load balancer is as desired".
    pub fn nothing(because: &'static str) -> Self {
        Self { steps: Vec::new(), waiting: None, blocked: Vec::new(), because }
    }

    /// With one more step.
    #[must_use]
    pub fn step(mut self, step: S, effect: Effect, reason: impl Into<String>) -> Self {
        self.steps.push(PlannedStep { step, reason: reason.into(), effect });
        self
    }

    /// With something to wait for.
    #[must_use]
    pub fn wait(mut self, what: impl Into<String>, retry: Duration) -> Self {
        self.waiting = Some(Waiting { what: what.into(), retry });
        self
    }

    /// With one more obstacle.
    #[must_use]
    pub fn block(mut self, field: Field, obstacle: Obstacle, message: impl Into<String>) -> Self {
        self.blocked.push(Blocked { field, obstacle, message: message.into() });
        self
    }

    /// This plan after the one for the targets of what exists: its steps first, each once.
    #[must_use]
    pub fn after_targets(self, targets: Self) -> Self
    where
        S: PartialEq,
    {
        let Self { steps, waiting, blocked, because } = self;
        let mut all = targets.steps;
        for planned in steps {
            if !all.iter().any(|earlier| earlier.step == planned.step) {
                all.push(planned);
            }
        }
        let blocked = targets.blocked.into_iter().chain(blocked).collect();
        Self { steps: all, waiting: waiting.or(targets.waiting), blocked, because }
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[PlannedStep<S>] {
        &self.steps
    }

    /// The operation that the provider has not finished.
    pub fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    /// Everything desired that it does not do.
    pub fn blocked(&self) -> &[Blocked] {
        &self.blocked
    }

    /// Why there is nothing to do, if there is nothing: no step, no wait, no obstacle.
    pub fn nothing_because(&self) -> Option<&'static str> {
        self.is_settled().then_some(self.because)
    }

    /// Nothing to do, nothing to wait for, nothing in the way.
    pub fn is_settled(&self) -> bool {
        let Self { steps, waiting, blocked, because: _ } = self;
        steps.is_empty() && waiting.is_none() && blocked.is_empty()
    }

    /// Whether any step takes something away, so that a cached observation is not enough.
    pub fn is_destructive(&self) -> bool {
        self.steps.iter().any(|planned| planned.effect == Effect::Destructive)
    }
}

impl<S> Plan<S> {
    /// Whether nothing is added after something was taken away (law 2).
    pub fn additive_first(&self) -> bool {
        self.steps.is_sorted_by_key(|planned| planned.effect == Effect::Destructive)
    }
}

impl<S: fmt::Display> fmt::Display for Plan<S> {
    /// One line for each step, wait and obstacle, with its reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, waiting, blocked, because } = self;
        let mut lines: Vec<String> = steps
            .iter()
            .enumerate()
            .map(|(index, PlannedStep { step, reason, effect: _ })| {
                format!("{}. {step}: {reason}", index + 1)
            })
            .collect();
        if let Some(Waiting { what, retry }) = waiting {
            lines.push(format!("wait for {what}, read again in {retry:?}"));
        }
        for Blocked { field, obstacle, message } in blocked {
            lines.push(format!("blocked by {field}: {}: {message}", obstacle.reason()));
        }
        if lines.is_empty() {
            lines.push(format!("nothing to do, because {because}"));
        }
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_prints_one_line_a_step_with_its_reason() {
        let plan = Plan::nothing("unused")
            .step("create", Effect::Additive, "none exists")
            .wait("an address", Duration::from_secs(2))
            .block(Field::Scheme, Obstacle::ReplacementRequired, "internal needs another one");
        assert_eq!(
            plan.to_string(),
            "1. create: none exists\nwait for an address, read again in 2s\n\
             blocked by scheme: ReplacementRequired: internal needs another one"
        );
        assert!(!plan.is_settled() && !plan.is_destructive() && plan.nothing_because().is_none());
    }

    #[test]
    fn an_empty_plan_says_why() {
        let plan = Plan::<&str>::nothing("the load balancer is as desired");
        assert_eq!(plan.to_string(), "nothing to do, because the load balancer is as desired");
        assert!(plan.is_settled());
    }
}
