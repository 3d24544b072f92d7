//! UDP flows: which are deleted, when, and how often all are listed for it.

use portico_proxy_core::flows::StaleFlows;

use super::*;

#[tokio::test(start_paused = true)]
async fn udp_flows_to_a_removed_endpoint_are_deleted_and_others_kept() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1", "10.1.0.2"]).await;
    bench.kernel.inside().stale.clear();
    bench.send([mk_slice(Protocol::Udp, &["10.1.0.2"])]).await;
    bench.settle().await;
    let by_frontend: BTreeMap<_, _> =
        bench.kernel.inside().stale.iter().map(|s| (s.frontend, s.keep.clone())).collect();
    assert_eq!(by_frontend.len(), 2, "the ClusterIP and the NodePort");
    for keep in by_frontend.values() {
        assert_eq!(keep.iter().map(|b| b.address).collect::<Vec<_>>(), [ip("10.1.0.2")]);
    }
}

#[tokio::test(start_paused = true)]
async fn udp_flows_to_an_endpoint_that_terminated_are_deleted_when_it_is_gone() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1", "10.1.0.2"]).await;
    bench.send([mk_slice_with(Protocol::Udp, &["10.1.0.2"], &["10.1.0.1"])]).await;
    bench.settle().await;
    bench.kernel.inside().stale.clear();
    // No element changes: the endpoint took no new flows any more.
    bench.send([mk_slice(Protocol::Udp, &["10.1.0.2"])]).await;
    bench.settle().await;
    let stale = bench.kernel.inside().stale.clone();
    assert!(stale.iter().any(|s| s.frontend == mk_vip(Protocol::Udp)), "{stale:?}");
    let gone = |s: &StaleFlows| s.keep.iter().all(|backend| backend.address == ip("10.1.0.2"));
    assert!(stale.iter().all(gone), "{stale:?}");
}

#[tokio::test(start_paused = true)]
async fn tcp_flows_are_left_alone() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    bench.send([mk_slice(Protocol::Tcp, &[])]).await;
    bench.settle().await;
    assert!(bench.kernel.inside().stale.is_empty());
}

/// A flow to an endpoint that is gone by the time of the next start.
async fn with_a_stale_flow(kernel: &FakeKernel) -> Bench {
    let bench = mk_bench(kernel.clone());
    bench.send([mk_node(), mk_service(Protocol::Udp), mk_slice(Protocol::Udp, &["10.1.0.2"])]).await;
    let gone = Backend { address: ip("10.1.0.1"), port: 8080 };
    kernel.inside().tracked.insert((mk_vip(Protocol::Udp), 1), gone);
    bench
}

#[tokio::test(start_paused = true)]
async fn a_restart_finds_flows_to_endpoints_that_left_while_no_proxy_ran() {
    let first = Bench::started(Protocol::Udp, &["10.1.0.2"]).await;
    first.stop.cancel();
    first.task.await.expect("no panic").expect("stopped");
    let second = with_a_stale_flow(&first.kernel).await;
    second.list_all().await;
    second.settle().await;
    let inside = second.kernel.inside();
    assert!(inside.tracked.is_empty(), "{:?}", inside.tracked);
}

#[tokio::test(start_paused = true)]
async fn the_first_write_finds_flows_that_began_without_it() {
    let bench = mk_bench(FakeKernel::default());
    let itself = Backend { address: ip("10.96.0.1"), port: 80 };
    bench.kernel.inside().tracked.insert((mk_vip(Protocol::Udp), 1), itself);
    bench.send([mk_service(Protocol::Udp), mk_slice(Protocol::Udp, &["10.1.0.1"])]).await;
    bench
        .send([InputEvent::First(Source::Services), InputEvent::First(Source::EndpointSlices), mk_node()])
        .await;
    bench.send([InputEvent::Listed(Source::Node), InputEvent::Listed(Source::Addresses)]).await;
    bench.settle().await;
    assert!(bench.kernel.inside().tracked.is_empty(), "DNS works before the rest is known");
}

#[tokio::test(start_paused = true)]
async fn repairs_find_flows_of_the_time_before_them() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1"]).await;
    bench.kernel.flush();
    bench.kernel.inside().send(mk_vip(Protocol::Udp), 1);
    tokio::time::sleep(AUDIT_EVERY * 2).await;
    assert!(bench.kernel.inside().tracked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_ends_the_flows_all_the_same() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1", "10.1.0.2"]).await;
    for client in 0..4 {
        bench.kernel.inside().send(mk_vip(Protocol::Udp), client);
    }
    let source = std::io::ErrorKind::TimedOut.into();
    let lost = DataplaneError::Transport { operation: "hear of a commit".to_owned(), source };
    bench.kernel.inside().lost_answers.push_back(lost);
    bench.send([mk_slice(Protocol::Udp, &["10.1.0.2"])]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let left: BTreeSet<_> = bench.kernel.inside().tracked.values().map(|to| to.address).collect();
    assert_eq!(left, BTreeSet::from([ip("10.1.0.2")]));
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_is_made_again() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1"]).await;
    bench.kernel.inside().send(mk_vip(Protocol::Udp), 1);
    bench.kernel.inside().failing_listings = 3;
    bench.send([mk_slice(Protocol::Udp, &["10.1.0.2"])]).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(bench.kernel.inside().tracked.is_empty(), "what stood in the way is over");
}

#[tokio::test(start_paused = true)]
async fn changes_share_listings_and_a_change_that_concerns_no_flow_costs_none() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1", "10.1.0.2"]).await;
    bench.kernel.inside().listings = 0;
    for last in 3..23 {
        bench.send([mk_slice(Protocol::Udp, &["10.1.0.1", &format!("10.1.0.{last}")])]).await;
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    bench.settle().await;
    let listings = bench.kernel.inside().listings;
    assert!((1..=2).contains(&listings), "20 changes within 100 ms: {listings} listings");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(bench.kernel.inside().listings, listings, "nothing changed since");
    bench.kernel.inside().generation += 1;
    tokio::time::sleep(AUDIT_EVERY * 2).await;
    assert_eq!(bench.kernel.inside().listings, listings, "another program changed a table that is not ours");
}
