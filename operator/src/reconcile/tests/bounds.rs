//! State that ends with its object, and attempts that end even after a panic.

use super::super::*;
use super::fixture::*;
use tokio::time::sleep;

use crate::cache::class_parameters::{LoadBalancerClassParameters, LoadBalancerClassParametersSpec};
use crate::testing::{mk_service, with};

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_services_that_are_gone_whatever_state_they_were_in() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cloud.with(|cloud| cloud.hanging.insert("uid-s3".parse().unwrap()));
    for index in 0..20 {
        let name = format!("s{index}");
        // Refused ones have no finalizer, and are gone at once.
        let refused = with(mk_service(&name), |spec| spec.ports = None);
        fixture.cluster.apply(if index % 2 == 0 { refused } else { mk_service(&name) });
    }
    settle().await;
    assert!(running.metric("services").iter().any(|line| line.contains("refused\"} 10")));
    for index in 0..20 {
        fixture.cluster.delete(&format!("s{index}"));
    }
    fixture.cluster.apply(mk_service("forced"));
    settle().await;
    fixture.cluster.delete_by_force("forced");
    fixture.cluster.delete_by_force("s3");
    sleep(Duration::from_mins(9)).await;
    assert_eq!(running.metric("services"), [""; 0]);
    assert_eq!(running.reconciler.provisioner.tracked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_created_again_unseen_leaves_nothing_of_the_old_one() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports = None));
    settle().await;
    fixture.cluster.delete("web");
    let mut again = with(mk_service("web"), |spec| spec.ports = None);
    again.metadata.uid = Some("uid-other".to_owned());
    fixture.cluster.apply(again);
    settle().await;
    assert_eq!(running.metric("services"), ["portico_operator_services{state=\"refused\"} 1"]);
    assert_eq!(running.reconciler.provisioner.tracked(), 1);
}

/// A worker plans, and asks which names are shared; an attempt plans when its turn has come.
#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_anywhere_stops_no_service_for_good() {
    for calls in 0..16 {
        let fixture = Fixture::calm();
        let _running = fixture.start().await;
        fixture.cloud.with(|cloud| cloud.panics_after = Some(calls));
        fixture.cluster.apply(mk_service("web"));
        settle().await;
        assert_eq!(fixture.existing(), ["web"], "after {calls} calls");
        assert_eq!(fixture.conditions("web")["Synced"], "True/AsDesired", "after {calls} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn class_parameters_get_their_condition_although_the_first_try_failed() {
    let fixture = Fixture::new();
    let spec = LoadBalancerClassParametersSpec {
        load_balancer_class: "portico.dev/fake".to_owned(),
        ..LoadBalancerClassParametersSpec::default()
    };
    let object = LoadBalancerClassParameters::new("fake", spec);
    fixture.cluster.with(|cluster| cluster.put_parameters(&object));
    let running = fixture.start().await;
    fixture.cluster.with(|cluster| cluster.failing = 3);
    let reports = tokio::spawn(class_parameters::report(Arc::clone(&running.reconciler)));
    settle().await;
    let status = fixture.cluster.with(|cluster| cluster.parameters["fake"].status.clone());
    assert_eq!(status.unwrap().conditions[0].status, "True");
    reports.abort();
}
