//! `portico-operator gc`: load balancers that no Service claims, listed or deleted.
//!
//! Owns: the two looks of a single run, and driving deletions to their end. Leaves to others: what is unclaimed (`gc`),
//! deleting (`operation`).
//! Invariants: without `--yes` nothing is deleted; with it, only what was unclaimed in both looks, a grace period apart.
//! The collector's limit does not hold here: this is the way to say that so many are meant.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use portico_limits::Limiter;
use portico_provider::{LoadBalancerProvider, Look, Owner};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Looking, Reached, answer, code, table};
use crate::args::{GcArgs, Output};
use crate::connect::{Client, connect};
use crate::operation::{End, Mode, Operation, Want};

/// How long one deletion may take, waits of the provider included.
const PATIENCE: Duration = Duration::from_mins(15);

pub(super) async fn gc(args: GcArgs) -> anyhow::Result<ExitCode> {
    let GcArgs { dry_run: _, yes, output, reach, orphans } = args;
    let reached = Reached::of(&reach).await?;
    let cluster = reached.cluster.clone();
    let collecting = Collecting { delete: yes.then_some(orphans.orphan_grace), output, reached };
    Box::pin(connect(reach.provider, cluster, collecting)).await
}

struct Collecting {
    /// The grace period; `None`: only list.
    delete: Option<Duration>,
    output: Output,
    reached: Reached,
}

/// A load balancer that no Service claims.
#[derive(Debug, Serialize)]
struct Unclaimed {
    service: String,
    service_uid: String,
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl Unclaimed {
    fn of(Owner { cluster: _, service, name }: &Owner) -> Self {
        Self { service: name.to_string(), service_uid: service.to_string(), deleted: false, failed: None }
    }
}

impl Client for Collecting {
    type Output = ExitCode;

    async fn with<P: LoadBalancerProvider>(
        self,
        provider: P,
        _limiters: Vec<Arc<Limiter>>,
    ) -> anyhow::Result<ExitCode> {
        let Self { delete, output, reached } = self;
        let (operator, keeper, _fence) = reached.operator(provider).await?;
        let first = look(&operator).await?;
        let Some(grace) = delete else {
            let found: Vec<Unclaimed> = first.iter().map(Unclaimed::of).collect();
            answer(output, &found, || text(&found))?;
            return Ok(code(!found.is_empty()));
        };
        sleep(grace).await;
        // Whoever claims one by now, in a listing of its own, keeps it.
        operator.world.adopt(&*reached.world().await?);
        let second: BTreeSet<Owner> = look(&operator).await?.into_iter().collect();
        keeper.open(Instant::now() + Duration::from_hours(24));
        let mut found = Vec::new();
        for owner in first.into_iter().filter(|owner| second.contains(owner)) {
            let mut row = Unclaimed::of(&owner);
            match delete_one(&operator, owner).await {
                Ok(()) => row.deleted = true,
                Err(why) => row.failed = Some(why),
            }
            found.push(row);
        }
        answer(output, &found, || text(&found))?;
        if found.iter().any(|row| row.failed.is_some()) {
            bail!("not all of them could be deleted");
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn look<P: LoadBalancerProvider>(operator: &Arc<Looking<P>>) -> anyhow::Result<Vec<Owner>> {
    operator.list().await.then_some(()).context("what exists at the provider cannot be read")?;
    Ok(operator.unclaimed().await)
}

async fn delete_one<P: LoadBalancerProvider>(operator: &Arc<Looking<P>>, owner: Owner) -> Result<(), String> {
    let (want, began) = (Want::absent(owner), Instant::now());
    let Looking { provider, fence, metrics, .. } = &**operator;
    loop {
        match (Operation { provider, fence, metrics, held: None })
            .run(&want, Mode::Execute, Look::Fresh)
            .await
            .end
        {
            End::Settled => return Ok(()),
            End::InProgress { retry, what: _ } if began.elapsed() < PATIENCE => sleep(retry).await,
            End::InProgress { what, retry: _ } => return Err(format!("still waiting for {what}")),
            End::Failed { reason, message, retry: _ } => return Err(format!("{reason}: {message}")),
            End::Withheld(plan) => return Err(plan.summary()),
        }
    }
}

fn text(found: &[Unclaimed]) -> String {
    if found.is_empty() {
        return "every load balancer is claimed by a Service".to_owned();
    }
    let row = |Unclaimed { service, service_uid, deleted, failed }: &Unclaimed| {
        let what = match (failed, deleted) {
            (Some(why), _) => why.as_str(),
            (None, true) => "deleted",
            (None, false) => "unclaimed",
        };
        vec![service.clone(), service_uid.clone(), what.to_owned()]
    };
    let head = ["SERVICE", "UID", "LOAD BALANCER"].map(str::to_owned).to_vec();
    table(&std::iter::once(head).chain(found.iter().map(row)).collect::<Vec<_>>())
}
