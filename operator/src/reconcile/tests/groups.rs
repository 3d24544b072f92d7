//! Services that share a load balancer: one go at a time, conflicts, and who is brought back.

use super::super::*;
use super::fixture::*;
use crate::desired::spec::GroupScope;
use tokio::time::sleep;

use crate::testing::mk_service;

fn mk_member(name: &str, group: &str) -> Service {
    let mut service = mk_service(name);
    service.metadata.annotations = Some([("portico.dev/group".to_owned(), group.to_owned())].into());
    service
}

#[tokio::test(start_paused = true)]
async fn attempts_of_one_group_never_overlap_and_others_do_not_wait_for_them() {
    let fixture = Fixture::calm();
    let _running = fixture.start().await;
    for name in ["a", "b", "c", "d"] {
        fixture.cluster.apply(mk_member(name, "edge"));
        fixture.cluster.apply(mk_member(&format!("other-{name}"), "inner"));
        fixture.cluster.apply(mk_service(&format!("alone-{name}")));
    }
    settle().await;
    assert_eq!(fixture.existing().len(), 12);
    for name in ["a", "b", "c", "d"] {
        fixture.cluster.delete(name);
    }
    settle().await;
    assert_eq!(fixture.existing().len(), 8);
    let most = fixture.cloud.with(|cloud| cloud.inside.clone());
    assert_eq!((most["default/edge"], most["default/inner"]), ((0, 1), (0, 1)));
    assert!(most[""].1 > 1, "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_waits_for_a_listener_says_so_and_gets_it_soon_after_its_release() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_member("first", "edge"));
    settle().await;
    fixture.cluster.apply(mk_member("second", "edge"));
    settle().await;
    assert_eq!(fixture.conditions("first")["Accepted"], "True/Accepted");
    assert_eq!(fixture.conditions("second")["Accepted"], "False/ListenerConflict");
    fixture.cluster.delete("first");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.conditions("second")["Accepted"], "True/Accepted", "and not at the next listing");
    assert_eq!(fixture.conditions("second")["Synced"], "True/AsDesired");
}

#[tokio::test(start_paused = true)]
async fn a_group_of_another_namespace_is_refused_unless_it_is_allowed() {
    let mut fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_member("web", "shop/edge"));
    settle().await;
    assert_eq!(fixture.conditions("web")["Accepted"], "False/InvalidAnnotation");
    assert!(fixture.existing().is_empty());
    drop(running);
    fixture.settings.scope.groups = GroupScope::Cluster;
    let _running = fixture.start().await;
    settle().await;
    let groups: Vec<String> = fixture.cloud.with(|cloud| {
        cloud.existing.values().filter_map(|(spec, _)| spec.group.as_ref().map(ToString::to_string)).collect()
    });
    assert_eq!(groups, ["shop/edge"]);
}
