//! The userspace dataplane with real packets: the packet table, a storm of connections, and NodePorts on localhost beside the
//! nftables dataplane.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use portico_nodeproxy::{
    conntrack::{self, Flows as _},
    dataplane::{
        Dataplane,
        nftables::{Config, Nftables},
        userspace::{
            Userspace,
            counters::Counters,
            faults::{self, Fault},
            files::Files,
            flows::ProxiedFlows,
            kernel_addresses,
            localhost::Localhost,
            pool::Choice,
            proxy::{Options, Proxy},
        },
    },
};
use portico_proxy_core::{
    flows::StaleFlows,
    input::Config as ModelConfig,
    model::Model,
    packets::{self, CASES, Case},
    plan::{State, diff},
    table::{Balance, Frontend, Key, Protocol, Recall, Value, Verdict},
};
use tokio::{runtime::Runtime, sync::mpsc};

use crate::{
    netns::{Namespace, note, skip},
    table::{Table, expected, is_sticky},
    test_network::{
        Addresses, Got, PLAIN, STICKY, TestNetwork, addresses, alias_of, ask, dial, dial_here, endpoints,
        sticky,
    },
};

/// The mark of the proxy's own packets, which is also the mask of its bit.
const MARK: u32 = 0x4000;

/// Rows of the packet table in which an endpoint should see the client. It sees the node, which opens the connection; all else
/// of these rows holds. docs/userspace.md has the same list in words.
const HIDES_THE_CLIENT: &[&str] = &[
    "UDP to a ClusterIP",
    "a dual-stack Service over IPv4",
    "a dual-stack Service over IPv6",
    "a pod of another node reaches a ClusterIP as itself",
    "a pod reaches a ClusterIP and is seen as itself",
    "a second port of the same Service",
    "an IPv6 Service",
    "an endpoint that reaches itself is masqueraded",
    "an endpoint that reaches itself over IPv6",
    "externalTrafficPolicy Local and an endpoint that reaches itself",
    "externalTrafficPolicy Local falls back to an endpoint here that terminates",
    "externalTrafficPolicy Local keeps the client and the node",
    "externalTrafficPolicy Local leaves the ClusterIP alone",
    "externalTrafficPolicy Local serves another node's pod from here",
    "externalTrafficPolicy Local short-circuits pods",
    "externalTrafficPolicy Local short-circuits pods over IPv6",
    "externalTrafficPolicy Local uses no terminating endpoint while another here is ready",
    "externalTrafficPolicy Local without endpoint here still serves pods",
    "externalTrafficPolicy Local, VIP from another node's pod",
    "externalTrafficPolicy Local, VIP from outside",
    "hints keep traffic in the zone",
    "hints keep traffic on the node",
    "hints that an endpoint lacks do not count",
    "hints that do not name this zone do not count",
    "internalTrafficPolicy Local falls back to an endpoint here that terminates",
    "internalTrafficPolicy Local stays on the node",
    "loadBalancerSourceRanges do not concern the ClusterIP",
    "only a terminating endpoint that still serves",
    "publishNotReadyAddresses: ready, though it does not serve",
    "session affinity reaches the same endpoints",
    "that fallback is not for pods, which use those that are ready",
];

/// A dataplane with the proxy's tasks, on the threads of a namespace.
pub(crate) struct Node<D> {
    dataplane: Option<D>,
    runtime: Option<Runtime>,
    counters: Counters,
    _faults: mpsc::Receiver<Fault>,
}

