//! The whole dataplane over a kernel in memory, with real sockets on loopback.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use portico_proxy_core::table::{Balance, List, Protocol, Verdict};
use tokio::sync::mpsc;

use super::{
    counters::Counters,
    faults::{Fault, Why},
    files::Files,
    pool::Choice,
    proxy::Options,
    *,
};
use crate::sync::fake::FakeKernel;

/// How long an answer may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn mk_proxy(files: u64) -> (Arc<Proxy>, mpsc::Receiver<Fault>) {
    let (faults, told) = mpsc::channel(faults::BACKLOG);
    let options = Options { choice: Choice::RoundRobin, udp_timeout: Duration::from_mins(2), mark: None };
    let proxy = Proxy {
        runtime: tokio::runtime::Handle::current(),
        options,
        files: Files::new(files),
        clients: Arc::default(),
        counters: Counters::default(),
        faults,
    };
    (Arc::new(proxy), told)
}

/// A node whose address is 127.0.0.1, which stands for one that is not loopback.
struct World {
    kernel: FakeKernel,
    dataplane: Userspace,
    faults: mpsc::Receiver<Fault>,
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    stands: State,
}

impl World {
    fn new() -> Self {
        Self::over(FakeKernel::default(), 100_000)
    }

    fn over(kernel: FakeKernel, files: u64) -> Self {
        let (proxy, faults) = mk_proxy(files);
        let addresses = Arc::new(Mutex::new(vec![IpAddr::from([127, 0, 0, 1])]));
        let node = addresses.clone();
        let list: Addresses = Box::new(move || Ok(node.lock().expect("no panic").clone()));
        let dataplane = Userspace::new(Box::new(kernel.clone()), proxy, list);
        Self { kernel, dataplane, faults, addresses, stands: State::default() }
    }

    /// What the sync loop does.
    fn sync(&mut self, desired: &State) {
        let observed = self.dataplane.read().expect("reads").state;
        let plan = diff(&observed, desired);
        self.dataplane.apply(&plan.widen).expect("widens");
        self.dataplane.apply(&plan.narrow).expect("narrows");
        self.stands = desired.clone();
        let observed = self.dataplane.read().expect("reads");
        assert_eq!((observed.rebuild, observed.state.elements), (None, desired.elements.clone()));
    }

    /// Where the kernel leads clients of a frontend.
    fn redirect(&self, frontend: Frontend) -> Option<SocketAddr> {
        let inside = self.kernel.inside();
        let leads = inside.state.elements.contains_key(&Key::Service(frontend));
        match inside.state.elements.get(&Key::Endpoint(frontend, 0)) {
            Some(Value::Backend(Backend { address, port })) if leads => Some((*address, *port).into()),
            _ => None,
        }
    }

    fn dial(&self, frontend: Frontend) -> TcpStream {
        let stream = TcpStream::connect(self.redirect(frontend).expect("redirected")).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    /// Which server answers.
    fn ask(&self, frontend: Frontend) -> String {
        say(self.dial(frontend))
    }
}

fn say(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).map_or_else(|error| format!("{:?}", error.kind()), |_| text)
}

fn mk_frontend(number: u8, protocol: Protocol) -> Frontend {
    Frontend { address: [10, 96, 0, number].into(), protocol, port: 80 }
}

fn mk_state(frontend: Frontend, backends: &[Backend], affinity: Option<u32>) -> State {
    let mut state = State::default();
    let endpoints = u32::try_from(backends.len()).expect("few");
    let balance = Balance { endpoints, list: List::Cluster, masquerade: true, affinity };
    if backends.is_empty() {
        state.insert(Key::NoEndpoints(frontend), Value::Verdict(Verdict::Reject));
    } else {
        state.insert(Key::Service(frontend), Value::Verdict(Verdict::Balance(balance)));
    }
    for (slot, backend) in (0..).zip(backends) {
        state.insert(Key::Endpoint(frontend, slot), Value::Backend(*backend));
    }
    state
}

/// A server that says its name and closes.
fn mk_server(name: &'static str) -> Backend {
    mk_custom_server(move |mut client| drop(client.write_all(name.as_bytes())))
}

