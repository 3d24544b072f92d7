//! The PROXY protocol, version 2, as a load balancer puts it before a connection's first byte.
//! Source: haproxy.org/download/3.0/doc/proxy-protocol.txt §2.2. Invariant: never consumes a byte after the header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of every version 2 header.
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of a connection, parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// No PROXY header.
    Absent,
    /// Could become one: read on.
    Incomplete,
    /// A header of `length` bytes; the client is absent for LOCAL connections (health checks) and unknown families.
    Present { length: usize, client: Option<SocketAddr> },
}

/// Reads the header at the start of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Header {
    let seen = bytes.len().min(SIGNATURE.len());
    if seen == 0 || bytes[..seen] != SIGNATURE[..seen] {
        return Header::Absent;
    }
    let Some(&[command, family, high, low]) = bytes.get(12..16) else {
        return Header::Incomplete;
    };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    let Some(addresses) = bytes.get(16..length) else {
        return Header::Incomplete;
    };
    let client = if command == 0x21 { client(family >> 4, addresses) } else { None };
    Header::Present { length, client }
}

fn client(family: u8, addresses: &[u8]) -> Option<SocketAddr> {
    let (ip, port): (IpAddr, &[u8]) = match family {
        1 => {
            let ip: [u8; 4] = addresses.get(..4)?.try_into().ok()?;
            (Ipv4Addr::from(ip).into(), addresses.get(8..10)?)
        }
        2 => {
            let ip: [u8; 16] = addresses.get(..16)?.try_into().ok()?;
            (Ipv6Addr::from(ip).into(), addresses.get(32..34)?)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_header() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x21, 0x11, 0, 12, 192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 0, 80]);
        bytes
    }

    #[test]
    fn an_ipv4_header_gives_the_client_and_its_own_length() {
        let mut bytes = mk_header();
        bytes.extend(b"GET /");
        let client = "192.0.2.7:40000".parse().ok();
        assert_eq!(parse(&bytes), Header::Present { length: 28, client });
    }

    #[test]
    fn every_prefix_of_a_header_asks_for_more() {
        let bytes = mk_header();
        for end in 1..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Header::Incomplete, "{end}");
        }
    }

    #[test]
    fn other_bytes_are_no_header_and_a_local_one_has_no_client() {
        assert_eq!(parse(b"GET / HTTP/1.1"), Header::Absent);
        let mut local = mk_header();
        local[12] = 0x20;
        assert_eq!(parse(&local), Header::Present { length: 28, client: None });
    }
}
