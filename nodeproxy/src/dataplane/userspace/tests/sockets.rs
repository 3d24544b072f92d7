//! The sockets of the dataplane: where they are, when they open, move and close, and that the kernel leads to them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_listens_where_the_kernel_leads_already() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let state = mk_state(f, &[mk_server("one")], None);
    bench.sync(&state);
    let (kernel, before) = (bench.kernel.clone(), bench.redirect(f));
    let connection = bench.dial(f);
    drop(bench);
    drop(connection);
    let mut successor = Bench::over(kernel, 100_000);
    let observed = successor.dataplane.read().expect("reads");
    assert!(observed.rebuild.is_some() && observed.state == State::default(), "it knows of no endpoint");
    let generation = successor.kernel.inside().generation;
    // The predecessor's sockets close as soon as its tasks are scheduled.
    while TcpListener::bind(before.expect("redirected")).is_err() {
        tokio::task::yield_now().await;
    }
    successor.sync(&state);
    assert_eq!(successor.redirect(f), before);
    let changed = successor.kernel.inside().applied.iter().map(|(_, t)| t.len()).sum::<usize>();
    assert!(successor.kernel.inside().generation > generation);
    assert_eq!(changed, successor.kernel.inside().applied[0].1.len(), "nothing had to be changed");
    assert_eq!(successor.ask(f), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_move_with_the_nodes_address() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    bench.sync(&mk_state(f, &[mk_server("one")], None));
    assert_eq!(bench.redirect(f).map(|address| address.ip()), Some([127, 0, 0, 1].into()));
    *bench.addresses.lock().expect("no panic") = vec![[127, 0, 0, 2].into()];
    bench.dataplane.generation().expect("mends");
    assert_eq!(bench.redirect(f).map(|address| address.ip()), Some([127, 0, 0, 2].into()));
    assert_eq!(bench.ask(f), "one");
    bench.addresses.lock().expect("no panic").clear();
    bench.dataplane.generation().expect("mends");
    let refused = bench.kernel.inside().state.elements.get(&Key::NoEndpoints(f)).copied();
    assert_eq!(refused, Some(Value::Verdict(Verdict::Reject)), "better refused than into the void");
    assert_eq!(bench.faults.recv().await.map(|fault| fault.why), Some(Why::NoAddress));
}

#[tokio::test(flavor = "multi_thread")]
async fn sctp_is_refused_and_reported() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Sctp);
    bench.sync(&mk_state(f, &[mk_dead()], None));
    let refused = bench.kernel.inside().state.elements.get(&Key::NoEndpoints(f)).copied();
    assert_eq!(refused, Some(Value::Verdict(Verdict::Reject)));
    assert_eq!(bench.faults.recv().await, Some(Fault { frontend: f, why: Why::Protocol }));
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_tables_are_written_again_with_the_same_sockets() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let state = mk_state(f, &[mk_server("one")], None);
    bench.sync(&state);
    let socket = bench.redirect(f);
    bench.kernel.flush();
    assert_eq!(bench.redirect(f), None);
    bench.sync(&state);
    assert_eq!((bench.redirect(f), bench.ask(f)), (socket, "one".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_error_of_the_kernel_everything_is_written_again() {
    let mut bench = Bench::new();
    let (f, g) = (mk_frontend(1, Protocol::Tcp), mk_frontend(2, Protocol::Tcp));
    let (one, mut both) = (mk_state(f, &[mk_server("one")], None), State::default());
    bench.sync(&one);
    for state in [&one, &mk_state(g, &[mk_server("two")], None)] {
        state.elements.iter().for_each(|(key, value)| both.insert(*key, *value));
    }
    bench.kernel.inside().failures.push_back(DataplaneError::Changed { operation: "test".into() });
    let plan = diff(&one, &both);
    bench.dataplane.apply(&plan.additive).expect_err("the kernel refuses");
    assert_eq!(bench.dataplane.read().expect("reads").state, State::default());
    bench.sync(&both);
    assert_eq!((bench.ask(f), bench.ask(g)), ("one".to_owned(), "two".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_ports_open_and_close_and_leave_nothing() {
    const SERVICES: u16 = 2_000;
    let mut bench = Bench::new();
    let server = mk_server("one");
    let frontend = |number: u16, protocol| {
        let [high, low] = number.to_be_bytes();
        Frontend { address: [10, 97, high, low].into(), protocol, port: 80 }
    };
    let mut all = State::default();
    for number in 0..SERVICES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let one = mk_state(frontend(number, protocol), &[server], None);
            one.elements.into_iter().for_each(|(key, value)| all.insert(key, value));
        }
    }
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    bench.sync(&all);
    assert_eq!(tasks() - before, usize::from(SERVICES) * 2, "one task for each socket");
    assert_eq!(bench.ask(frontend(SERVICES - 1, Protocol::Tcp)), "one");
    bench.sync(&State::default());
    while tasks() > before {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.dataplane.own, BTreeSet::new());
    let counters = bench.dataplane.pools.counters();
    assert_eq!((counters.open_connections.get(), counters.open_flows.get()), (0, 0));
}