fn mk_custom_server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(client));
        }
    });
    Backend { address: address.ip(), port: address.port() }
}

/// An address where nobody listens, and where no other test will: the port is taken, for as long as the tests run.
fn mk_dead() -> Backend {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("any port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    std::mem::forget(socket);
    Backend { address: address.ip(), port: address.port() }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_led_to_a_socket_behind_which_all_endpoints_answer() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    world.sync(&mk_state(f, &[mk_server("one"), mk_server("two")], None));
    let answers: BTreeSet<_> = (0..4).map(|_| world.ask(f)).collect();
    assert_eq!(answers, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    let socket = world.redirect(f).expect("redirected");
    let guard = Frontend { address: socket.ip(), protocol: Protocol::Tcp, port: socket.port() };
    let inside = world.kernel.inside();
    assert!(inside.state.elements.contains_key(&Key::Firewalled(guard)), "only redirected packets may come");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_notices_endpoints_that_refuse() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    world.sync(&mk_state(f, &[mk_dead(), mk_dead(), mk_server("alive"), mk_dead()], None));
    for _ in 0..20 {
        assert_eq!(world.ask(f), "alive");
    }
    assert!(world.dataplane.pools.counters().failures("Attempt") > 0, "but who looks at the metrics does");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_no_endpoint_takes_is_reset() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    world.sync(&mk_state(f, &[mk_dead()], None));
    assert_eq!(world.ask(f), "ConnectionReset");
    assert_eq!(world.dataplane.pools.counters().failures("Unreachable"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_end_its_half_and_go_on_hearing() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    // The server answers only after the client's end, and far more than buffers hold.
    let after_end = mk_custom_server(|mut client| {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("hears the end");
        for _ in 0..64 {
            client.write_all(&heard).expect("answers");
        }
    });
    world.sync(&mk_state(f, &[after_end], None));
    let mut client = world.dial(f);
    client.write_all(&vec![7; 100_000]).expect("asks");
    client.shutdown(Shutdown::Write).expect("ends");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("is answered");
    assert_eq!(answer.len(), 6_400_000);
    // And the other way: the server ends first, and hears the client out.
    let (heard, told) = std::sync::mpsc::channel();
    let ends_first = mk_custom_server(move |mut client| {
        client.shutdown(Shutdown::Write).expect("ends");
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("hears");
        heard.send(all.len()).expect("the test waits");
    });
    world.sync(&mk_state(f, &[ends_first], None));
    let mut client = world.dial(f);
    assert_eq!(client.read(&mut [0; 8]).expect("the end"), 0);
    client.write_all(&vec![7; 1_000_000]).expect("says");
    drop(client);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(1_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_passed_on_as_a_reset() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let resets = mk_custom_server(|client| {
        let socket = socket2::Socket::from(client);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    });
    world.sync(&mk_state(f, &[resets], None));
    assert_eq!(world.ask(f), "ConnectionReset");
    // And the other way.
    let (heard, told) = std::sync::mpsc::channel();
    let endpoint = mk_custom_server(move |mut client| {
        client.write_all(b"!").expect("says");
        heard.send(client.read(&mut [0; 8]).map_err(|error| error.kind())).expect("the test waits");
    });
    world.sync(&mk_state(f, &[endpoint], None));
    let mut client = world.dial(f);
    client.read_exact(&mut [0]).expect("is connected");
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Err(std::io::ErrorKind::ConnectionReset)));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_list_touch_no_connection_and_close_no_socket() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let echo = mk_custom_server(|mut client| {
        let mut byte = [0];
        while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
    });
    world.sync(&mk_state(f, &[echo], None));
    let (socket, mut client) = (world.redirect(f), world.dial(f));
    let mut talk = |byte: u8| {
        client.write_all(&[byte]).expect("says");
        let mut answer = [0];
        client.read_exact(&mut answer).expect("hears");
        assert_eq!(answer, [byte]);
    };
    talk(1);
    world.sync(&mk_state(f, &[mk_server("two"), echo], None));
    talk(2);
    world.sync(&mk_state(f, &[mk_server("three")], None));
    talk(3);
    assert_eq!((world.redirect(f), world.ask(f)), (socket, "three".to_owned()));
    world.sync(&mk_state(f, &[], None));
    talk(4);
    assert_eq!(world.redirect(f), None);
    world.sync(&State::default());
    talk(5);
    assert!(TcpStream::connect(socket.expect("there was one")).is_err(), "the socket is closed");
    assert_eq!(world.kernel.inside().state.elements.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_affinity_keeps_its_endpoint_while_that_lives() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let (one, two) = (mk_server("one"), mk_server("two"));
    world.sync(&mk_state(f, &[one, two], Some(3600)));
    let first = world.ask(f);
    for _ in 0..5 {
        assert_eq!(world.ask(f), first);
    }
    let (gone, left) = if first == "one" { (one, two) } else { (two, one) };
    world.sync(&mk_state(f, &[left], Some(3600)));
    let second = world.ask(f);
    assert_ne!(second, first);
    world.sync(&mk_state(f, &[left, gone], Some(3600)));
    for _ in 0..5 {
        assert_eq!(world.ask(f), second);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_listens_where_the_kernel_leads_already() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let state = mk_state(f, &[mk_server("one")], None);
    world.sync(&state);
    let (kernel, before) = (world.kernel.clone(), world.redirect(f));
    let connection = world.dial(f);
    drop(world);
    drop(connection);
    let mut successor = World::over(kernel, 100_000);
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
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    world.sync(&mk_state(f, &[mk_server("one")], None));
    assert_eq!(world.redirect(f).map(|address| address.ip()), Some([127, 0, 0, 1].into()));
    *world.addresses.lock().expect("no panic") = vec![[127, 0, 0, 2].into()];
    world.dataplane.generation().expect("mends");
    assert_eq!(world.redirect(f).map(|address| address.ip()), Some([127, 0, 0, 2].into()));
    assert_eq!(world.ask(f), "one");
    world.addresses.lock().expect("no panic").clear();
    world.dataplane.generation().expect("mends");
    let refused = world.kernel.inside().state.elements.get(&Key::NoEndpoints(f)).copied();
    assert_eq!(refused, Some(Value::Verdict(Verdict::Reject)), "better refused than into the void");
    assert_eq!(world.faults.recv().await.map(|fault| fault.why), Some(Why::NoAddress));
}

#[tokio::test(flavor = "multi_thread")]
async fn sctp_is_refused_and_told() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Sctp);
    world.sync(&mk_state(f, &[mk_dead()], None));
    let refused = world.kernel.inside().state.elements.get(&Key::NoEndpoints(f)).copied();
    assert_eq!(refused, Some(Value::Verdict(Verdict::Reject)));
    assert_eq!(world.faults.recv().await, Some(Fault { frontend: f, why: Why::Protocol }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_flushed_is_put_anew_with_the_same_sockets() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Tcp);
    let state = mk_state(f, &[mk_server("one")], None);
    world.sync(&state);
    let socket = world.redirect(f);
    world.kernel.flush();
    assert_eq!(world.redirect(f), None);
    world.sync(&state);
    assert_eq!((world.redirect(f), world.ask(f)), (socket, "one".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_kernel_is_followed_by_everything_anew() {
    let mut world = World::new();
    let (f, g) = (mk_frontend(1, Protocol::Tcp), mk_frontend(2, Protocol::Tcp));
    let (one, mut both) = (mk_state(f, &[mk_server("one")], None), State::default());
    world.sync(&one);
    for state in [&one, &mk_state(g, &[mk_server("two")], None)] {
        state.elements.iter().for_each(|(key, value)| both.insert(*key, *value));
    }
    world.kernel.inside().failures.push_back(DataplaneError::Changed { operation: "test".into() });
    let plan = diff(&one, &both);
    world.dataplane.apply(&plan.widen).expect_err("the kernel refuses");
    assert_eq!(world.dataplane.read().expect("reads").state, State::default());
    world.sync(&both);
    assert_eq!((world.ask(f), world.ask(g)), ("one".to_owned(), "two".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_files_clients_wait_and_are_served_when_others_end() {
    // Two for the listener and two for one connection, beside the reserve.
    let mut world = World::over(FakeKernel::default(), 256 + 4);
    let f = mk_frontend(1, Protocol::Tcp);
    let echo = mk_custom_server(|mut client| {
        let mut byte = [0];
        while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
    });
    world.sync(&mk_state(f, &[echo], None));
    let (mut first, mut second) = (world.dial(f), world.dial(f));
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

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_ports_open_and_close_and_leave_nothing() {
    const SERVICES: u16 = 2_000;
    let mut world = World::new();
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
    world.sync(&all);
    assert_eq!(tasks() - before, usize::from(SERVICES) * 2, "one task for each socket");
    assert_eq!(world.ask(frontend(SERVICES - 1, Protocol::Tcp)), "one");
    world.sync(&State::default());
    while tasks() > before {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.dataplane.own, BTreeSet::new());
    let counters = world.dataplane.pools.counters();
    assert_eq!((counters.open_connections.get(), counters.open_flows.get()), (0, 0));
}

/// A UDP server that says its name and the port it sees.
fn mk_udp_server(name: &'static str) -> Backend {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(format!("{name} {}", from.port()).as_bytes(), from));
        }
    });
    Backend { address: address.ip(), port: address.port() }
}

fn mk_client() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

fn ask_udp(client: &UdpSocket, to: SocketAddr) -> String {
    client.send_to(b"?", to).expect("sends");
    let mut buffer = [0; 64];
    let (length, from) = client.recv_from(&mut buffer).expect("is answered");
    assert_eq!(from, to, "the answer comes from where the question went");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_udp_client_has_a_flow_with_a_socket_of_its_own_until_its_endpoint_leaves() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Udp);
    let (one, two) = (mk_udp_server("one"), mk_udp_server("two"));
    world.sync(&mk_state(f, &[one, two], None));
    let to = world.redirect(f).expect("redirected");
    let (first, second) = (mk_client(), mk_client());
    let (of_first, of_second) = (ask_udp(&first, to), ask_udp(&second, to));
    assert_ne!(of_first, of_second, "another endpoint and another socket");
    for _ in 0..5 {
        assert_eq!((ask_udp(&first, to), ask_udp(&second, to)), (of_first.clone(), of_second.clone()));
    }
    let (stays, goes) = if of_first.starts_with("one") { (one, two) } else { (two, one) };
    world.sync(&mk_state(f, &[stays], None));
    assert_eq!(ask_udp(&second, to), of_second, "an endpoint that only takes no new flows keeps its own");
    assert_eq!(world.dataplane.sockets().keep_flows(f, &BTreeSet::from([stays])), 1);
    assert_eq!(ask_udp(&first, to), of_first, "flows to endpoints that stay are not touched");
    let name = of_first.split(' ').next().expect("a name");
    assert!(ask_udp(&second, to).starts_with(name), "{goes} is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_an_endpoint_refuses_goes_to_another() {
    let mut world = World::new();
    let f = mk_frontend(1, Protocol::Udp);
    // The port is taken, but only for datagrams of one other peer.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    socket.connect((Ipv4Addr::LOCALHOST, 9)).expect("a peer");
    let address = socket.local_addr().expect("an address");
    let dead = Backend { address: address.ip(), port: address.port() };
    world.sync(&mk_state(f, &[dead, mk_udp_server("alive")], None));
    for _ in 0..10 {
        let answer = ask_udp(&mk_client(), world.redirect(f).expect("redirected"));
        assert!(answer.starts_with("alive"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_files_the_idlest_flows_make_room() {
    // Two for the socket, four for flows.
    let mut world = World::over(FakeKernel::default(), 256 + 6);
    let f = mk_frontend(1, Protocol::Udp);
    world.sync(&mk_state(f, &[mk_udp_server("one")], None));
    let to = world.redirect(f).expect("redirected");
    let clients: Vec<_> = (0..40).map(|_| mk_client()).collect();
    for client in &clients {
        ask_udp(client, to);
    }
    let last = ask_udp(&clients[39], to);
    assert_eq!(ask_udp(&clients[39], to), last, "the one that is used keeps its flow");
}
