//! Packets that connection tracking takes for invalid, with real ones: a TCP segment without any flag, or out of nowhere.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use portico_nodeproxy::dataplane::{
    Dataplane,
    nftables::{Config, Nftables, invalid},
};
use portico_proxy_core::packets::{FAR_POD, NODE, OTHER_POD, OUTSIDE, POD, invalid::INVALID_PACKETS};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    netns::Namespace,
    table::{Table, mk_config, program},
};

/// How long a packet may take. A dropped packet never comes.
const PATIENCE: Duration = Duration::from_millis(400);
/// Bytes of a TCP header.
const HEADER: usize = 20;

fn open(node: &Namespace) -> Nftables {
    node.run(|| Nftables::open(mk_config())).expect("opens")
}

fn raw(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, Type::RAW, Some(Protocol::TCP))
}

/// A segment that belongs to no connection that the node has seen, from the port by which it is known again.
fn segment(mark: u16, flags: u8) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[13] = flags;
    bytes[..2].copy_from_slice(&mark.to_be_bytes());
    bytes[2..4].copy_from_slice(&9u16.to_be_bytes());
    bytes[12] = 5 << 4;
    bytes
}

/// Whether a segment without any flag from one namespace to an address of another arrives there.
pub(crate) fn arrives(from: &Namespace, to: &Namespace, addresses: (IpAddr, IpAddr), mark: u16) -> bool {
    arrives_with(0, from, to, addresses, mark)
}

fn arrives_with(flags: u8, from: &Namespace, to: &Namespace, addresses: (IpAddr, IpAddr), mark: u16) -> bool {
    let (source, destination) = addresses;
    let v6 = destination.is_ipv6();
    let listener = to.run(move || raw(v6)).expect("a raw socket");
    listener.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    from.run(move || {
        let socket = raw(v6)?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        socket.send_to(&segment(mark, flags), &SockAddr::from(SocketAddr::new(destination, 0)))
    })
    .expect("sends");
    hears(&listener, v6, mark)
}

fn hears(mut listener: &Socket, v6: bool, mark: u16) -> bool {
    let began = Instant::now();
    let mut buffer = [0u8; 128];
    while began.elapsed() < PATIENCE {
        let Ok(length) = listener.read(&mut buffer) else { return false };
        // A raw socket of IPv4 has the IP header before the segment, one of IPv6 has not.
        let header = if v6 { 0 } else { usize::from(buffer[0] & 0xf) * 4 };
        if buffer[..length].get(header..header + 2) == Some(&mark.to_be_bytes()) {
            return true;
        }
    }
    false
}

pub(crate) fn owner(table: &Table, address: Ipv4Addr) -> &Namespace {
    match address {
        NODE => &table.node,
        OUTSIDE => &table.client,
        POD => &table.pods[0],
        OTHER_POD => &table.pods[1],
        FAR_POD => &table.pods[2],
        other => unreachable!("nobody has {other}"),
    }
}

#[test]
fn invalid_packets_of_pods_do_not_pass_and_others_do() {
    let Some(table) = Table::new() else { return };
    let (_tables, _model) = program(&table.node, mk_config());
    for (number, row) in (20_000..).zip(INVALID_PACKETS) {
        for v6 in [false, true] {
            let (from, to) = (table.namespace(row.from), owner(&table, row.to));
            let arrived = arrives(from, to, row.addresses(v6), number);
            assert_eq!(arrived, row.arrives, "{}, IPv6 {v6}", row.name);
        }
    }
}

/// Of a connection whose other direction goes another way, the node sees an answer to a SYN that it never saw.
#[test]
fn one_direction_of_a_connection_passes_and_what_is_dropped_is_counted() {
    const SYN_ACK: u8 = 0x12;
    const RST: u8 = 0x04;
    let Some(table) = Table::new() else { return };
    let (_tables, _model) = program(&table.node, mk_config());
    let addresses = (IpAddr::from(POD), IpAddr::from(OUTSIDE));
    let (from, to) = (&table.pods[0], &table.client);
    let dropped = || table.node.run(|| invalid::dropped().expect("counters"));
    for (what, flags, port) in
        [("a server's SYN-ACK", SYN_ACK, 22_000), ("a RST", RST, 22_001), ("a client's segment", 0, 40_000)]
    {
        assert!(arrives_with(flags, from, to, addresses, port), "{what}");
    }
    assert_eq!(dropped(), 0);
    assert!(!arrives_with(0, from, to, addresses, 22_002), "a server's segment of no connection");
    assert_eq!(dropped(), 1);
    let observed = open(&table.node).read().expect("reads");
    assert_eq!(observed.rebuild, None, "a count is no difference");
}

#[test]
fn a_kernel_that_takes_them_for_valid_needs_no_rule() {
    let Some(table) = Table::new() else { return };
    let (_tables, _model) = program(&table.node, Config { drop_invalid: false, ..mk_config() });
    for (number, row) in (21_000..).zip(INVALID_PACKETS) {
        let (from, to) = (table.namespace(row.from), owner(&table, row.to));
        assert!(arrives(from, to, row.addresses(false), number), "{}", row.name);
    }
}
