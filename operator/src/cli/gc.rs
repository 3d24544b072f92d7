//! `portico-operator gc`: load balancers that no Service claims, listed or deleted.
//!
//! Owns: the two scans of a single run, and driving deletions to their end. Leaves to others: what is unclaimed (`gc`), the
//! deletion (`operation`).
//! Invariants: without `--yes` nothing is deleted; with it, only what was unclaimed in both scans, a grace period apart,
//! and still is when its turn comes. The collector's limit does not hold here: this is the way to say that so many are
//! meant.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use portico_limits::Limiter;
use portico_provider::{LoadBalancerProvider, Owner};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Reached, answer, code, table};
use crate::args::{GcArgs, Output};
use crate::background::gc::Collector;
use crate::background::gc::limit::DeletionLimits;
use crate::cache::store::Cache;
use crate::metrics::Metrics;
use crate::process::connect::{Client, connect};
use crate::process::fence::FenceKeeper;
use crate::provision::Provisioner;
use crate::provision::end::End;
use crate::provision::plan_view::PlanView;
use crate::provision::trigger::Mode;
use crate::provision::want::Want;
use crate::reconcile::Reconciler;
use crate::reconcile::api::Cluster;

/// How long one deletion may take, waits of the provider included.
const PATIENCE: Duration = Duration::from_mins(15);

pub(super) async fn gc(args: GcArgs) -> anyhow::Result<ExitCode> {
    let GcArgs { dry_run: _, yes, output, reach, orphan_grace } = args;
    let reached = Reached::of(&reach).await?;
    let cluster = reached.cluster.clone();
    let collecting = Collecting { delete: yes.then_some(orphan_grace), output, reached };
    Box::pin(connect(reach.provider, cluster, collecting)).await
}

struct Collecting {
    /// The grace period; `None`: only list.
    delete: Option<Duration>,
    output: Output,
    reached: Reached,
}

/// A load balancer that no Service claims, and what became of it. Its JSON only ever gains fields.
#[derive(Debug, Serialize)]
struct Unclaimed {
    service: String,
    service_uid: String,
    /// How its deletion begins.
    plan: PlanView,
    /// A Service claims it by now, so it stays.
    claimed: bool,
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl Client for Collecting {
    type Output = ExitCode;

    async fn with<P: LoadBalancerProvider>(
        self,
        provider: P,
        _limiters: Vec<Arc<Limiter>>,
    ) -> anyhow::Result<ExitCode> {
        let Self { delete, output, reached } = self;
        let (reconciler, keeper, _fence) = reached.reconciler(provider).await?;
        let run = GcRun::new(&reconciler);
        let mut found = run.list().await?;
        if let Some(grace) = delete {
            run.delete_all(&keeper, grace, reached.cache(false), &mut found).await?;
        }
        let rows: Vec<&Unclaimed> = found.iter().map(|(_, row)| row).collect();
        answer(output, &rows, || text(&rows))?;
        if rows.iter().any(|row| row.failed.is_some()) {
            bail!("not all of them could be deleted");
        }
        Ok(code(delete.is_none() && !rows.is_empty()))
    }
}

/// One run of `gc`.
struct GcRun<P: LoadBalancerProvider, C> {
    cache: Arc<Cache>,
    provisioner: Arc<Provisioner<P>>,
    collector: Collector<P, C>,
}

impl<P: LoadBalancerProvider, C: Cluster> GcRun<P, C> {
    fn new(reconciler: &Arc<Reconciler<P, C>>) -> Self {
        let metrics = Metrics::register(&mut Registry::default());
        // The limit of the running operator does not hold here: this is the way to say that so many are meant.
        let limits = DeletionLimits { count: 0, share: 0, window: Duration::ZERO };
        Self {
            cache: Arc::clone(reconciler.cache()),
            provisioner: Arc::clone(reconciler.provisioner()),
            collector: Collector::new(reconciler, metrics, Duration::ZERO, limits),
        }
    }

    async fn unclaimed(&self) -> anyhow::Result<Vec<Owner>> {
        let listed = self.provisioner.list().await;
        listed.then_some(()).context("what exists at the provider cannot be read")?;
        Ok(self.collector.unclaimed().await)
    }

