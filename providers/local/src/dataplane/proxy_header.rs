//! The PROXY protocol header, version 2, for TCP over IPv4 and IPv6.
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, section 2.2.
//!
//! Owns: its bytes. Leaves to others: when to send it (before the first byte of data).
//! Invariant: no TLVs; the length field is that of the addresses.

use std::net::SocketAddr;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
/// Version 2, command LOCAL: "the receiver must accept and use the real connection's addresses".
const VERSION_AND_LOCAL: u8 = 0x20;

/// The header for a client's connection to the load balancer's address.
pub fn header(client: SocketAddr, address: SocketAddr) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    match (client, address) {
        (SocketAddr::V4(client), SocketAddr::V4(address)) => {
            bytes.extend([VERSION_AND_COMMAND, 0x11, 0, 12]);
            bytes.extend(client.ip().octets());
            bytes.extend(address.ip().octets());
        }
        (SocketAddr::V6(client), SocketAddr::V6(address)) => {
            bytes.extend([VERSION_AND_COMMAND, 0x21, 0, 36]);
            bytes.extend(client.ip().octets());
            bytes.extend(address.ip().octets());
        }
        // Both ends of one socket have one family; should that ever not hold, claim nothing.
        _mixed => {
            bytes.extend([VERSION_AND_LOCAL, 0, 0, 0]);
            return bytes;
        }
    }
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(address.port().to_be_bytes());
    bytes
}

#[cfg(test)]
pub(crate) mod parser {
    //! Reads a header by the letter of the specification, apart from the writer.

    use super::*;

    /// The two addresses and how long the header was.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, usize)> {
        let rest = bytes.strip_prefix(b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A")?;
        let [0x21, family, high, low, body @ ..] = rest else { return None };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let body = body.get(..length)?;
        let wide = match family {
            0x11 => 4,
            0x21 => 16,
            _ => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
        let ip = |at: usize| {
            let bytes = body.get(at..at + wide)?;
            Some(match wide {
                4 => std::net::IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
                _ => std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
            })
        };
        let source = SocketAddr::new(ip(0)?, port(2 * wide)?);
        let destination = SocketAddr::new(ip(wide)?, port(2 * wide + 2)?);
        Some((source, destination, 16 + length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_parser_by_the_specification_reads_what_is_written(
            v6: bool, a: [u8; 16], b: [u8; 16], client_port: u16, port: u16,
        ) {
            let address = |octets: [u8; 16]| {
                if v6 { octets.into() } else { std::net::IpAddr::from([octets[0], octets[1], octets[2], octets[3]]) }
            };
            let client = SocketAddr::new(address(a), client_port);
            let frontend = SocketAddr::new(address(b), port);
            let bytes = header(client, frontend);
            prop_assert_eq!(parser::parse(&bytes), Some((client, frontend, bytes.len())));
        }
    }
}
