//! `--read-only`: the whole operator, and not one write.

use super::super::*;
use super::fixture::*;

use crate::background::gc::Collector;
use crate::process::fence::fence;
use crate::reconcile::api::ReadOnly;
use crate::reconcile::plan::PlanOutcome;
use crate::testing::mk_service;

#[tokio::test(start_paused = true)]
async fn a_read_only_operator_plans_everything_and_writes_nothing() {
    let mut fixture = Fixture::new();
    let first = fixture.start().await;
    for name in ["kept", "deleted", "lost"] {
        fixture.cluster.apply(mk_service(name));
    }
    settle().await;
    drop(first);
    fixture.cluster.apply(mk_service("new"));
    fixture.cluster.delete("deleted");
    fixture.cluster.delete_by_force("lost");
    let (_, writes, cluster_writes) = fixture.costs();
    let events = fixture.cluster.with(|cluster| cluster.events.len());

    fixture.settings.policy.read_only = true;
    let (cache, queue, _router) = fixture.cluster.watch();
    let metrics = crate::metrics::Metrics::register(&mut prometheus_client::registry::Registry::default());
    let (_closed, fence) = fence();
    let api = ReadOnly(fixture.cluster.clone());
    let parts =
        Parts { provider: fixture.cloud.connect(), api, cache, queue, fence, metrics: metrics.clone() };
    let reconciler = Reconciler::new(parts, fixture.settings.clone());
    assert!(reconciler.provisioner.list().await);
    let work = tokio::spawn(worker::work(Arc::clone(&reconciler)));
    let mut collector = Collector::new(&reconciler, metrics, GRACE, MANY);
    for _ in 0..3 {
        settle().await;
        collector.collect_once().await;
    }
    settle().await;
    let (_, writes_after, cluster_writes_after) = fixture.costs();
    assert_eq!((writes_after, cluster_writes_after), (writes, cluster_writes));
    assert_eq!(fixture.cluster.with(|cluster| cluster.events.len()), events);
    assert!(!service::has_finalizer(&fixture.cluster.get("new").unwrap()));
    let plans: Vec<(String, PlanOutcome)> =
        plan::known(&reconciler).iter().map(|plan| (plan.to_string(), plan.outcome())).collect();
    let text: Vec<&str> = plans.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(
        text,
        [
            "default/deleted: 1. delete load balancer of default/deleted: nobody wants it",
            "default/kept: nothing to do, because it is as desired",
            "default/new: 1. create load balancer for default/new: there is none",
        ]
    );
    assert_eq!(plans[1].1, PlanOutcome::Fine);
    let unclaimed: Vec<String> =
        collector.unclaimed().await.iter().map(|owner| owner.name.name().to_owned()).collect();
    assert_eq!(unclaimed, ["lost"]);
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn a_live_plan_reads_and_says_what_stands_in_the_way() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    let mut wrong = mk_service("web");
    let annotations = wrong.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/scheme".to_owned(), "sideways".to_owned());
    let plan = plan::live(&running.reconciler, &wrong).await;
    assert_eq!(plan.outcome(), PlanOutcome::Blocked);
    assert!(
        plan.to_string().starts_with("default/web: refused: annotation portico.dev/scheme: is \"sideways\""),
        "{plan}"
    );
    fixture.cloud.with(|cloud| cloud.down = true);
    let plan = plan::live(&running.reconciler, &mk_service("web")).await;
    assert_eq!(plan.outcome(), PlanOutcome::Failed);
    assert!(plan.to_string().contains("cannot be planned: ProviderUnavailable"), "{plan}");
}