impl<D: Dataplane + Send + 'static> Node<D> {
    fn new(
        namespace: &Namespace,
        mark: Option<u32>,
        open: impl FnOnce(Arc<Proxy>) -> D + Send + 'static,
    ) -> Self {
        namespace.run(move || {
            // Its threads live in the namespace of the one that starts them.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let (faults, reported) = mpsc::channel(faults::BACKLOG);
            let options = Options { choice: Choice::Random, udp_timeout: Duration::from_mins(2), mark };
            let proxy = Arc::new(Proxy {
                runtime: runtime.handle().clone(),
                options,
                files: Files::new(1024),
                clients: Arc::default(),
                counters: Counters::default(),
                faults,
            });
            let counters = proxy.counters.clone();
            Self { dataplane: Some(open(proxy)), runtime: Some(runtime), counters, _faults: reported }
        })
    }

    /// Runs in the namespace, where sockets are to be opened.
    fn with<T: Send + 'static>(
        &mut self,
        namespace: &Namespace,
        work: impl FnOnce(&mut D) -> T + Send + 'static,
    ) -> T {
        let mut dataplane = self.dataplane.take().expect("here between two calls");
        let (dataplane, result) = namespace.run(move || {
            let result = work(&mut dataplane);
            (dataplane, result)
        });
        self.dataplane = Some(dataplane);
        result
    }

    /// Brings everything to a state, as the sync loop does.
    pub(crate) fn sync(&mut self, namespace: &Namespace, desired: &State) {
        let desired = desired.clone();
        self.with(namespace, move |dataplane| {
            let observed = dataplane.read().expect("reads").state;
            let plan = diff(&observed, &desired);
            dataplane.apply(&plan.additive).expect("commits");
            dataplane.apply(&plan.destructive).expect("commits");
            let observed = dataplane.read().expect("reads");
            assert_eq!((observed.rebuild, &observed.state), (None, &desired));
        });
    }
}

