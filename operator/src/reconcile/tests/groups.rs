//! Services that share a load balancer: one go at a time, conflicts, and who is brought back.

use super::super::*;
use super::stage::*;
use tokio::time::sleep;

use crate::testing::mk_service;

fn mk_member(name: &str, group: &str) -> Service {
    let mut service = mk_service(name);
    service.metadata.annotations = Some([("portico.dev/group".to_owned(), group.to_owned())].into());
    service
}

#[tokio::test(start_paused = true)]
async fn goes_of_one_group_never_overlap_and_others_do_not_wait_for_them() {
    let stage = Stage::calm();
    let _running = stage.start().await;
    for name in ["a", "b", "c", "d"] {
        stage.cluster.apply(mk_member(name, "edge"));
        stage.cluster.apply(mk_member(&format!("other-{name}"), "inner"));
        stage.cluster.apply(mk_service(&format!("alone-{name}")));
    }
    settle().await;
    assert_eq!(stage.existing().len(), 12);
    for name in ["a", "b", "c", "d"] {
        stage.cluster.delete(name);
    }
    settle().await;
    assert_eq!(stage.existing().len(), 8);
    let most = stage.cloud.with(|cloud| cloud.inside.clone());
    assert_eq!((most["default/edge"], most["default/inner"]), ((0, 1), (0, 1)));
    assert!(most[""].1 > 1, "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_listener_is_told_and_gets_it_soon_after_the_other_lets_go() {
    let stage = Stage::new();
    let _running = stage.start().await;
    stage.cluster.apply(mk_member("first", "edge"));
    settle().await;
    stage.cluster.apply(mk_member("second", "edge"));
    settle().await;
    assert_eq!(stage.conditions("first")["Accepted"], "True/Accepted");
    assert_eq!(stage.conditions("second")["Accepted"], "False/ListenerConflict");
    stage.cluster.delete("first");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.conditions("second")["Accepted"], "True/Accepted", "and not at the next listing");
    assert_eq!(stage.conditions("second")["Synced"], "True/AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_group_of_another_namespace_is_refused_unless_it_is_allowed() {
    let mut stage = Stage::new();
    let running = stage.start().await;
    stage.cluster.apply(mk_member("web", "shop/edge"));
    settle().await;
    assert_eq!(stage.conditions("web")["Accepted"], "False/InvalidAnnotation");
    assert!(stage.existing().is_empty());
    drop(running);
    stage.settings.groups = GroupScope::Cluster;
    let _running = stage.start().await;
    settle().await;
    let groups: Vec<String> = stage.cloud.with(|cloud| {
        cloud.existing.values().filter_map(|(spec, _)| spec.group.as_ref().map(ToString::to_string)).collect()
    });
    assert_eq!(groups, ["shop/edge"]);
}
