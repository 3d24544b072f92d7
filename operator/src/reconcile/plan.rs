//! What would be done for a Service, whole: its stages, what is wrong with it, and the provider's plan.
//!
//! Owns: [`ServicePlan`], from a fresh read (`plan`) or from what is known (`/plan`). Leaves to others: printing all of them.
//! Invariant: it is made by the functions that the running operator decides by, and changes nothing.

use std::fmt;

use k8s_openapi::api::core::v1::Service;
use portico_provider::{Backends, LoadBalancerProvider, ReadMode};
use serde::Serialize;

use crate::cache::service::ServiceKey;
use crate::desired::stages::Work;
use crate::provision::operation::{End, Operation};
use crate::provision::plan_view::PlanView;
use crate::provision::trigger::Mode;
use crate::provision::want::Want;
use crate::reconcile::Operator;
use crate::reconcile::api::Cluster;

/// What there is to do for one Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ServicePlan {
    /// `namespace/name`.
    pub(crate) service: String,
    /// A line each: `cluster_ip`, `node_port`, `load_balancer`.
    pub(crate) stages: Vec<String>,
    /// What the user has to change before anything is done.
    pub(crate) problems: Vec<String>,
    /// What is odd and stops nothing.
    pub(crate) warnings: Vec<String>,
    /// The provider's plan; absent where there is nothing to ask it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<PlanView>,
    /// Why the provider could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// What a Service's plan comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanOutcome {
    /// As wanted, or none of our business.
    Fine,
    /// There are steps, or the provider is at work.
    ToDo,
    /// The user has to change something, or to consent.
    Blocked,
    /// The provider could not be asked.
    Failed,
}

impl ServicePlan {
    /// What it comes to.
    pub(crate) fn outcome(&self) -> PlanOutcome {
        let Self { service: _, stages: _, problems, warnings: _, plan, failed } = self;
        let plan = plan.as_ref().filter(|plan| !plan.is_settled());
        match (failed, plan) {
            (Some(_), _) => PlanOutcome::Failed,
            (None, Some(plan)) if !plan.blocked.is_empty() => PlanOutcome::Blocked,
            (None, _) if !problems.is_empty() => PlanOutcome::Blocked,
            (None, Some(_)) => PlanOutcome::ToDo,
            (None, None) => PlanOutcome::Fine,
        }
    }
}

impl fmt::Display for ServicePlan {
    /// A line if there is nothing to do, else an indented line for each thing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, stages, problems, warnings, plan, failed } = self;
        let mut lines: Vec<String> = problems.iter().map(|problem| format!("refused: {problem}")).collect();
        lines.extend(warnings.iter().map(|warning| format!("note: {warning}")));
        lines.extend(
            plan.iter().flat_map(|plan| plan.to_string().lines().map(str::to_owned).collect::<Vec<_>>()),
        );
        lines.extend(failed.iter().map(|why| format!("cannot be planned: {why}")));
        if lines.is_empty() {
            lines.extend(stages.last().cloned());
        }
        match lines.as_slice() {
            [line] => write!(f, "{service}: {line}"),
            lines => write!(f, "{service}:\n  {}", lines.join("\n  ")),
        }
    }
}

/// A plan to be, and what has to be asked of the provider for it.
struct Begun {
    plan: ServicePlan,
    want: Option<Want>,
}

impl<P: LoadBalancerProvider, C: Cluster> Operator<P, C> {
    fn begin_plan(&self, service: &Service) -> Begun {
        let (staged, _) = self.stages(service);
        let mut plan = ServicePlan {
            service: ServiceKey::of(service).to_string(),
            stages: staged.to_string().lines().map(str::to_owned).collect(),
            problems: Vec::new(),
            warnings: Vec::new(),
            plan: None,
            failed: None,
        };
        let texts = |problems: Vec<crate::desired::problem::Problem>| {
            problems.iter().map(ToString::to_string).collect()
        };
        let want = match staged.work {
            Work::Nothing => None,
            Work::Wait { backends } => self.targets_of(*backends),
            Work::Yield { owner: _, to } => {
                plan.warnings
                    .push(format!("the operator of class {to} has to release its load balancer first"));
                None
            }
            Work::Leave { owner: _, shown } => {
                plan.warnings.push(format!(
                    "{shown}, so it is left alone until it is annotated {}: \"true\"",
                    crate::desired::options::TAKE_OVER.key
                ));
                None
            }
            Work::Refuse { backends, problems, warnings } => {
                (plan.problems, plan.warnings) = (texts(problems), texts(warnings));
                self.targets_of(*backends)
            }
            Work::Provide { load_balancer, backends, warnings } => {
                plan.warnings = texts(warnings);
                Some(Want::provide(load_balancer, *backends))
            }
            Work::Release { backends, because: _ } => Some(Want::release(*backends)),
        };
        Begun { plan, want }
    }

    /// For what exists, as far as is known.
    fn targets_of(&self, backends: Backends) -> Option<Want> {
        self.inventory.get(&backends.owner.service).is_some().then(|| Want::targets(backends))
    }

    /// From a fresh read of the provider.
    pub(crate) async fn plan_live(&self, service: &Service) -> ServicePlan {
        let Begun { mut plan, want } = self.begin_plan(service);
        let Some(want) = want else { return plan };
        let Self { provider, fence, metrics, .. } = self;
        let report = Operation { provider, fence, metrics, held: None, give_way: None }
            .run(&want, Mode::Plan, ReadMode::Full)
            .await;
        match (report.end, report.observed) {
            (End::Failed { reason, message, .. }, _) => plan.failed = Some(format!("{reason}: {message}")),
            (_, Some((observed, _))) => {
                plan.plan = news(&want, PlanView::of(&want.plan(provider, observed.as_ref())));
            }
            (_, None) => plan.failed = Some("nothing was read".to_owned()),
        }
        plan
    }

    /// From what is known, for every Service that is ours; what a go read last counts before the listing.
    pub(crate) fn plans_known(&self) -> Vec<ServicePlan> {
        let services = self.cache.services().into_iter().filter(|it| self.settings.classes.claims(it));
        services.map(|service| self.plan_known(&service)).collect()
    }

    fn plan_known(&self, service: &Service) -> ServicePlan {
        let Begun { mut plan, want } = self.begin_plan(service);
        let Some(want) = want else { return plan };
        if !self.inventory.is_loaded() {
            plan.failed = Some("what exists at the provider has not been read by this process".to_owned());
            return plan;
        }
        let owner = want.owner();
        let withheld = self.track(owner, |track| match &track.last {
            Some(last) if last.digest == *want.digest() => match &last.end {
                End::Withheld(plan) => Some((**plan).clone()),
                _ => None,
            },
            _ => None,
        });
        let observed = self.inventory.get(&owner.service);
        let known = || PlanView::of(&want.plan(&self.provider, observed.as_ref()));
        plan.plan = news(&want, withheld.unwrap_or_else(known));
        plan
    }
}

/// Of a Service that is refused, that its targets are as they should be is no news.
fn news(want: &Want, plan: PlanView) -> Option<PlanView> {
    (want.desired().is_some() || !plan.is_settled()).then_some(plan)
}
