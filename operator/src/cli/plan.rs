//! `portico-operator plan`: what would be done, by the live cluster and provider.
//!
//! Owns: which Services, and how it reads. Leaves to others: the plans (`reconcile/plan`).
//! Invariant: nothing is changed: the cluster is behind `ReadOnly`, the fence is closed, and no step is executed.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use portico_limits::Limiter;
use portico_provider::LoadBalancerProvider;

use super::{Reached, ReadOnlyReconciler, answer, code};
use crate::args::{Output, PlanArgs, ServiceName};
use crate::cache::service::ServiceKey;
use crate::process::connect::{Client, connect};
use crate::reconcile::plan::{self, PlanOutcome, ServicePlan};

/// Services that are read at the same time.
const AT_ONCE: usize = 8;

pub(super) async fn plan(args: PlanArgs) -> anyhow::Result<ExitCode> {
    let PlanArgs { services, namespace, output, reach } = args;
    let reached = Reached::of(&reach).await?;
    let cluster = reached.cluster.clone();
    connect(reach.provider, cluster, Planning { services, namespace, output, reached }).await
}

struct Planning {
    services: Vec<ServiceName>,
    namespace: Option<String>,
    output: Output,
    reached: Reached,
}

impl Client for Planning {
    type Output = ExitCode;

    async fn with<P: LoadBalancerProvider>(
        self,
        provider: P,
        _limiters: Vec<Arc<Limiter>>,
    ) -> anyhow::Result<ExitCode> {
        let Self { services, namespace, output, reached } = self;
        let (reconciler, _keeper, _fence) = reached.reconciler(provider).await?;
        let asked = asked(&reconciler, &services, namespace.as_deref())?;
        let planned = stream::iter(asked).map(|service| {
            let reconciler = Arc::clone(&reconciler);
            async move { plan::live(&reconciler, &service).await }
        });
        let plans: Vec<ServicePlan> = planned.buffered(AT_ONCE).collect().await;
        answer(output, &plans, || text(&plans))?;
        if plans.iter().any(|plan| plan.outcome() == PlanOutcome::Failed) {
            bail!("not every Service could be planned");
        }
        Ok(code(plans.iter().any(|plan| plan.outcome() != PlanOutcome::Fine)))
    }
}

fn asked<P: LoadBalancerProvider>(
    reconciler: &Arc<ReadOnlyReconciler<P>>,
    names: &[ServiceName],
    namespace: Option<&str>,
) -> anyhow::Result<Vec<Arc<Service>>> {
    if names.is_empty() {
        let here = |service: &Arc<Service>| {
            namespace.is_none_or(|namespace| ServiceKey::of(service).namespace == namespace)
        };
        let all = reconciler.cache().services().into_iter().filter(here);
        return Ok(all.filter(|service| reconciler.scope().classes.claims(service)).collect());
    }
    let one = |ServiceName(key): &ServiceName| match reconciler.cache().service(key) {
        Some(service) => Ok(service),
        None => bail!("there is no Service {key}"),
    };
    names.iter().map(one).collect()
}

fn text(plans: &[ServicePlan]) -> String {
    let count = |wanted| plans.iter().filter(|plan| plan.outcome() == wanted).count();
    let mut lines: Vec<String> = plans.iter().map(ToString::to_string).collect();
    let services = if plans.len() == 1 { "Service" } else { "Services" };
    lines.push(format!(
        "{} {services}: {} as wanted, {} to do, {} blocked, {} failed",
        plans.len(),
        count(PlanOutcome::Fine),
        count(PlanOutcome::ToDo),
        count(PlanOutcome::Blocked),
        count(PlanOutcome::Failed),
    ));
    lines.join("\n")
}
