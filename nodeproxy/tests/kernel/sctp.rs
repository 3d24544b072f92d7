//! SCTP rows of the packet table. Many kernels have no SCTP sockets, and the test needs none. It sends a raw INIT, which opens an
//! association, and reads raw packets at the endpoints. Connection tracking and rewriting, with their checksums, are the
//! kernel's own. The test does not show that an association then works.

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use portico_netlink::{conntrack::Conntrack, nftables::Family as KernelFamily};
use portico_proxy_core::{
    oracle::Source,
    packets::{CASES, Case, Expect, POD_PORT},
    table::Protocol,
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::table::{PODS, Table, mk_config, program};

/// Number of the protocol.
const SCTP: i32 = 132;
/// How often a row is tried: each of two endpoints is missed once in 2^24 runs.
const TRIES: u16 = 24;
/// Source port of the first try.
const FIRST_PORT: u16 = 40_000;
/// How long to listen after the last packet.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of an IPv4 header without options.
const IP_HEADER: usize = 20;

/// CRC-32C, by which SCTP is checked (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// An INIT (RFC 9260, section 3.3.2).
fn init(from: u16, to: u16) -> Vec<u8> {
    let common = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8]].concat();
    let chunk =
        [&[1, 0, 0, 20][..], &7u32.to_be_bytes(), &65_536u32.to_be_bytes(), &[0, 1, 0, 1], &[0, 0, 0, 1]];
    let mut packet = [common, chunk.concat()].concat();
    let sum = checksum(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn raw() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(SCTP.into()))
}

fn send(source: IpAddr, case: &Case) -> impl FnOnce() -> io::Result<()> + Send + 'static {
    let to = case.packet().to;
    move || {
        let socket = raw()?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        for port in FIRST_PORT..FIRST_PORT + TRIES {
            socket.send_to(&init(port, to.port), &SockAddr::from(SocketAddr::new(to.address, 0)))?;
        }
        Ok(())
    }
}

/// The source that a pod's socket saw. A rewritten packet has the pods' port and a right checksum.
fn seen(mut socket: &Socket) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    let mut buffer = [0; 256];
    while let Ok(length) = socket.read(&mut buffer) {
        let packet = buffer[IP_HEADER..length].to_vec();
        let mut blank = packet.clone();
        blank[8..12].fill(0);
        assert_eq!(checksum(&blank).to_le_bytes(), packet[8..12], "the kernel made the checksum right");
        assert_eq!(packet[2..4], POD_PORT.to_be_bytes());
        let [a, b, c, d] = [buffer[12], buffer[13], buffer[14], buffer[15]];
        all.insert(Ipv4Addr::new(a, b, c, d).into());
    }
    all
}

#[test]
fn sctp_packets_get_what_the_packet_table_says() {
    let Some(table) = Table::new() else { return };
    let (_tables, _model) = program(&table.node, mk_config());
    for case in CASES.iter().filter(|case| case.to.1 == Protocol::Sctp) {
        let Expect::Pods(expected) = case.expect else {
            unreachable!("{}: only endpoints are expected", case.name)
        };
        let listeners = table.pods.each_ref().map(|pod| pod.run(raw).expect("a raw socket"));
        for listener in &listeners {
            listener.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        }
        let source = case.in_family(case.from.address());
        table.namespace(case.from).run(send(source, case)).expect("sends");
        for (listener, pod) in listeners.iter().zip(PODS) {
            let wanted = expected.iter().find(|(expected, _)| *expected == pod);
            let wanted = wanted.map(|(_, source)| assert_eq!(*source, Source::Preserved)).map(|()| source);
            assert_eq!(seen(listener), wanted.into_iter().collect(), "{} at {pod}", case.name);
        }
        let to = case.packet().to;
        let tracked = table.node.run(move || {
            let mut conntrack = Conntrack::open().expect("opens");
            let is_it =
                move |flow: &portico_netlink::conntrack::Flow| flow.original.destination.ip() == to.address;
            conntrack.flows(KernelFamily::Ip, Protocol::Sctp as u8, is_it).expect("lists")
        });
        assert_eq!(tracked.len(), usize::from(TRIES), "each association is tracked");
        assert!(tracked.iter().all(|flow| flow.reply.source.port() == POD_PORT), "{tracked:?}");
    }
}
