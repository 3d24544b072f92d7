//! Late watches: an old state is never taken for a new one.

use super::super::*;
use super::fixture::*;
use tokio::time::sleep;

use crate::cache::store::Change;
use crate::testing::{FakeCluster, WatchFaults, mk_pod, mk_service, mk_slice, with};

const LAG: Duration = Duration::from_secs(2);

/// A fixture whose watches show everything in order and late.
fn late() -> Fixture {
    Fixture { cluster: FakeCluster::new(WatchFaults::late(LAG)), ..Fixture::new() }
}

fn annotated(name: &str, key: &str, value: &str) -> Service {
    let mut service = mk_service(name);
    service.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    service
}

fn targets(fixture: &Fixture) -> usize {
    fixture.cloud.with(|cloud| cloud.existing.values().map(|(spec, _)| spec.targets.len()).sum())
}

#[tokio::test(start_paused = true)]
async fn a_bad_edit_that_was_made_before_the_address_came_does_not_take_it_away() {
    let fixture = late();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    // The watch shows it now; its load balancer is made, and meanwhile the Service becomes a wrong one.
    sleep(LAG + Duration::from_millis(15)).await;
    fixture.cluster.apply(annotated("web", "portico.dev/scheme", "sideways"));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.addresses("web"), ["192.0.2.1"]);
    for _ in 0..100 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(fixture.addresses("web"), ["192.0.2.1"], "the watch shows the edit, which is older");
    }
    assert_eq!(fixture.conditions("web")["Accepted"], "False/InvalidAnnotation");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_another_writer_wrote_meanwhile_is_not_cleared_from_an_old_read() {
    let fixture = late();
    let _running = fixture.start().await;
    fixture.cluster.apply(annotated("web", "portico.dev/scheme", "sideways"));
    sleep(LAG + LAG).await;
    assert_eq!(fixture.conditions("web")["Accepted"], "False/InvalidAnnotation");
    // As a former process of ours may have, whose write took its time.
    let mut service = fixture.cluster.get("web").unwrap();
    let ingress = k8s_openapi::api::core::v1::LoadBalancerIngress {
        ip: Some("192.0.2.9".to_owned()),
        ..Default::default()
    };
    service.status.as_mut().unwrap().load_balancer.as_mut().unwrap().ingress = Some(vec![ingress]);
    fixture.cluster.apply(annotated("web", "portico.dev/scheme", "backwards"));
    sleep(LAG.saturating_sub(Duration::from_millis(1))).await;
    fixture.cluster.with(|cluster| cluster.put(service));
    settle().await;
    assert_eq!(fixture.addresses("web"), ["192.0.2.9"]);
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_only_the_answer_to_an_own_write_showed_is_not_forgotten() {
    let fixture = late();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    sleep(LAG + Duration::from_millis(15)).await;
    fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
    settle().await;
    let ports: Vec<u16> = fixture.cloud.with(|cloud| {
        let listeners = cloud.existing.values().flat_map(|(spec, _)| &spec.listeners);
        listeners.map(|listener| listener.port.get()).collect()
    });
    assert_eq!(ports, [81]);
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_loses_its_label_takes_its_endpoints_along_and_is_nobodys_then() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    for (name, address) in [("one", "10.1.0.1"), ("two", "10.1.0.2")] {
        running.router.take(Change::Put(mk_pod("default", name, &[address], "Running")), Duration::ZERO);
    }
    fixture.cluster.apply(annotated("web", "portico.dev/target-kind", "pod"));
    let slice = |name, address| mk_slice("web", name, &[(address, "n", true)]);
    fixture.cluster.put_slice(slice("web-1", "10.1.0.1"));
    fixture.cluster.put_slice(slice("web-2", "10.1.0.2"));
    settle().await;
    assert_eq!(targets(&fixture), 2);
    let mut nobodys = slice("web-1", "10.1.0.1");
    nobodys.metadata.labels = None;
    fixture.cluster.put_slice(nobodys);
    settle().await;
    assert_eq!(targets(&fixture), 1, "without its label it is not this Service's");
    fixture.cluster.remove_slice("web-1");
    fixture.cluster.put_slice(mk_slice("other", "web-2", &[("10.1.0.2", "n", true)]));
    settle().await;
    assert_eq!(targets(&fixture), 0, "and one that is another's now is that one's");
}
