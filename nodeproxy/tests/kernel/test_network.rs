//! A small network: a node with two pods behind it and a client outside, all in namespaces of their own.
//!
//! ```text
//!   client 192.0.2.10 ──── 192.0.2.1 node 169.254.1.1 ──┬── pod 0 10.244.0.2
//!          2001:db8::10     2001:db8::1   fe80::1       └── pod 1 10.244.0.3  (fd01::2, fd01::3)
//! ```
//!
//! Each pod answers TCP and UDP on port 8080 with its number and whom it sees as the client.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use portico_nodeproxy::dataplane::{
    Dataplane,
    nftables::{Config, LocalDetector, Nftables},
};
use portico_proxy_core::{
    plan::{State, diff},
    table::{
        AFFINITY_TAG, Alias, Backend, Balance, Frontend, Key, LOCAL_SLOTS, List, Pick, Protocol, Recall,
        Value, Verdict,
    },
};

use crate::netns::Namespace;

/// Port on which pods answer.
pub(crate) const POD_PORT: u16 = 8080;
/// Timeout of an answer, and so the cost of a dropped packet. Longer than the second after which a SYN is repeated: on one
/// machine the refusal of the first may come while `connect` still locks its socket. The kernel then ignores it.
const PATIENCE: Duration = Duration::from_millis(1400);

/// Result for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Got {
    /// A pod answered: which, and whom it sees.
    Pod(usize, IpAddr),
    /// Connection refused.
    Refused,
    Silence,
    /// An answer that there is no way, which is what a packet gets that nobody rewrote.
    NoRoute,
}

/// The namespaces and the dataplane on the node.
pub(crate) struct TestNetwork {
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    pub(crate) pods: [Namespace; 2],
    pub(crate) tables: Nftables,
}

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) client: IpAddr,
    pub(crate) node: IpAddr,
    pub(crate) pods: [IpAddr; 2],
    pub(crate) v6: bool,
}

pub(crate) fn addresses(v6: bool) -> Addresses {
    let parse = |v4: &str, six: &str| if v6 { six.parse() } else { v4.parse() }.expect("an address");
    Addresses {
        client: parse("192.0.2.10", "2001:db8::10"),
        node: parse("192.0.2.1", "2001:db8::1"),
        pods: [parse("10.244.0.2", "fd01::2"), parse("10.244.0.3", "fd01::3")],
        v6,
    }
}

impl Addresses {
    /// A `ClusterIP`.
    pub(crate) fn vip(&self, number: u8) -> IpAddr {
        if self.v6 {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)])
        } else {
            IpAddr::from([10, 96, 0, number])
        }
    }

    pub(crate) fn frontend(&self, number: u8) -> Frontend {
        Frontend { address: self.vip(number), protocol: Protocol::Tcp, port: 80 }
    }

    pub(crate) fn pod(&self, number: usize) -> Backend {
        Backend { address: self.pods[number], port: POD_PORT }
    }

    /// Elements of every node: its pods' range and the range of `ClusterIP`s.
    pub(crate) fn base(&self) -> State {
        let net = |v4: &str, six: &str| if self.v6 { six.parse() } else { v4.parse() }.expect("a network");
        [
            (Key::PodCidr(net("10.244.0.0/16", "fd01::/48")), Value::Present),
            (Key::NodePod(net("10.244.0.0/24", "fd01::/64")), Value::Present),
            (Key::ServiceCidr(net("10.96.0.0/16", "fd00::/108")), Value::Present),
        ]
        .into_iter()
        .collect()
    }
}

/// Adds a list of endpoints for a frontend, and says how to balance over it.
pub(crate) fn endpoints(state: &mut State, f: Frontend, balance: Balance, backends: &[Backend]) -> Value {
    for (slot, backend) in (balance.list.first_slot()..).zip(backends) {
        state.insert(Key::Endpoint(f, slot), Value::Backend(*backend));
    }
    let endpoints = u32::try_from(backends.len()).expect("few");
    Value::Verdict(Verdict::Balance(Balance { endpoints, ..balance }))
}

/// The same with session affinity, for a frontend of this Service port.
pub(crate) fn sticky(
    state: &mut State,
    f: Frontend,
    port: Alias,
    recall: Recall,
    backends: &[Backend],
) -> Value {
    let list = recall.list;
    state.insert(Key::AffinityPort(f), Value::Alias(port.address));
    let endpoints = u32::try_from(backends.len()).expect("few");
    let pick = Verdict::Pick(Pick { endpoints, list });
    state.insert(Key::AffinityPick(port, list), Value::Verdict(pick));
    for (slot, backend) in (list.first_slot()..).zip(backends) {
        let id = id_of(backend);
        state.insert(Key::AffinitySlot(port, slot), Value::Id(id));
        state.insert(Key::AffinityEndpoint(port, list, id), Value::Backend(*backend));
    }
    Value::Verdict(Verdict::Recall(recall))
}

