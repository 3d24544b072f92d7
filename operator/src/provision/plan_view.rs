//! A plan as people and machines read it: the same words in `plan`, on `/plan`, in conditions and in the log.
//!
//! Owns: [`PlanView`], its text and its JSON. Leaves to others: making the plan (a provider), carrying it out.
//! Invariants: nothing of any provider's types is left in it; its JSON only ever gains fields.

use std::fmt;

use portico_provider::{Blocked, Effect, Obstacle, Plan, PlannedStep, Waiting};
use serde::Serialize;

/// The annotation by which a user agrees to a replacement.
pub(crate) const CONSENT: &str = "portico.dev/allow-replacement";

/// The plan for one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PlanView {
    /// In the order of their execution.
    pub(crate) steps: Vec<StepView>,
    /// The work that the provider has not finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_for: Option<String>,
    /// Wanted fields that nothing is done for.
    pub(crate) blocked: Vec<BlockedView>,
    /// Why there is nothing to do, if there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nothing_because: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StepView {
    /// The step, in an imperative.
    pub(crate) step: String,
    /// The reason for the step.
    pub(crate) reason: String,
    /// `widens` or `narrows`.
    pub(crate) effect: &'static str,
}

/// Something wanted that stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BlockedView {
    /// The field or annotation.
    pub(crate) field: String,
    /// A CamelCase word, as in conditions.
    pub(crate) reason: &'static str,
    /// Why, and what to do.
    pub(crate) message: String,
    /// The annotation by which a user consents, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) consent: Option<String>,
}

impl PlanView {
    /// Of any provider's plan.
    pub(crate) fn of<S: fmt::Display>(plan: &Plan<S>) -> Self {
        let step = |PlannedStep { step, reason, effect }: &PlannedStep<S>| StepView {
            step: step.to_string(),
            reason: reason.clone(),
            effect: match effect {
                Effect::Additive => "widens",
                Effect::Destructive => "narrows",
            },
        };
        let blocked = |Blocked { field, obstacle, message }: &Blocked| BlockedView {
            field: field.to_string(),
            reason: obstacle.reason(),
            message: message.clone(),
            consent: (*obstacle == Obstacle::ReplacementRequired).then(|| format!("{CONSENT}=true")),
        };
        Self {
            steps: plan.steps().iter().map(step).collect(),
            waiting_for: plan.waiting().map(|Waiting { what, retry: _ }| what.clone()),
            blocked: plan.blocked().iter().map(blocked).collect(),
            nothing_because: plan.nothing_because().map(str::to_owned),
        }
    }

    /// Nothing to do, to wait for, or in the way.
    pub(crate) fn is_settled(&self) -> bool {
        let Self { steps, waiting_for, blocked, nothing_because: _ } = self;
        steps.is_empty() && waiting_for.is_none() && blocked.is_empty()
    }

    /// Its steps in a line, for conditions and Events.
    pub(crate) fn summary(&self) -> String {
        let steps: Vec<String> = self.steps.iter().map(|it| format!("{} ({})", it.step, it.reason)).collect();
        steps.join("; ")
    }
}

impl fmt::Display for PlanView {
    /// One line for each step, wait and obstacle.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, waiting_for, blocked, nothing_because } = self;
        let mut lines: Vec<String> = steps
            .iter()
            .enumerate()
            .map(|(index, StepView { step, reason, effect: _ })| format!("{}. {step}: {reason}", index + 1))
            .collect();
        lines.extend(waiting_for.iter().map(|what| format!("wait for {what}")));
        for BlockedView { field, reason, message, consent } in blocked {
            lines.push(format!("blocked by {field}: {reason}: {message}"));
            lines.extend(
                consent.iter().map(|consent| format!("   to consent, annotate the Service {consent}")),
            );
        }
        lines.extend(nothing_because.iter().map(|because| format!("nothing to do, because {because}")));
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portico_provider::Field;

    use super::*;

    #[test]
    fn a_plan_says_what_waits_what_is_blocked_and_how_to_consent() {
        let plan = Plan::nothing("unused")
            .step("create", Effect::Additive, "none exists")
            .wait("an address", Duration::from_secs(2))
            .block(Field::Scheme, Obstacle::ReplacementRequired, "internal needs another one")
            .block(Field::ProxyProtocol, Obstacle::Unsupported, "not here");
        let view = PlanView::of(&plan);
        assert_eq!(
            view.to_string(),
            "1. create: none exists\nwait for an address\n\
             blocked by scheme: ReplacementRequired: internal needs another one\n   \
             to consent, annotate the Service portico.dev/allow-replacement=true\n\
             blocked by PROXY protocol: Unsupported: not here"
        );
        assert!(!view.is_settled());
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["steps"][0]["effect"], "widens");
        assert_eq!(json["blocked"][0]["consent"], "portico.dev/allow-replacement=true");
        assert!(json.get("nothing_because").is_none());
        let idle = PlanView::of(&Plan::<&str>::nothing("it is as desired"));
        assert_eq!(idle.to_string(), "nothing to do, because it is as desired");
        assert!(idle.is_settled());
    }
}
