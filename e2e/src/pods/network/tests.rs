//! Pods' links on a real kernel: a thread of the test stands for the node, in network and mount namespaces of its own.
//! Invariant: nothing is left on the machine, also after a failure: the namespaces go with the thread.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::*;

/// Runs `test` as a node: IP forwarding on, /run private. False: this user may not make namespaces.
fn on_a_node(test: impl FnOnce() + Send + 'static) -> bool {
    let node = thread::spawn(move || {
        match unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
            Err(Errno::EPERM) => return false,
            other => other.expect("namespaces"),
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("a /run of its own");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        test();
        true
    });
    node.join().expect("the test's thread")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn in_pod<T: Send + 'static>(
    link: &Link,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let file = File::open(link.path()).expect("the pod's namespace");
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("in the pod");
        work()
    })
}

/// The peer address that `server` sees when `client` connects to its address.
fn seen(server: (&Link, IpAddr), client: &Link) -> IpAddr {
    let address = SocketAddr::new(server.1, 0);
    let (sender, receiver) = std::sync::mpsc::channel();
    let serving = in_pod(server.0, move || {
        let listener = TcpListener::bind(address).expect("listen");
        sender.send(listener.local_addr().expect("its address")).expect("the client waits");
        let (mut stream, peer) = listener.accept().expect("a connection");
        stream.write_all(b"hello").expect("written");
        peer.ip()
    });
    let to = receiver.recv().expect("the server listens");
    let asking = in_pod(client, move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("connected");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    });
    assert_eq!(asking.join().expect("client"), "hello");
    serving.join().expect("server")
}

#[test]
fn pods_of_one_node_see_each_other_s_addresses_and_leave_nothing_behind() {
    let families: [[IpAddr; 3]; 2] = [
        [[10, 99, 0, 1].into(), [10, 99, 0, 2].into(), [10, 99, 0, 3].into()],
        ["fd00:99::1", "fd00:99::2", "fd00:99::3"].map(|text| text.parse().expect("an address")),
    ];
    let ran = on_a_node(move || {
        for [gateway, first, second] in families {
            let (a, b) = (Link::of("ns", "a", "aaaaaaaa-1111"), Link::of("ns", "b", "bbbbbbbb-2222"));
            block_on(a.connect(&[(first, gateway)])).expect("a is connected");
            block_on(b.connect(&[(second, gateway)])).expect("b is connected");
            assert_eq!(seen((&a, first), &b), second);
            block_on(a.connect(&[(first, gateway)])).expect("once more, over what was left");
            for link in [&a, &b] {
                block_on(link.disconnect()).expect("disconnected");
                block_on(link.disconnect()).expect("the absent is fine");
                assert!(!link.path().exists() && !block_on(link.device_exists()));
            }
        }
    });
    if !ran {
        writeln!(std::io::stderr(), "skipped: this user may not make network namespaces").expect("stderr");
    }
}

#[test]
fn names_fit_the_kernel_s_limits_and_read_back() {
    let link = Link::of("kube-system", "coredns-7d8-x", "01234567-89ab-cdef-0123-456789abcdef");
    assert_eq!(link.device, "veth0123456789a");
    assert_eq!(link.device.len(), 15, "IFNAMSIZ is 16 with its zero");
    assert_eq!(Link::parse(&link.to_line()), Some(link));
}