/// The alias of the only frontend of a Service port.
pub(crate) fn alias_of(f: Frontend) -> Alias {
    let address = match f.address {
        IpAddr::V4(ip) => IpAddr::from([240, 0, 0, ip.octets()[3]]),
        IpAddr::V6(ip) => IpAddr::from([0x100, 0, 0, 0, 0, 0, 0, u16::from(ip.octets()[15])]),
    };
    Alias { address, protocol: f.protocol }
}

/// An affinity id that follows from the backend.
pub(crate) fn id_of(backend: &Backend) -> u32 {
    let last = match backend.address {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    AFFINITY_TAG | u32::from(last)
}

/// A balance over the cluster's list, without masquerade or affinity.
pub(crate) const PLAIN: Balance = Balance { endpoints: 1, list: List::Cluster, masquerade: false };
/// The same with session affinity.
pub(crate) const STICKY: Recall = Recall { seconds: 3600, pool: 7, list: List::Cluster, masquerade: false };
/// The same over the node's list.
pub(crate) const LOCAL: Balance = Balance { list: List::Local, ..PLAIN };
const _: () = assert!(LOCAL_SLOTS > 0, "lists do not share slots");

impl TestNetwork {
    /// Builds the network; `None` where namespaces are not permitted.
    pub(crate) fn new() -> Option<Self> {
        let (client, node) = (Namespace::new()?, Namespace::new()?);
        let pods = [Namespace::new()?, Namespace::new()?];
        let a = [addresses(false), addresses(true)];
        forwards(&node);
        connect_client(&node, &client, a.map(|a| (a.node, a.client)));
        for (number, pod) in pods.iter().enumerate() {
            let wire = Wire { name: &format!("p{number}"), bridge: None };
            connect_pod(&node, pod, number, wire, &a.map(|a| a.pods[number]));
        }
        let config = Config { local_detector: LocalDetector::addresses(), ..Config::default() };
        let tables = node.run(move || Nftables::open(config)).expect("opens");
        Some(Self { client, node, pods, tables })
    }

    /// Brings the node's tables to a state.
    pub(crate) fn sync(&mut self, desired: &State) {
        let observed = self.tables.read().expect("reads").state;
        let plan = diff(&observed, desired);
        self.tables.apply(&plan.additive).expect("commits");
        self.tables.apply(&plan.destructive).expect("commits");
    }
}

/// Lets a node forward, with a way out that leads nowhere, so that packets that nobody rewrites get as far as the forward and
/// output hooks.
pub(crate) fn forwards(node: &Namespace) {
    node.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    node.sh("ip addr add 169.254.1.1/32 scope host dev lo");
    node.sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
    for (ip, gateway, onlink) in [("ip", "203.0.113.254", "onlink"), ("ip -6", "fe80::99", "")] {
        node.sh(&format!("{ip} neigh add {gateway} lladdr 02:00:00:00:00:01 dev up0"));
        node.sh(&format!("{ip} route add default via {gateway} dev up0 {onlink}"));
    }
}

/// Puts a client on the node's network; each pair is the node's and the client's address there.
pub(crate) fn connect_client<const N: usize>(
    node: &Namespace,
    client: &Namespace,
    pairs: [(IpAddr, IpAddr); N],
) {
    node.sh(&format!("ip link add c0 type veth peer name eth0 netns {}; ip link set c0 up", client.id()));
    client.sh("ip link set eth0 up");
    for (gateway, address) in pairs {
        let (prefix, ip, nodad) = if address.is_ipv6() { (64, "ip -6", "nodad") } else { (24, "ip", "") };
        node.sh(&format!("ip addr add {gateway}/{prefix} dev c0 {nodad}"));
        client.sh(&format!("ip addr add {address}/{prefix} dev eth0 {nodad}"));
        client.sh(&format!("{ip} route add default via {gateway}"));
    }
}

/// The interface of the node that leads to a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire<'a> {
    pub(crate) name: &'a str,
    /// The bridge that it is a port of, if it is one; the bridge is there, and the pods' gateway.
    pub(crate) bridge: Option<&'a str>,
}