    /// Unclaimed load balancers, and how each deletion begins.
    async fn list(&self) -> anyhow::Result<Vec<(Owner, Unclaimed)>> {
        let row = |owner: Owner| {
            let plan = self.provisioner.plan(&Want::absent(owner.clone()));
            let row = Unclaimed {
                service: owner.name.to_string(),
                service_uid: owner.service.to_string(),
                plan: PlanView::of(&plan),
                claimed: false,
                deleted: false,
                failed: None,
            };
            (owner, row)
        };
        Ok(self.unclaimed().await?.into_iter().map(row).collect())
    }

    /// Deletes what is found and still unclaimed in `later`, the cluster a grace period later.
    async fn delete_all(
        &self,
        keeper: &FenceKeeper,
        grace: Duration,
        later: impl Future<Output = anyhow::Result<Arc<Cache>>> + Send,
        found: &mut [(Owner, Unclaimed)],
    ) -> anyhow::Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let unclaimed = found.len();
        tracing::info!(unclaimed, ?grace, "what is still unclaimed after the grace period is deleted");
        sleep(grace).await;
        // Whoever claims one by now, in a listing of its own, keeps it.
        self.cache.adopt(&*later.await?);
        let still = self.unclaimed().await?;
        keeper.open(Instant::now() + Duration::from_hours(24));
        for (owner, row) in found {
            if !still.contains(owner) || !self.collector.is_unclaimed(owner).await {
                row.claimed = true;
                continue;
            }
            match self.delete(owner.clone()).await {
                Ok(()) => row.deleted = true,
                Err(why) => row.failed = Some(why),
            }
            tracing::info!(%owner, deleted = row.deleted, "done with one");
        }
        Ok(())
    }

    async fn delete(&self, owner: Owner) -> Result<(), String> {
        let (want, began) = (Want::absent(owner), Instant::now());
        loop {
            match self.provisioner.run_alone(&want, Mode::Execute).await.end {
                End::Settled => return Ok(()),
                End::InProgress { retry, what: _ } if began.elapsed() < PATIENCE => sleep(retry).await,
                End::InProgress { what, retry: _ } => return Err(format!("still waiting for {what}")),
                End::Failed { reason, message, retry: _ } => return Err(format!("{reason}: {message}")),
                End::Withheld(plan) => return Err(plan.summary()),
            }
        }
    }
}

fn text(found: &[&Unclaimed]) -> String {
    if found.is_empty() {
        return "every load balancer is claimed by a Service".to_owned();
    }
    let row = |row: &&Unclaimed| {
        let Unclaimed { service, service_uid, plan: _, claimed, deleted, failed } = row;
        let what = match (failed, deleted, claimed) {
            (Some(why), ..) => why.as_str(),
            (None, true, _) => "deleted",
            (None, false, true) => "claimed again, or gone: left alone",
            (None, false, false) => "unclaimed",
        };
        vec![service.clone(), service_uid.clone(), what.to_owned()]
    };
    let head = ["SERVICE", "UID", "LOAD BALANCER"].map(str::to_owned).to_vec();
    let table = table(&std::iter::once(head).chain(found.iter().map(row)).collect::<Vec<_>>());
    let listed = |row: &Unclaimed| !row.claimed && !row.deleted && row.failed.is_none();
    if !found.iter().any(|row| listed(row)) {
        return table;
    }
    let mut lines = table.lines().map(str::to_owned);
    let mut reported: Vec<String> = lines.next().into_iter().collect();
    for (line, row) in lines.zip(found) {
        reported.push(line);
        reported.extend(row.plan.to_string().lines().map(|step| format!("  {step}")));
    }
    reported.push(
        "nothing was deleted: `gc --yes` deletes what is still unclaimed after --orphan-grace".to_owned(),
    );
    reported.join("\n")
}

#[cfg(test)]
mod tests {
    use portico_provider::ProviderError;

    use super::*;
    use crate::cache::node_removal::NodeRemovalLimits;
    use crate::cache::service::ClassRule;
    use crate::desired::admission::EndpointScope;
    use crate::desired::spec::GroupScope;
    use crate::process::fence::fence;
    use crate::provision::Policy;
    use crate::provision::trigger::Drift;
    use crate::reconcile::settings::{Parts, Scope, Settings};
    use crate::testing::{CLUSTER, FakeCloud, FakeCluster, WatchFaults, mk_load_balancer, mk_service};

    const GRACE: Duration = Duration::from_mins(2);

    struct Run {
        cloud: FakeCloud,
        cluster: FakeCluster,
        gc: GcRun<FakeCloud, FakeCluster>,
        keeper: FenceKeeper,
    }

