//! `--read-only`: the whole operator, and not one write.

use super::super::*;
use super::stage::*;

use crate::cluster::ReadOnly;
use crate::fence::fence;
use crate::gc::Suspects;
use crate::planned::Verdict;
use crate::testing::mk_service;

#[tokio::test(start_paused = true)]
async fn a_read_only_operator_plans_everything_and_writes_nothing() {
    let mut stage = Stage::new();
    let first = stage.start().await;
    for name in ["kept", "deleted", "lost"] {
        stage.cluster.apply(mk_service(name));
    }
    settle().await;
    drop(first);
    stage.cluster.apply(mk_service("new"));
    stage.cluster.delete("deleted");
    stage.cluster.delete_by_force("lost");
    let (_, writes, cluster_writes) = stage.costs();
    let events = stage.cluster.with(|cluster| cluster.events.len());

    stage.settings.read_only = true;
    let (world, queue, _router) = stage.cluster.watch();
    let metrics = crate::metrics::Metrics::register(&mut prometheus_client::registry::Registry::default());
    let (_closed, fence) = fence();
    let cluster = ReadOnly(stage.cluster.clone());
    let parts = Parts { provider: stage.cloud.connect(), cluster, world, queue, fence, metrics };
    let operator = Operator::new(parts, stage.settings.clone());
    assert!(operator.list().await);
    let work = tokio::spawn(Arc::clone(&operator).work());
    let mut suspects = Suspects::new(MANY);
    for _ in 0..3 {
        settle().await;
        operator.collect_once(&mut suspects, GRACE).await;
    }
    settle().await;
    let (_, writes_after, cluster_writes_after) = stage.costs();
    assert_eq!((writes_after, cluster_writes_after), (writes, cluster_writes));
    assert_eq!(stage.cluster.with(|cluster| cluster.events.len()), events);
    assert!(!service::has_finalizer(&stage.cluster.get("new").unwrap()));
    let plans: Vec<(String, Verdict)> =
        operator.plans_known().iter().map(|plan| (plan.to_string(), plan.verdict())).collect();
    let text: Vec<&str> = plans.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(
        text,
        [
            "default/deleted: 1. delete load balancer of default/deleted: nobody wants it",
            "default/kept: nothing to do, because it is as desired",
            "default/new: 1. create load balancer for default/new: there is none",
        ]
    );
    assert_eq!(plans[1].1, Verdict::Fine);
    let unclaimed: Vec<String> =
        operator.unclaimed().await.iter().map(|owner| owner.name.name().to_owned()).collect();
    assert_eq!(unclaimed, ["lost"]);
    work.abort();
}

#[tokio::test(start_paused = true)]
async fn a_live_plan_reads_and_says_what_stands_in_the_way() {
    let stage = Stage::new();
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let mut wrong = mk_service("web");
    let annotations = wrong.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/scheme".to_owned(), "sideways".to_owned());
    let plan = running.operator.plan_live(&wrong).await;
    assert_eq!(plan.verdict(), Verdict::Blocked);
    assert!(
        plan.to_string().starts_with("default/web: refused: annotation portico.dev/scheme: is \"sideways\""),
        "{plan}"
    );
    stage.cloud.with(|cloud| cloud.down = true);
    let plan = running.operator.plan_live(&mk_service("web")).await;
    assert_eq!(plan.verdict(), Verdict::Failed);
    assert!(plan.to_string().contains("cannot be planned: ProviderUnavailable"), "{plan}");
}
