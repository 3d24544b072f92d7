//! Localhost NodePorts on this machine's own loopback, above a fake of the kernel's tables.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU16, Ordering},
};

use portico_proxy_core::{
    plan::{State, diff},
    table::{Backend, Balance, List, Protocol, Value, Verdict},
};
use tokio::sync::mpsc;

use super::*;
use crate::{
    dataplane::userspace::{
        faults::{Fault, Why},
        pools::RETRY,
        tests::{PATIENCE, mk_proxy},
    },
    sync::fake::FakeKernel,
};

fn mk_localhost() -> (Localhost, FakeKernel, mpsc::Receiver<Fault>) {
    let (proxy, faults) = mk_proxy(100_000);
    let kernel = FakeKernel::default();
    (Localhost::new(Box::new(kernel.clone()), proxy), kernel, faults)
}

fn mk_server() -> Backend {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            drop(client.write_all(b"hello"));
        }
    });
    Backend { address: address.ip(), port: address.port() }
}

/// A NodePort of its own for each test, below the ports that the kernel hands out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 30_000 + u16::try_from(std::process::id() % 500).expect("small") * 4;
    first + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A NodePort on these addresses.
fn mk_state(addresses: &[IpAddr], port: u16, backend: Backend) -> State {
    let mut state = State::default();
    let balance = Balance { endpoints: 1, list: List::Cluster, masquerade: true };
    for address in addresses {
        let f = Frontend { address: *address, protocol: Protocol::Tcp, port };
        state.insert(Key::Service(f), Value::Verdict(Verdict::Balance(balance)));
        state.insert(Key::Endpoint(f, 0), Value::Backend(backend));
    }
    state
}

fn sync(localhost: &mut Localhost, desired: &State) {
    let observed = localhost.read().expect("reads").state;
    let plan = diff(&observed, desired);
    localhost.apply(&plan.additive).expect("commits");
    localhost.apply(&plan.destructive).expect("commits");
    assert_eq!(&localhost.read().expect("reads").state, desired);
}

fn ask(address: IpAddr, port: u16) -> Option<String> {
    let mut text = String::new();
    let mut stream = TcpStream::connect(SocketAddr::new(address, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Waits until a socket is closed, which its task does after its stop.
fn closes(address: IpAddr, port: u16) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(SocketAddr::new(address, port)).is_ok() {
        assert!(Instant::now() < deadline, "{address} port {port} stays open");
        std::thread::yield_now();
    }
}

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_follow_services_on_both_loopback_addresses_and_never_reach_the_kernel() {
    let (mut localhost, kernel, _faults) = mk_localhost();
    let (port, server) = (free_port(), mk_server());
    sync(&mut localhost, &mk_state(&[NODE, V4, V6], port, server));
    assert_eq!((ask(V4, port).as_deref(), ask(V6, port).as_deref()), (Some("hello"), Some("hello")));
    let in_kernel = kernel.inside().state.elements.clone();
    assert_eq!(in_kernel, mk_state(&[NODE], port, server).elements);
    sync(&mut localhost, &mk_state(&[NODE, V6], port, server));
    closes(V4, port);
    assert_eq!(ask(V6, port).as_deref(), Some("hello"));
    sync(&mut localhost, &mk_state(&[NODE], port, server));
    closes(V6, port);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_reported_once_and_served_when_it_is_free() {
    let (mut localhost, _kernel, mut faults) = mk_localhost();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    let port = taken.local_addr().expect("an address").port();
    sync(&mut localhost, &mk_state(&[V4], port, mk_server()));
    let f = Frontend { address: V4, protocol: Protocol::Tcp, port };
    assert_eq!(faults.try_recv(), Ok(Fault { frontend: f, why: Why::PortTaken }));
    let after = |times: u32| Instant::now() + RETRY * times;
    let due = localhost.pools.due(after(1));
    assert_eq!(due, BTreeSet::from([f]));
    localhost.serve(&due);
    assert!(faults.try_recv().is_err(), "said already");
    drop(taken);
    let due = localhost.pools.due(after(3));
    localhost.serve(&due);
    assert_eq!(ask(V4, port).as_deref(), Some("hello"));
    assert_eq!(localhost.pools.due(after(9)), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_kernel_closes_nothing_here() {
    let (mut localhost, kernel, _faults) = mk_localhost();
    let (port, server) = (free_port(), mk_server());
    let state = mk_state(&[NODE, V4], port, server);
    sync(&mut localhost, &state);
    let mut stream = TcpStream::connect(SocketAddr::new(V4, port)).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    kernel.flush();
    sync(&mut localhost, &state);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("still open");
    assert_eq!(text, "hello");
}
