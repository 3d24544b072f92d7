//! TCP connections through the proxy, as clients and endpoints see them.

use std::net::Shutdown;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_led_to_a_socket_behind_which_all_endpoints_answer() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    bench.sync(&mk_state(f, &[mk_server("one"), mk_server("two")], None));
    let answers: BTreeSet<_> = (0..4).map(|_| bench.ask(f)).collect();
    assert_eq!(answers, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    let socket = bench.redirect(f).expect("redirected");
    let guard = Frontend { address: socket.ip(), protocol: Protocol::Tcp, port: socket.port() };
    let inside = bench.kernel.inside();
    assert!(inside.state.elements.contains_key(&Key::Firewalled(guard)), "only redirected packets may come");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_notices_endpoints_that_refuse() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    bench.sync(&mk_state(f, &[mk_dead(), mk_dead(), mk_server("alive"), mk_dead()], None));
    for _ in 0..20 {
        assert_eq!(bench.ask(f), "alive");
    }
    assert!(bench.dataplane.pools.counters().failures("Attempt") > 0, "but who looks at the metrics does");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_no_endpoint_takes_is_reset() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    bench.sync(&mk_state(f, &[mk_dead()], None));
    assert_eq!(bench.ask(f), "ConnectionReset");
    assert_eq!(bench.dataplane.pools.counters().failures("Unreachable"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_end_its_half_and_go_on_hearing() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    // The server answers only after the client's end, and far more than buffers hold.
    let after_end = mk_custom_server(|mut client| {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("hears the end");
        for _ in 0..64 {
            client.write_all(&heard).expect("answers");
        }
    });
    bench.sync(&mk_state(f, &[after_end], None));
    let mut client = bench.dial(f);
    client.write_all(&vec![7; 100_000]).expect("asks");
    client.shutdown(Shutdown::Write).expect("ends");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("is answered");
    assert_eq!(answer.len(), 6_400_000);
    // And the other way: the server ends first, and hears the client out.
    let (heard, results) = std::sync::mpsc::channel();
    let ends_first = mk_custom_server(move |mut client| {
        client.shutdown(Shutdown::Write).expect("ends");
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("hears");
        heard.send(all.len()).expect("the test waits");
    });
    bench.sync(&mk_state(f, &[ends_first], None));
    let mut client = bench.dial(f);
    assert_eq!(client.read(&mut [0; 8]).expect("the end"), 0);
    client.write_all(&vec![7; 1_000_000]).expect("says");
    drop(client);
    assert_eq!(results.recv_timeout(PATIENCE), Ok(1_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_passed_on_as_a_reset() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let resets = mk_custom_server(|client| {
        let socket = socket2::Socket::from(client);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    });
    bench.sync(&mk_state(f, &[resets], None));
    assert_eq!(bench.ask(f), "ConnectionReset");
    // And the other way.
    let (heard, results) = std::sync::mpsc::channel();
    let endpoint = mk_custom_server(move |mut client| {
        client.write_all(b"!").expect("says");
        heard.send(client.read(&mut [0; 8]).map_err(|error| error.kind())).expect("the test waits");
    });
    bench.sync(&mk_state(f, &[endpoint], None));
    let mut client = bench.dial(f);
    client.read_exact(&mut [0]).expect("is connected");
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
    assert_eq!(results.recv_timeout(PATIENCE), Ok(Err(std::io::ErrorKind::ConnectionReset)));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_list_touch_no_connection_and_close_no_socket() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let echo = mk_custom_server(|mut client| {
        let mut byte = [0];
        while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
    });
    bench.sync(&mk_state(f, &[echo], None));
    let (socket, mut client) = (bench.redirect(f), bench.dial(f));
    let mut talk = |byte: u8| {
        client.write_all(&[byte]).expect("says");
        let mut answer = [0];
        client.read_exact(&mut answer).expect("hears");
        assert_eq!(answer, [byte]);
    };
    talk(1);
    bench.sync(&mk_state(f, &[mk_server("two"), echo], None));
    talk(2);
    bench.sync(&mk_state(f, &[mk_server("three")], None));
    talk(3);
    assert_eq!((bench.redirect(f), bench.ask(f)), (socket, "three".to_owned()));
    bench.sync(&mk_state(f, &[], None));
    talk(4);
    assert_eq!(bench.redirect(f), None);
    bench.sync(&State::default());
    talk(5);
    assert!(TcpStream::connect(socket.expect("there was one")).is_err(), "the socket is closed");
    assert_eq!(bench.kernel.inside().state.elements.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_affinity_keeps_its_endpoint_while_that_lives() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let (one, two) = (mk_server("one"), mk_server("two"));
    bench.sync(&mk_state(f, &[one, two], Some(3600)));
    let first = bench.ask(f);
    for _ in 0..5 {
        assert_eq!(bench.ask(f), first);
    }
    let (gone, left) = if first == "one" { (one, two) } else { (two, one) };
    bench.sync(&mk_state(f, &[left], Some(3600)));
    let second = bench.ask(f);
    assert_ne!(second, first);
    bench.sync(&mk_state(f, &[left, gone], Some(3600)));
    for _ in 0..5 {
        assert_eq!(bench.ask(f), second);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_files_clients_wait_and_are_served_when_others_end() {
    // Two for the listener and two for one connection, beside the reserve.
    let mut bench = Bench::over(FakeKernel::default(), 256 + 4);
    let f = mk_frontend(1, Protocol::Tcp);
    let echo = mk_custom_server(|mut client| {
        let mut byte = [0];
        while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
    });
    bench.sync(&mk_state(f, &[echo], None));
    let (mut first, mut second) = (bench.dial(f), bench.dial(f));
    let mut answer = [0];
    first.write_all(b"1").expect("says");
    first.read_exact(&mut answer).expect("is served");
    second.write_all(b"2").expect("says");
    second.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    second.read_exact(&mut answer).expect_err("waits");
    drop(first);
    second.set_read_timeout(Some(PATIENCE)).expect("a socket");
    second.read_exact(&mut answer).expect("is served");
    assert_eq!(&answer, b"2");
}