impl<D> Drop for Node<D> {
    fn drop(&mut self) {
        self.dataplane = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn mk_userspace(namespace: &Namespace) -> Node<Userspace> {
    Node::new(namespace, Some(MARK), |proxy| {
        let config = Config { masquerade_mark: MARK, proxied: true, ..Config::default() };
        let kernel = Nftables::open(config).expect("opens");
        Userspace::new(Box::new(kernel), proxy, Box::new(kernel_addresses))
    })
}

/// Result of a case if the endpoint sees the node.
pub(crate) fn hidden(case: &Case) -> BTreeSet<String> {
    expected(case).into_iter().map(|answer| answer.replace("Preserved", "Masqueraded")).collect()
}

#[test]
fn real_packets_get_what_the_packet_table_says_but_endpoints_see_the_node() {
    let Some(table) = Table::new() else { return };
    let mut node = mk_userspace(&table.node);
    let mut model = Model::new(ModelConfig::default());
    for event in packets::cluster_events() {
        model.apply(event);
    }
    node.sync(&table.node, model.shadow().desired());
    skip("rows over SCTP, which the userspace proxy does not carry");
    let (mut hides, mut wrong) = (BTreeSet::new(), BTreeMap::new());
    for case in CASES.iter().filter(|case| case.to.1 != Protocol::Sctp) {
        let got = table.answers(case);
        let is = |expected: BTreeSet<String>| {
            // One client of a frontend with affinity sees one of its pods, again and again.
            let sticky = is_sticky(model.shadow().desired(), case);
            if sticky { got.len() == 1 && got.is_subset(&expected) } else { got == expected }
        };
        if is(expected(case)) {
            continue;
        }
        if is(hidden(case)) {
            hides.insert(case.name);
        } else {
            wrong.insert(case.name, (got.clone(), hidden(case)));
        }
    }
    assert!(wrong.is_empty(), "(case, (got, expected)): {wrong:#?}");
    assert_eq!(hides, HIDES_THE_CLIENT.iter().copied().collect(), "the list in the test and in the docs");
    let listing =
        table.node.sh("nft list ruleset > /dev/null; nft -j list ruleset > /dev/null; nft list ruleset");
    assert!(listing.contains("chain lb-1 "), "{listing}");
}

/// A frontend over these pods.
fn mk_state(a: Addresses, f: Frontend, pods: &[usize], affinity: Option<u32>) -> State {
    let mut state = a.base();
    let backends: Vec<_> = pods.iter().map(|number| a.pod(*number)).collect();
    let verdict = match affinity {
        None => endpoints(&mut state, f, PLAIN, &backends),
        Some(seconds) => sticky(&mut state, f, alias_of(f), Recall { seconds, ..STICKY }, &backends),
    };
    state.insert(Key::Service(f), verdict);
    state.insert(Key::ClusterIp(f.address), Value::Present);
    state
}

fn pod_of(got: Got) -> Option<usize> {
    match got {
        Got::Pod(number, _) => Some(number),
        Got::Refused | Got::Silence | Got::NoRoute => None,
    }
}

#[test]
fn scaling_up_and_down_loses_no_connection() {
    const CHANGES: usize = 300;
    let Some(network) = TestNetwork::new() else { return };
    let a = addresses(false);
    let f = a.frontend(1);
    let mut node = mk_userspace(&network.node);
    let states = [mk_state(a, f, &[0, 1], None), mk_state(a, f, &[1], None)];
    node.sync(&network.node, &states[0]);
    let (stop, dialled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (end, count) = (stop.clone(), dialled.clone());
    let client = network.client.run(move || {
        std::thread::spawn(move || {
            let mut lost = Vec::new();
            while !end.load(Ordering::Relaxed) {
                lost.extend(Some(dial_here(f)).filter(|got| pod_of(*got).is_none()));
                count.fetch_add(1, Ordering::Relaxed);
            }
            lost
        })
    });
    for change in 0..CHANGES {
        let plan = diff(&states[change % 2], &states[(change + 1) % 2]);
        node.with(&network.node, move |dataplane| dataplane.apply(&plan.additive)).expect("commits");
        let so_far = dialled.load(Ordering::Relaxed);
        while dialled.load(Ordering::Relaxed) < so_far + 2 && !client.is_finished() {
            std::thread::yield_now();
        }
        let plan = diff(&states[change % 2], &states[(change + 1) % 2]);
        node.with(&network.node, move |dataplane| dataplane.apply(&plan.destructive)).expect("commits");
    }
    stop.store(true, Ordering::Relaxed);
    let lost = client.join().expect("no panic");
    let (dialled, accepted) = (dialled.load(Ordering::Relaxed), node.counters.connections.get());
    note(&format!("{dialled} connections through the userspace proxy during {CHANGES} changes"));
    assert_eq!(lost, []);
    assert_eq!(usize::try_from(accepted).expect("fits"), dialled, "all of them through the proxy");
}

#[test]
fn a_client_keeps_its_pod_and_no_client_notices_a_dead_one() {
    for v6 in [false, true] {
        let Some(network) = TestNetwork::new() else { return };
        let a = addresses(v6);
        let f = a.frontend(1);
        let mut node = mk_userspace(&network.node);
        node.sync(&network.node, &mk_state(a, f, &[0, 1], Some(3600)));
        let first = dial(&network.client, f);
        for _ in 0..10 {
            assert_eq!(dial(&network.client, f), first);
        }
        // The pod's address answers nothing any more, and the API server does not know it yet.
        let dead = pod_of(first).expect("a pod");
        network.pods[dead].sh("ip link set eth0 down");
        for client in [&network.client, &network.node] {
            assert_eq!(pod_of(dial(client, f)), Some(1 - dead), "after some 250 ms, IPv6 {v6}");
        }
    }
}

#[test]
fn only_redirected_packets_reach_the_proxys_sockets_and_its_own_are_not_redirected() {
    let Some(network) = TestNetwork::new() else { return };
    let a = addresses(false);
    let f = a.frontend(1);
    let mut node = mk_userspace(&network.node);
    node.sync(&network.node, &mk_state(a, f, &[0], None));
    let socket = node.with(&network.node, move |dataplane| dataplane.sockets().of(f));
    let socket = socket.first().copied().expect("one socket");
    assert_eq!(socket.address, a.node);
    let direct = Frontend { address: socket.address, protocol: Protocol::Tcp, port: socket.port };
    for client in [&network.client, &network.pods[1], &network.node] {
        assert_eq!(dial(client, direct), Got::Silence);
        assert_eq!(pod_of(dial(client, f)), Some(0));
    }
    // A Service whose endpoint is its own address: without the mark, the proxy would dial itself without end.
    let mut looped = a.base();
    let backend = portico_proxy_core::table::Backend { address: f.address, port: f.port };
    let verdict = endpoints(&mut looped, f, PLAIN, &[backend]);
    looped.insert(Key::Service(f), verdict);
    looped.insert(Key::ClusterIp(f.address), Value::Present);
    node.sync(&network.node, &looped);
    let before = node.counters.connections.get();
    let ended = network.client.run(move || {
        let mut stream = TcpStream::connect(SocketAddr::new(f.address, f.port)).expect("the proxy accepts");
        stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
    });
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(node.counters.connections.get() - before, 1);
}

#[test]
fn a_udp_client_that_keeps_sending_finds_each_next_endpoint_also_after_there_was_none() {
    for v6 in [false, true] {
        let Some(network) = TestNetwork::new() else { return };
        let a = addresses(v6);
        let f = Frontend { protocol: Protocol::Udp, port: 53, ..a.frontend(1) };
        let mut node = mk_userspace(&network.node);
        let mut without = a.base();
        without.insert(Key::NoEndpoints(f), Value::Verdict(Verdict::Drop));
        without.insert(Key::ClusterIp(f.address), Value::Present);
        let client = Arc::new(network.client.run(move || {
            let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            UdpSocket::bind((any, 0)).expect("binds")
        }));
        let asks = |network: &TestNetwork| {
            let client = client.clone();
            network.client.run(move || pod_of(ask(&client, f)))
        };
        for pods in [&[0][..], &[1], &[], &[0]] {
            let desired = if pods.is_empty() { without.clone() } else { mk_state(a, f, pods, None) };
            node.sync(&network.node, &desired);
            let keep = pods.iter().map(|number| a.pod(*number)).collect();
            let stale = [StaleFlows { frontend: f, keep }];
            node.with(&network.node, move |dataplane| {
                let kernel = Box::new(conntrack::Kernel);
                ProxiedFlows::redirected(dataplane.sockets(), kernel).delete(&stale).expect("deletes")
            });
            assert_eq!(asks(&network), pods.first().copied(), "{pods:?}, IPv6 {v6}");
        }
    }
}

#[test]
fn node_ports_on_localhost_stand_beside_the_nftables_dataplane() {
    let Some(network) = TestNetwork::new() else { return };
    let mut node = Node::new(&network.node, None, |proxy| {
        Localhost::new(Box::new(Nftables::open(Config::default()).expect("opens")), proxy)
    });
    let mut state = State::default();
    for a in [addresses(false), addresses(true)] {
        a.base().elements.into_iter().for_each(|(key, value)| state.insert(key, value));
        let here: IpAddr = if a.v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        for (address, protocol) in
            [(a.node, Protocol::Tcp), (here, Protocol::Tcp), (a.node, Protocol::Udp), (here, Protocol::Udp)]
        {
            let f = Frontend { address, protocol, port: 30_080 };
            let masquerade = Balance { masquerade: true, ..PLAIN };
            let verdict = endpoints(&mut state, f, masquerade, &[a.pod(0), a.pod(1)]);
            state.insert(Key::Service(f), verdict);
        }
        // externalTrafficPolicy: Local without an endpoint here: the node itself still gets the others.
        let f = Frontend { address: here, protocol: Protocol::Tcp, port: 30_081 };
        let short = endpoints(&mut state, f, PLAIN, &[a.pod(1)]);
        state.insert(Key::Service(f), Value::Verdict(Verdict::External));
        state.insert(Key::Short(f), short);
        state.insert(Key::NoEndpoints(f), Value::Verdict(Verdict::Drop));
    }
    node.sync(&network.node, &state);
    for a in [addresses(false), addresses(true)] {
        let here: IpAddr = if a.v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let f = Frontend { address: here, protocol, port: 30_080 };
            let got: BTreeSet<_> = (0..24).filter_map(|_| pod_of(dial(&network.node, f))).collect();
            assert_eq!(got, BTreeSet::from([0, 1]), "{f}");
            assert!(pod_of(dial(&network.client, Frontend { address: a.node, ..f })).is_some());
        }
        let local = Frontend { address: here, protocol: Protocol::Tcp, port: 30_081 };
        assert_eq!(dial(&network.node, local), Got::Pod(1, a.node));
    }
    let routed = network.node.sh("cat /proc/sys/net/ipv4/conf/*/route_localnet | sort -u");
    assert_eq!(routed.trim(), "0");
    let listing = network.node.sh("nft list ruleset");
    assert!(!listing.contains(" 127.0.0.1") && !listing.contains(" ::1"), "{listing}");
    node.sync(&network.node, &State::default());
    let f = Frontend { address: Ipv4Addr::LOCALHOST.into(), protocol: Protocol::Tcp, port: 30_080 };
    assert_eq!(dial(&network.node, f), Got::Refused);
}
