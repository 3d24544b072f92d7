//! Surplus in the kernel is removed, however it was found, and a stop finishes pending removals.

use portico_proxy_core::table::{Alias, List, Pick, Target};

use super::*;

/// Elements that no packet may miss at once, and nothing of ours wants.
fn mk_surplus() -> [Key; 5] {
    let nowhere = Frontend { address: ip("10.96.0.99"), protocol: Protocol::Tcp, port: 80 };
    let alias = Alias { address: ip("240.0.0.9"), protocol: Protocol::Tcp };
    [
        Key::NoEndpoints(nowhere),
        Key::Endpoint(mk_vip(Protocol::Tcp), 7),
        Key::AffinityPort(nowhere),
        Key::AffinityEndpoint(alias, List::Local, 0xa5),
        Key::AffinitySlot(alias, 3),
    ]
}

fn value(key: &Key) -> Value {
    match key {
        Key::NoEndpoints(_) => Value::Verdict(portico_proxy_core::table::Verdict::Drop),
        Key::AffinitySlot(..) => Value::Id(0xa5),
        Key::AffinityPort(_) => Value::Alias(ip("240.0.0.9")),
        _ => Value::Backend(Backend { address: ip("10.1.0.77"), port: 1 }),
    }
}

#[tokio::test(start_paused = true)]
async fn surplus_that_only_a_read_finds_is_removed() {
    for surplus in mk_surplus() {
        let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
        let before = bench.kernel.inside().state.clone();
        bench.kernel.inside().state.elements.insert(surplus, value(&surplus));
        bench.kernel.inside().generation += 1;
        tokio::time::sleep(AUDIT_EVERY + DESTRUCTIVE_AFTER * 3).await;
        assert_eq!(bench.kernel.inside().state, before, "{surplus:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_only_a_read_finds_is_removed_too() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1"]).await;
    let before = bench.kernel.inside().state.clone();
    let chain = {
        let mut inside = bench.kernel.inside();
        let mut chain = *inside.state.chains.iter().next().expect("one");
        chain.target = Target::Pick(Pick { endpoints: 77, list: List::Cluster });
        inside.state.chains.insert(chain);
        inside.generation += 1;
        chain
    };
    tokio::time::sleep(AUDIT_EVERY + DESTRUCTIVE_AFTER * 3).await;
    assert_eq!(bench.kernel.inside().state, before, "{chain}");
}

/// Ends a proxy between the two phases of a change, by `end`, and starts another.
async fn restarted_between_the_phases(end: impl AsyncFn(Bench) -> FakeKernel) -> Bench {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"]).await;
    bench.send([mk_slice(Protocol::Tcp, &["10.1.0.1"])]).await;
    tokio::time::sleep(DESTRUCTIVE_AFTER / 2).await;
    assert!(bench.has(Key::Endpoint(mk_vip(Protocol::Tcp), 1)), "between the phases");
    let next = mk_bench(end(bench).await);
    next.send([mk_node(), mk_service(Protocol::Tcp), mk_slice(Protocol::Tcp, &["10.1.0.1"])]).await;
    next
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_the_phases_removes_what_it_would_have() {
    let next = restarted_between_the_phases(async |bench| {
        bench.stop.cancel();
        bench.task.await.expect("no panic").expect("stopped");
        bench.kernel
    });
    assert!(!next.await.has(Key::Endpoint(mk_vip(Protocol::Tcp), 1)));
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_between_the_phases_the_successor_removes_it() {
    let next = restarted_between_the_phases(async |bench| {
        bench.task.abort();
        drop(bench.task.await);
        bench.kernel
    });
    let next = next.await;
    assert!(next.has(Key::Endpoint(mk_vip(Protocol::Tcp), 1)), "nobody had the time");
    next.list_all().await;
    next.settle().await;
    assert!(!next.has(Key::Endpoint(mk_vip(Protocol::Tcp), 1)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_flows_that_a_change_left() {
    let bench = Bench::started(Protocol::Udp, &["10.1.0.1"]).await;
    bench.kernel.inside().send(mk_vip(Protocol::Udp), 1);
    bench.send([mk_slice(Protocol::Udp, &["10.1.0.2"])]).await;
    tokio::task::yield_now().await;
    bench.stop.cancel();
    bench.task.await.expect("no panic").expect("stopped");
    assert!(bench.kernel.inside().tracked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_kernel_that_does_not_answer() {
    let bench = Bench::started(Protocol::Tcp, &["10.1.0.1", "10.1.0.2"]).await;
    for _ in 0..100 {
        let source = std::io::ErrorKind::WouldBlock.into();
        let error = DataplaneError::Refused { operation: "put".to_owned(), source };
        bench.kernel.inside().failures.push_back(error);
    }
    bench.send([mk_slice(Protocol::Tcp, &["10.1.0.1"])]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    bench.stop.cancel();
    bench.task.await.expect("no panic").expect("stopped");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
