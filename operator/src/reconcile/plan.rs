//! The plan for a Service: its stages, its problems, and the provider's plan.
//!
//! Owns: [`ServicePlan`], from a fresh read (`plan`) or from what is known (`/plan`). Leaves to others: printing all of them.
//! Invariant: it is made by the functions that the running operator decides by, and changes nothing.

use std::fmt;

use k8s_openapi::api::core::v1::Service;
use portico_provider::{Backends, LoadBalancerProvider};
use serde::Serialize;

use super::Reconciler;
use super::api::Cluster;
use crate::cache::service::ServiceKey;
use crate::desired::options::TAKE_OVER;
use crate::desired::problem::Problem;
use crate::desired::stages::Work;
use crate::provision::end::End;
use crate::provision::plan_view::PlanView;
use crate::provision::trigger::Mode;
use crate::provision::want::Want;

/// The plan for one Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ServicePlan {
    /// `namespace/name`.
    pub(crate) service: String,
    /// A line each: `cluster_ip`, `node_port`, `load_balancer`.
    pub(crate) stages: Vec<String>,
    /// Problems that the user has to fix first.
    pub(crate) problems: Vec<String>,
    /// Problems that stop nothing.
    pub(crate) warnings: Vec<String>,
    /// The provider's plan; absent where there is nothing to ask it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<PlanView>,
    /// Why the provider could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// The outcome of a Service's plan.
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

/// A plan to be, and the want that the provider plans.
struct Begun {
    plan: ServicePlan,
    want: Option<Want>,
}

fn begin<P: LoadBalancerProvider, C: Cluster>(reconciler: &Reconciler<P, C>, service: &Service) -> Begun {
    let (staged, _) = reconciler.stages(service);
    let mut plan = ServicePlan {
        service: ServiceKey::of(service).to_string(),
        stages: staged.to_string().lines().map(str::to_owned).collect(),
        problems: Vec::new(),
        warnings: Vec::new(),
        plan: None,
        failed: None,
    };
    let texts = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    // For what exists, as far as is known.
    let targets = |backends: Backends| {
        reconciler.provisioner.exists(&backends.owner.service).then(|| Want::targets(backends))
    };
    let want = match staged.work {
        Work::Nothing => None,
        Work::Wait { backends } => targets(*backends),
        Work::Yield { owner: _, to } => {
            plan.warnings.push(format!("the operator of class {to} has to release its load balancer first"));
            None
        }
        Work::Leave { owner: _, shown } => {
            plan.warnings.push(format!(
                "{shown}, so it is left alone until it is annotated {}: \"true\"",
                TAKE_OVER.key
            ));
            None
        }
        Work::Refuse { backends, problems, warnings } => {
            (plan.problems, plan.warnings) = (texts(problems), texts(warnings));
            targets(*backends)
        }
        Work::Provide { load_balancer, backends, warnings } => {
            plan.warnings = texts(warnings);
            Some(Want::provide(load_balancer, *backends))
        }
        Work::Release { backends, because: _ } => Some(Want::release(*backends)),
    };
    Begun { plan, want }
}

/// The plan of one Service by a fresh read of the provider.
pub(crate) async fn live<P: LoadBalancerProvider, C: Cluster>(
    reconciler: &Reconciler<P, C>,
    service: &Service,
) -> ServicePlan {
    let Begun { mut plan, want } = begin(reconciler, service);
    let Some(want) = want else { return plan };
    let report = reconciler.provisioner.run_alone(&want, Mode::Plan).await;
    match (report.end, report.observed) {
        (End::Failed { reason, message, .. }, _) => plan.failed = Some(format!("{reason}: {message}")),
        (_, Some((observed, _))) => {
            let provider = reconciler.provisioner.provider();
            plan.plan = news(&want, PlanView::of(&want.plan(provider, observed.as_ref())));
        }
        (_, None) => plan.failed = Some("nothing was read".to_owned()),
    }
    plan
}

/// The plans of every Service that is ours, by the inventory and the last attempts.
pub(crate) fn known<P: LoadBalancerProvider, C: Cluster>(reconciler: &Reconciler<P, C>) -> Vec<ServicePlan> {
    let services = reconciler.cache.services().into_iter();
    let ours = services.filter(|service| reconciler.scope.classes.claims(service));
    ours.map(|service| known_one(reconciler, &service)).collect()
}

fn known_one<P: LoadBalancerProvider, C: Cluster>(
    reconciler: &Reconciler<P, C>,
    service: &Service,
) -> ServicePlan {
    let Begun { mut plan, want } = begin(reconciler, service);
    let Some(want) = want else { return plan };
    let provisioner = &reconciler.provisioner;
    if !provisioner.is_loaded() {
        plan.failed = Some("what exists at the provider has not been read by this process".to_owned());
        return plan;
    }
    let known = || PlanView::of(&provisioner.plan(&want));
    plan.plan = news(&want, provisioner.withheld(&want).unwrap_or_else(known));
    plan
}

/// Of a Service that is refused, targets that are as they should be are no news.
fn news(want: &Want, plan: PlanView) -> Option<PlanView> {
    (want.desired().is_some() || !plan.is_settled()).then_some(plan)
}