    /// A cloud with load balancers of these Services, and a cluster without any.
    fn mk_run(names: &[&str]) -> Run {
        let (cloud, cluster) = (FakeCloud::default(), FakeCluster::new(WatchFaults::calm()));
        for (number, name) in (1..).zip(names) {
            cloud.with(|it| it.existing.insert(number, (mk_load_balancer(name), Instant::now())));
        }
        let (keeper, fence) = fence();
        let (cache, queue, _router) = cluster.watch();
        let metrics = Metrics::register(&mut Registry::default());
        let provider = cloud.connect();
        let parts = Parts { provider, api: cluster.clone(), cache, queue, fence, metrics };
        let policy =
            Policy { resync: Duration::from_mins(10), read_only: true, drift: Drift::Report, concurrency: 1 };
        let scope = Scope {
            classes: ClassRule::one("portico.dev/fake", true),
            cluster: CLUSTER.parse().unwrap(),
            groups: GroupScope::Namespace,
            endpoints: EndpointScope::Pods,
        };
        let nodes = NodeRemovalLimits { unready: Duration::ZERO, share: 50, hold: Duration::ZERO };
        let gc = GcRun::new(&Reconciler::new(parts, Settings { scope, policy, nodes }));
        Run { cloud, cluster, gc, keeper }
    }

    impl Run {
        /// The output of `gc --yes`; users create these Services within the grace period.
        async fn yes(&self, made_meanwhile: &[&str]) -> String {
            let mut found = self.gc.list().await.unwrap();
            let later = async {
                for name in made_meanwhile {
                    self.cluster.apply(mk_service(name));
                }
                Ok(self.cluster.watch().0)
            };
            self.gc.delete_all(&self.keeper, GRACE, later, &mut found).await.unwrap();
            text(&found.iter().map(|(_, row)| row).collect::<Vec<_>>())
        }

        fn existing(&self) -> Vec<String> {
            self.cloud.with(|it| it.existing.values().map(|(spec, _)| spec.owner.name.to_string()).collect())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_prints_what_would_be_deleted_and_deletes_nothing() {
        let run = mk_run(&["kept", "lost"]);
        run.cluster.apply(mk_service("kept"));
        let found = run.gc.list().await.unwrap();
        let reported = text(&found.iter().map(|(_, row)| row).collect::<Vec<_>>());
        assert_eq!(
            reported,
            "SERVICE        UID        LOAD BALANCER\n\
             default/lost   uid-lost   unclaimed\n  \
             1. delete load balancer of default/lost: nobody wants it\n\
             nothing was deleted: `gc --yes` deletes what is still unclaimed after --orphan-grace"
        );
        assert_eq!(run.cloud.with(|it| it.writes), 0);
        let json = serde_json::to_value(&found[0].1).unwrap();
        assert_eq!(
            (&json["deleted"], &json["plan"]["steps"][0]["effect"]),
            (&false.into(), &"narrows".into())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unclaimed_in_both_scans_is_deleted_and_nothing_else() {
        let run = mk_run(&["kept", "lost", "returns"]);
        run.cluster.apply(mk_service("kept"));
        let began = Instant::now();
        let reported = run.yes(&["returns"]).await;
        assert!(began.elapsed() >= GRACE);
        assert_eq!(run.existing(), ["default/kept", "default/returns"]);
        let rows: Vec<&str> = reported.lines().map(|line| line.rsplit("   ").next().unwrap()).collect();
        assert_eq!(rows, ["LOAD BALANCER", "deleted", "claimed again, or gone: left alone"], "{reported}");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_is_unclaimed_nobody_waits() {
        let run = mk_run(&["kept"]);
        run.cluster.apply(mk_service("kept"));
        let began = Instant::now();
        assert_eq!(run.yes(&[]).await, "every load balancer is claimed by a Service");
        assert!(began.elapsed() < GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_that_fails_is_reported_and_stops_no_other() {
        let run = mk_run(&["first", "second"]);
        let denied = ProviderError::Denied { operation: "delete", message: "not you".to_owned() };
        run.cloud.with(|it| it.failures.push(denied));
        let reported = run.yes(&[]).await;
        assert!(reported.contains("not you") && reported.contains("deleted"), "{reported}");
        assert_eq!(run.existing().len(), 1);
    }
}
