//! Traffic continues without an API server, without a Node object, and after implausible answers.

use super::*;

/// A proxy that was stopped, and left its rules.
async fn mk_rules() -> FakeKernel {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    bench.stop.cancel();
    bench.task.await.expect("no panic").expect("stopped");
    bench.kernel
}

fn is_served(bench: &Bench) -> bool {
    let node_port = Frontend { address: ip("192.0.2.1"), protocol: Protocol::Tcp, port: 30080 };
    bench.has(Key::Service(mk_vip(Protocol::Tcp))) && bench.has(Key::Service(node_port))
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_api_server_is_no_reason_to_be_killed_and_the_rules_serve() {
    for kernel in [FakeKernel::default(), mk_rules().await] {
        let inherits = kernel.inside().state != State::default();
        let bench = mk_bench(kernel);
        bench.send([mk_node(), mk_service(Protocol::Tcp), mk_slice(Protocol::Tcp, &["10.1.0.1"])]).await;
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(bench.health.livez().healthy);
        assert_eq!(bench.health.healthz().healthy, inherits, "load balancers send to those who serve");
        assert_eq!(is_served(&bench), inherits);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_takes_nothing_is_a_reason() {
    let bench = mk_bench(FakeKernel::default());
    for _ in 0..1000 {
        let source = std::io::ErrorKind::WouldBlock.into();
        let error = DataplaneError::Refused { operation: "put".to_owned(), source };
        bench.kernel.inside().failures.push_back(error);
    }
    bench.send([mk_node(), mk_service(Protocol::Tcp)]).await;
    bench.list_all().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(!bench.health.livez().healthy);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_object_takes_nothing_away() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    bench.send([InputEvent::Node(None)]).await;
    bench.settle().await;
    assert!(is_served(&bench) && bench.health.healthz().healthy);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_a_node_object_changes_nothing_until_there_is_one() {
    let bench = mk_bench(mk_rules().await);
    bench
        .send([InputEvent::Node(None), mk_service(Protocol::Tcp), mk_slice(Protocol::Tcp, &["10.1.0.2"])])
        .await;
    bench.list_all().await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(is_served(&bench) && bench.health.livez().healthy && bench.health.healthz().healthy);
    bench.send([mk_node()]).await;
    bench.settle().await;
    let slots = bench.kernel.inside().state.slots(&mk_vip(Protocol::Tcp), List::Cluster);
    assert_eq!(slots[0].address, ip("10.1.0.2"));
}

#[tokio::test(start_paused = true)]
async fn a_start_with_empty_lists_changes_nothing_until_they_are_plausible() {
    let bench = mk_bench(mk_rules().await);
    bench.send([mk_node()]).await;
    bench.list_all().await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(is_served(&bench) && bench.health.livez().healthy);
    bench.send([mk_service(Protocol::Tcp)]).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(is_served(&bench), "there is no slice at all");
    bench.send([mk_slice(Protocol::Tcp, &["10.1.0.2"])]).await;
    bench.settle().await;
    let slots = bench.kernel.inside().state.slots(&mk_vip(Protocol::Tcp), List::Cluster);
    assert_eq!(slots[0].address, ip("10.1.0.2"));
}

#[tokio::test(start_paused = true)]
async fn where_others_serve_the_rest_empty_lists_are_applied() {
    let bench = mk_bench_serving(mk_rules().await, true);
    bench.send([mk_node()]).await;
    bench.list_all().await;
    bench.settle().await;
    assert!(!is_served(&bench));
}