/// Makes a bridge that is the gateway of the pods behind it.
pub(crate) fn add_bridge(node: &Namespace, name: &str) {
    // With an address of its own it does not take on those of its ports.
    node.sh(&format!("ip link add {name} address 02:00:00:00:00:b0 type bridge mcast_snooping 0"));
    node.sh(&format!("ip link set {name} up; ip addr add fe80::1/64 dev {name} nodad"));
}

/// Puts a pod behind the node and lets it serve on its addresses.
pub(crate) fn connect_pod(
    node: &Namespace,
    pod: &Namespace,
    number: usize,
    wire: Wire<'_>,
    addresses: &[IpAddr],
) {
    let Wire { name, bridge } = wire;
    node.sh(&format!("ip link add {name} type veth peer name eth0 netns {}", pod.id()));
    match bridge {
        // Hairpin, as network plugins set it: with br_netfilter the bridge itself sends a rewritten packet on, maybe back.
        Some(bridge) => node.sh(&format!(
            "ip link set {name} master {bridge} up; ip link set {name} type bridge_slave hairpin on"
        )),
        None => node.sh(&format!("ip link set {name} up; ip addr add fe80::1/64 dev {name} nodad")),
    };
    let way = bridge.unwrap_or(name);
    // A node that routes between ports of one bridge redirects pods to the short cut.
    pod.sh("for i in 4 6; do echo 0 > /proc/sys/net/ipv$i/conf/all/accept_redirects; done");
    pod.sh("for i in 4 6; do echo 0 > /proc/sys/net/ipv$i/conf/eth0/accept_redirects; done");
    pod.sh("ip link set eth0 up; ip route add 169.254.1.1 dev eth0; ip -6 route add default via fe80::1 dev eth0");
    for address in addresses {
        let (prefix, ip, nodad) = if address.is_ipv6() { (128, "ip -6", "nodad") } else { (32, "ip", "") };
        pod.sh(&format!("ip addr add {address}/{prefix} dev eth0 {nodad}"));
        node.sh(&format!("{ip} route add {address} dev {way}"));
        let at = SocketAddr::new(*address, POD_PORT);
        pod.run(move || serve(number, at));
    }
    pod.sh("ip route add default via 169.254.1.1");
}

/// Answers on a pod's address, for as long as the test runs.
pub(crate) fn serve(number: usize, at: SocketAddr) {
    let listener = TcpListener::bind(at).expect("binds");
    let datagrams = UdpSocket::bind(at).expect("binds");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A client that went away meanwhile is no failure of the server.
            drop(answer(number, connection));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = datagrams.recv_from(&mut buffer) {
            drop(datagrams.send_to(format!("{number} {}", from.ip()).as_bytes(), from));
        }
    });
}

fn answer(number: usize, mut connection: TcpStream) -> std::io::Result<()> {
    let peer = connection.peer_addr()?.ip();
    connection.write_all(format!("{number} {peer}").as_bytes())
}

fn parse(text: &str) -> Got {
    let (number, seen) = text.split_once(' ').expect("a number and an address");
    Got::Pod(number.parse().expect("a number"), seen.parse().expect("an address"))
}

fn fail(error: &std::io::Error) -> Got {
    match error.kind() {
        // The node's own datagrams are refused on the spot, by the call that sends them.
        ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Got::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Got::Silence,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Got::NoRoute,
        kind => unreachable!("a client sees only the above, and not {kind:?}: {error}"),
    }
}

/// Dials a frontend once, from the namespace of the calling thread.
pub(crate) fn dial_here(f: Frontend) -> Got {
    if f.protocol == Protocol::Udp {
        let any: IpAddr = if f.address.is_ipv6() { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
        return ask(&UdpSocket::bind((any, 0)).expect("binds"), f);
    }
    let text =
        TcpStream::connect_timeout(&SocketAddr::new(f.address, f.port), PATIENCE).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
    text.map_or_else(|error| fail(&error), |text| parse(&text))
}

/// Sends one datagram from a socket that may have a flow already, and hears the answer.
pub(crate) fn ask(socket: &UdpSocket, f: Frontend) -> Got {
    let mut buffer = [0; 64];
    let answer = socket.set_read_timeout(Some(PATIENCE)).and_then(|()| {
        socket.connect((f.address, f.port))?;
        socket.send(b"?")?;
        socket.recv(&mut buffer)
    });
    match answer {
        Ok(length) => parse(std::str::from_utf8(&buffer[..length]).expect("text")),
        Err(error) => fail(&error),
    }
}

/// Dials a frontend once from a namespace.
pub(crate) fn dial(from: &Namespace, f: Frontend) -> Got {
    from.run(move || dial_here(f))
}
